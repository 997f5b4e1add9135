// Winograd's F(2x2, 3x3) in integers: 2 x 2 outputs of a 3 x 3 convolution of stride 1 from 16
// products instead of 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
// 2016, equations 8 to 11).
//
//   Y = A^T [sum over channels of (B^T d B) * (2G g (2G)^T)] A / 4
//
//         1  0 -1  0           2  0  0            1  1  1  0
//   B^T = 0  1  1  0    2G =   1  1  1    A^T =   0  1 -1 -1
//         0 -1  1  0           1 -1  1
//         0  1  0 -1           0  0  2
//
// d: the 4 x 4 pixels that a tile of outputs reads, g: the kernel, *: value by value. With the
// doubled G all is integers, and exact. d less its zero point lies in [-255, 255], so B^T d B in
// [-1020, 1020]; |2G g (2G)^T| is at most 9 * 128: both fit int16, what a table multiplies whose
// a_bytes and b_bytes are 2. The sum is 4 Y exactly, modulo 2^32 as all sums here: Y is right where
// |4 Y| < 2^31, which drivers see to.
//
// Rows and columns of B^T but the second add up to zero, so that a zero point falls out of all
// values of B^T d B but (1, 1), which it raises fourfold.
//
// Each of the 16 positions is a plane, in row order: of inputs [tiles][channels], of weights
// [channels / kr][width][kr] as the micro-kernel reads an expanded panel, of products
// [tiles][width].
#pragma once

#include <stdint.h>

#include "kernels/gemm.h"

namespace octavo {

constexpr int kWinogradPlanes = 16;

// Tile t reads 4 x 4 pixels from x + 2 * t * pixel_stride on.
struct WinogradInputs {
  const uint8_t* x;
  int64_t row_stride, pixel_stride;  // bytes
  int64_t tiles;
  int64_t channels;  // at least least_channels
  bool is_signed;
  int32_t zero_point;
  int16_t* out;
  int64_t plane;  // values between planes
};

// One panel of stored weights; tap (i, j) is `values` values from i * row + j * tap on.
struct WinogradWeights {
  const int8_t* panel;
  int64_t row, tap;
  int64_t values;  // channels * width
  int16_t* out;
  int64_t plane;
};

// Outputs of tiles side by side.
struct WinogradOutputs {
  const int32_t* products;
  int64_t plane;
  int64_t rows, columns;  // 1 or 2 rows; columns of outputs, by twos but for the last one
  int64_t row_stride;     // of outputs, in values
  // The first output; ldc from column to column; width, n and all of the epilogue. col_init is
  // what sums start with, or null.
  GemmArgs out;
};

// Null where a table has another way to multiply.
struct WinogradKernels {
  int least_channels;
  void (*inputs)(const WinogradInputs& args);
  void (*weights)(const WinogradWeights& args);
  void (*outputs)(const WinogradOutputs& args);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class W, bool kSigned>
void winograd_inputs(const WinogradInputs& g) {
  using I = typename W::I;
  const I zero = W::set(static_cast<int16_t>(4 * g.zero_point));
  for (int64_t tile = 0; tile < g.tiles; ++tile) {
    const uint8_t* x = g.x + 2 * tile * g.pixel_stride;
    int16_t* out = g.out + tile * g.channels;
    for (int64_t c = 0; c < g.channels; c += W::kLanes) {
      if (c > g.channels - W::kLanes) c = g.channels - W::kLanes;  // some once more
      I t[4][4];
      OCTAVO_UNROLL
      for (int j = 0; j < 4; ++j) {
        I d[4];
        OCTAVO_UNROLL
        for (int i = 0; i < 4; ++i)
          d[i] = W::template widen<kSigned>(x + i * g.row_stride + j * g.pixel_stride + c);
        t[0][j] = W::sub(d[0], d[2]);
        t[1][j] = W::add(d[1], d[2]);
        t[2][j] = W::sub(d[2], d[1]);
        t[3][j] = W::sub(d[1], d[3]);
      }
      OCTAVO_UNROLL
      for (int i = 0; i < 4; ++i) {
        int16_t* row = out + 4 * i * g.plane + c;
        const I sum = W::add(t[i][1], t[i][2]);
        W::store(row, W::sub(t[i][0], t[i][2]));
        W::store(row + g.plane, i == 1 ? W::sub(sum, zero) : sum);
        W::store(row + 2 * g.plane, W::sub(t[i][2], t[i][1]));
        W::store(row + 3 * g.plane, W::sub(t[i][1], t[i][3]));
      }
    }
  }
}

// 2G times three values.
template <class W>
OCTAVO_INLINE void winograd_spread(const typename W::I (&g)[3], typename W::I (&out)[4]) {
  const typename W::I ends = W::add(g[0], g[2]);
  out[0] = W::add(g[0], g[0]);
  out[1] = W::add(ends, g[1]);
  out[2] = W::sub(ends, g[1]);
  out[3] = W::add(g[2], g[2]);
}

template <class W>
void winograd_weights(const WinogradWeights& g) {
  using I = typename W::I;
  for (int64_t at = 0; at < g.values; at += W::kLanes) {
    I t[3][4];
    OCTAVO_UNROLL
    for (int j = 0; j < 3; ++j) {
      I w[3];
      OCTAVO_UNROLL
      for (int i = 0; i < 3; ++i)
        w[i] = W::template widen<true>(
            reinterpret_cast<const uint8_t*>(g.panel + i * g.row + j * g.tap + at));
      winograd_spread<W>(w, t[j]);
    }
    OCTAVO_UNROLL
    for (int i = 0; i < 4; ++i) {
      const I row[3] = {t[0][i], t[1][i], t[2][i]};
      I u[4];
      winograd_spread<W>(row, u);
      OCTAVO_UNROLL
      for (int j = 0; j < 4; ++j) W::store(g.out + (4 * i + j) * g.plane + at, u[j]);
    }
  }
}

template <class T, int kW>
OCTAVO_INLINE void winograd_outputs_of(const WinogradOutputs& args) {
  using V = typename T::Vector;
  using I = typename T::Row;
  constexpr int kColumns = T::kVectorColumns;
  GemmArgs g = args.out;
  const int64_t value_bytes = g.output == GemmOutput::kU8 || g.output == GemmOutput::kS8 ? 1 : 4;
  char* const y = static_cast<char*>(g.c);
  for (int64_t column = 0; column < args.columns; column += 2) {
    const int32_t* products = args.products + column / 2 * kW * kColumns;
    I out[2][2][kW];
    OCTAVO_UNROLL
    for (int w = 0; w < kW; ++w) {
      I t[2][4];
      OCTAVO_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int32_t* p = products + j * args.plane + w * kColumns;
        const I p1 = V::load_i(p + 4 * args.plane), p2 = V::load_i(p + 8 * args.plane);
        t[0][j] = V::add_i(V::load_i(p), V::add_i(p1, p2));
        t[1][j] = V::sub_i(V::sub_i(p1, p2), V::load_i(p + 12 * args.plane));
      }
      const I start = g.col_init ? V::load_i(g.col_init + w * kColumns) : V::set_i(0);
      OCTAVO_UNROLL
      for (int i = 0; i < 2; ++i) {
        const I first = V::add_i(t[i][0], V::add_i(t[i][1], t[i][2]));
        const I second = V::sub_i(V::sub_i(t[i][1], t[i][2]), t[i][3]);
        out[i][0][w] = V::add_i(start, V::quarter_i(first));
        out[i][1][w] = V::add_i(start, V::quarter_i(second));
      }
    }
    for (int64_t i = 0; i < args.rows; ++i) {
      g.c = y + (i * args.row_stride + column * g.ldc) * value_bytes;
      if (column + 1 < args.columns)
        gemm_store<T, 2, kW>(g, 0, out[i]);
      else
        gemm_store<T, 1, kW>(g, 0, out[i]);
    }
  }
}

template <class T, int kW>
void winograd_outputs(const WinogradOutputs& args) {
  if constexpr (kW > 0) {
    if (args.out.width == kW * T::kVectorColumns)
      winograd_outputs_of<T, kW>(args);
    else
      winograd_outputs<T, kW - 1>(args);
  }
}

template <class Isa>
constexpr WinogradKernels winograd_kernels() {
  using T = typename Isa::U8S8;
  WinogradKernels kernels = {0, nullptr, nullptr, nullptr};
  if constexpr (sizeof(typename T::AValue) == 2 && T::kExpandedBytes == 2) {
    using W = typename Isa::Words;
    kernels.least_channels = W::kLanes;
    kernels.inputs = [](const WinogradInputs& g) {
      g.is_signed ? winograd_inputs<W, true>(g) : winograd_inputs<W, false>(g);
    };
    kernels.weights = winograd_weights<W>;
    kernels.outputs = winograd_outputs<T, T::kMaxVectors>;
  }
  return kernels;
}

}  // namespace
}  // namespace octavo
#endif
