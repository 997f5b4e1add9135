// Bilinear interpolation of 8-bit images with the channels of a pixel side by side (DESIGN section
// 4, rule 8): along a row into floats, then between two such rows into codes.
//
//   lerp_columns  f = a + (b - a) * t of codes less their zero point, a and b from one row
//   lerp_rows     rint((f + (g - f) * t) * multiplier) + zero_point
//
// Rows of floats hold, for each pixel, its channels padded to a multiple of what the ISA takes at
// once (`channel_step`), in the ISA's own order.
#pragma once

#include <stdint.h>

#include "kernels/bytes.h"

namespace octavo {

struct LerpColumnsArgs {
  const uint8_t* x;
  bool is_signed;
  int32_t zero_point;
  int64_t channels;
  int64_t outputs;
  const int64_t* left;  // of each output pixel: bytes from x to the pixels that it lies between
  const int64_t* right;
  const float* t;  // how far from left to right, in [0, 1)
  float* y;        // outputs * padded channels
};

struct LerpRowsArgs {
  const float* upper;
  const float* lower;
  float t;
  int64_t channels, outputs;
  uint8_t* y;
  int64_t y_step;  // bytes from pixel to pixel
  bool is_signed;
  int32_t zero_point;
  float multiplier;  // float32(xs / ys), below 2^100
};

struct ResizeKernels {
  int channel_step;
  void (*lerp_columns)(const LerpColumnsArgs& args);
  void (*lerp_rows)(const LerpRowsArgs& args);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class V>
OCTAVO_INLINE typename V::F lerp(typename V::F a, typename V::F b, typename V::F t) {
  return V::add(a, V::mul(V::sub(b, a), t));
}

template <class Isa>
void resize_lerp_columns(const LerpColumnsArgs& args) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  constexpr int64_t kStep = Bytes::kCount;
  const typename Bytes::B flip = Bytes::set(args.is_signed ? 0x80 : 0);
  const typename V::F center = Bytes::center(args.zero_point + (args.is_signed ? 128 : 0));
  float* y = args.y;
  for (int64_t o = 0; o < args.outputs; ++o) {
    const typename V::F t = V::set(args.t[o]);
    for (int64_t c = 0; c < args.channels; c += kStep, y += kStep) {
      const int64_t n = args.channels - c < kStep ? args.channels - c : kStep;
      typename V::F a[4], b[4];
      const auto left = load_bytes<Bytes>(args.x + args.left[o] + c, n);
      const auto right = load_bytes<Bytes>(args.x + args.right[o] + c, n);
      Bytes::centered(Bytes::exclusive_or(left, flip), center, a);
      Bytes::centered(Bytes::exclusive_or(right, flip), center, b);
      OCTAVO_UNROLL
      for (int v = 0; v < 4; ++v) V::store(y + v * V::kLanes, lerp<V>(a[v], b[v], t));
    }
  }
}

template <class Isa>
void resize_lerp_rows(const LerpRowsArgs& args) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  constexpr int64_t kStep = Bytes::kCount;
  const typename V::F t = V::set(args.t), scale = V::set(args.multiplier), most = V::set(0x1p20f);
  const uint8_t flip = args.is_signed ? 0 : 0x80;
  const typename Bytes::B y_flip = Bytes::set(flip);
  const float *upper = args.upper, *lower = args.lower;
  for (int64_t o = 0; o < args.outputs; ++o) {
    uint8_t* y = args.y + o * args.y_step;
    for (int64_t c = 0; c < args.channels; c += kStep, upper += kStep, lower += kStep) {
      const int64_t n = args.channels - c < kStep ? args.channels - c : kStep;
      typename V::I codes[4];
      OCTAVO_UNROLL
      for (int v = 0; v < 4; ++v) {
        const typename V::F value =
            lerp<V>(V::load(upper + v * V::kLanes), V::load(lower + v * V::kLanes), t);
        codes[v] = V::round(V::min(V::mul(value, scale), most));
      }
      const auto bytes = Bytes::narrow(codes, args.zero_point - flip);
      store_bytes<Bytes>(y + c, Bytes::exclusive_or(bytes, y_flip), n);
    }
  }
}

template <class Isa>
constexpr ResizeKernels resize_kernels() {
  return {Isa::Bytes::kCount, resize_lerp_columns<Isa>, resize_lerp_rows<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
