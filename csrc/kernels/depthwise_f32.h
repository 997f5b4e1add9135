// depthwise_f32 and depthwise_f16f32: y[x][c] = sum over i, j of in[x][i][j][c] * w[i][j][c] for
// part of a row of outputs, all of whose taps lie in the image. Each output is one chain of fused
// multiply-adds, i and then j ascending from +0: the same bits on every ISA.
#pragma once

#include <stdint.h>

namespace octavo {

struct DepthwiseF32Args {
  // Tap (i, j) of output x, channel c: in[x * in_step + i * tap_row + j * tap_column + c].
  const float* in;
  int64_t in_step, tap_row, tap_column;
  int64_t taps_h, taps_w;
  // float32, or float16 (binary16), which is widened as it is read; a vector may be read behind
  // the last channel.
  const void* w;
  int64_t w_row, w_column;
  float* y;
  int64_t y_step;
  int64_t columns, channels;
  const float* bias;  // null: none
  bool activate;      // clip to [lo, hi]
  float lo, hi;
};

struct DepthwiseF32Kernels {
  void (*run)(const DepthwiseF32Args& args);
  void (*run_half)(const DepthwiseF32Args& args);  // w is float16
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class V>
OCTAVO_INLINE typename V::F depthwise_f32_weights(const float* p) {
  return V::load(p);
}
template <class V>
OCTAVO_INLINE typename V::F depthwise_f32_weights(const uint16_t* p) {
  return V::load_half(p);
}

// kP outputs side by side by kN vectors of channels from `channel` on; kPart: the last n channels.
// kP * kN chains hide the latency of a multiply-add.
template <class V, class Stored, int kP, int kN, bool kPart>
OCTAVO_INLINE void depthwise_f32_tile(const DepthwiseF32Args& a, int64_t column, int64_t channel,
                                      int64_t n) {
  using F = typename V::F;
  constexpr int64_t kLanes = V::kLanes;
  const auto load = [n](const float* p)
                        OCTAVO_INLINE_LAMBDA { return kPart ? V::load_part(p, n) : V::load(p); };
  F acc[kP][kN];
  OCTAVO_UNROLL
  for (int p = 0; p < kP; ++p) {
    OCTAVO_UNROLL
    for (int v = 0; v < kN; ++v) acc[p][v] = V::set(0.0f);
  }
  const float* row = a.in + column * a.in_step + channel;
  const Stored* w_row = static_cast<const Stored*>(a.w) + channel;
  const int64_t tap = a.tap_column, w_tap = a.w_column, in_step = a.in_step;
  for (int64_t i = 0; i < a.taps_h; ++i, row += a.tap_row, w_row += a.w_row) {
    const float* x = row;
    const Stored* w = w_row;
    for (int64_t j = 0; j < a.taps_w; ++j, x += tap, w += w_tap) {
      OCTAVO_UNROLL
      for (int v = 0; v < kN; ++v) {
        const F b = depthwise_f32_weights<V>(w + v * kLanes);
        OCTAVO_UNROLL
        for (int p = 0; p < kP; ++p)
          acc[p][v] = V::fma(load(x + p * in_step + v * kLanes), b, acc[p][v]);
      }
    }
  }
  const F lo = V::set(a.lo), hi = V::set(a.hi), zero = V::set(0.0f);
  OCTAVO_UNROLL
  for (int v = 0; v < kN; ++v) {
    F bias = zero;
    if (a.bias) bias = load(a.bias + channel + v * kLanes);
    OCTAVO_UNROLL
    for (int p = 0; p < kP; ++p) {
      F y = acc[p][v];
      if (a.bias) y = V::add(y, bias);
      if (a.activate) y = V::add(V::clip(y, lo, hi), zero);
      float* at = a.y + (column + p) * a.y_step + channel + v * kLanes;
      if constexpr (kPart)
        V::store_part(at, y, n);
      else
        V::store(at, y);
    }
  }
}

template <class V, class Stored, int kP, int kN>
void depthwise_f32_columns(const DepthwiseF32Args& a, int64_t column) {
  constexpr int64_t kLanes = V::kLanes;
  int64_t c = 0;
  for (; c + kN * kLanes <= a.channels; c += kN * kLanes)
    depthwise_f32_tile<V, Stored, kP, kN, false>(a, column, c, 0);
  if constexpr (kN > 1) {
    for (; c + kLanes <= a.channels; c += kLanes)
      depthwise_f32_tile<V, Stored, kP, 1, false>(a, column, c, 0);
  }
  if (c < a.channels) depthwise_f32_tile<V, Stored, kP, 1, true>(a, column, c, a.channels - c);
}

// Where columns do not divide, the last tile begins early: some outputs are made twice.
template <class Isa, class Stored>
void depthwise_f32_run(const DepthwiseF32Args& a) {
  using V = typename Isa::Vector;
  int64_t x = 0;
  for (; x + 8 <= a.columns; x += 8) depthwise_f32_columns<V, Stored, 8, 1>(a, x);
  if (x == a.columns) return;
  if (a.columns < 4) {
    for (; x < a.columns; ++x) depthwise_f32_columns<V, Stored, 1, 4>(a, x);
    return;
  }
  for (; x + 4 <= a.columns; x += 4) depthwise_f32_columns<V, Stored, 4, 2>(a, x);
  if (x < a.columns) depthwise_f32_columns<V, Stored, 4, 2>(a, a.columns - 4);
}

template <class Isa>
constexpr DepthwiseF32Kernels depthwise_f32_kernels() {
  return {depthwise_f32_run<Isa, float>, depthwise_f32_run<Isa, uint16_t>};
}

}  // namespace
}  // namespace octavo
#endif
