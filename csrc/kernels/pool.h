// Pooling of 8-bit images with the channels of a pixel side by side.
//
//   max       the greatest value under the window
//   average   rint(float32(sum(x - xz)) * scale / float32(count)) + yz (DESIGN section 4, rule 8)
//
// A window is a grid of taps. Channels go by vectors, the last one repeating some of the one before
// it (or, where there are fewer, in part); for each vector, a few outputs at a time:
//
//        x_step
//   o . . o . . o . . o       outputs, whose windows begin at x + o * x_step
//   |___________|
//     one tile: each tap's offset is found once
#pragma once

#include <stdint.h>

#include "kernels/bytes.h"

namespace octavo {

struct PoolArgs {
  const uint8_t* x;               // the first output's first tap
  int64_t rows, columns;          // of taps, at least 1
  int64_t row_step, column_step;  // bytes from tap to tap
  int64_t outputs, channels;
  int64_t x_step, y_step;  // bytes from output to output
  uint8_t* y;
  bool is_signed;  // x holds int8, else uint8; so does the maximum
};

struct AverageArgs {
  bool y_signed;
  int32_t x_zero, y_zero;
  float scale;  // float32(xs / ys), below 2^100
  int32_t count;
};

struct PoolKernels {
  void (*max)(const PoolArgs& args);
  // rows * columns < 2^23: sums fit int32.
  void (*average)(const PoolArgs& args, const AverageArgs& average);
  // y[i] = the average of row i of `rows` rows of `length` < 2^23 values, one after another.
  void (*average_rows)(const uint8_t* x, int64_t rows, int64_t length, bool is_signed,
                       const AverageArgs& average, uint8_t* y);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// Calls body(x, y, n, tile) for each tile: x and y of its first output, n channels of
// Bytes::kCount. `tile` is a type: its kOutputs says how many outputs there are.
template <int N>
struct PoolTile {
  static constexpr int kOutputs = N;
};
template <class Bytes, class Body>
OCTAVO_INLINE void for_each_tile(const PoolArgs& args, const Body& body) {
  constexpr int N = 4;
  constexpr int64_t kStep = Bytes::kCount;
  for (int64_t c = 0; c < args.channels; c += kStep) {
    const int64_t left = args.channels - c;
    const int64_t at = left < kStep && c > 0 ? args.channels - kStep : c;
    const int64_t n = args.channels < kStep ? args.channels : kStep;
    const uint8_t* x = args.x + at;
    uint8_t* y = args.y + at;
    int64_t o = 0;
    for (; o + N <= args.outputs; o += N, x += N * args.x_step, y += N * args.y_step)
      body(x, y, n, PoolTile<N>());
    for (; o < args.outputs; ++o, x += args.x_step, y += args.y_step) body(x, y, n, PoolTile<1>());
  }
}

template <class Bytes, bool kSigned>
void pool_max_of(const PoolArgs& args) {
  using B = typename Bytes::B;
  for_each_tile<Bytes>(
      args, [&](const uint8_t* x, uint8_t* y, int64_t n, auto tile) OCTAVO_INLINE_LAMBDA {
        constexpr int N = decltype(tile)::kOutputs;
        B best[N];
        OCTAVO_UNROLL
        for (int o = 0; o < N; ++o) best[o] = load_bytes<Bytes>(x + o * args.x_step, n);
        for (int64_t i = 0; i < args.rows; ++i) {
          const uint8_t* tap = x + i * args.row_step;
          for (int64_t j = 0; j < args.columns; ++j, tap += args.column_step) {
            OCTAVO_UNROLL
            for (int o = 0; o < N; ++o) {
              best[o] = Bytes::template max<kSigned>(best[o],
                                                     load_bytes<Bytes>(tap + o * args.x_step, n));
            }
          }
        }
        OCTAVO_UNROLL
        for (int o = 0; o < N; ++o) store_bytes<Bytes>(y + o * args.y_step, best[o], n);
      });
}

template <class Isa>
void pool_max(const PoolArgs& args) {
  args.is_signed ? pool_max_of<typename Isa::Bytes, true>(args)
                 : pool_max_of<typename Isa::Bytes, false>(args);
}

// From sums of bytes, each with its top bit flipped where x is signed, to codes less y_zero.
template <class V>
struct AverageOf {
  typename V::I zero_sum;
  typename V::F scale, count, reciprocal, most;
  bool by_reciprocal;  // a power of two: the same result sooner

  OCTAVO_INLINE AverageOf(const AverageArgs& a, int64_t taps, bool x_signed)
      : zero_sum(V::set_i(static_cast<int32_t>(taps * (a.x_zero + (x_signed ? 128 : 0))))),
        scale(V::set(a.scale)),
        count(V::set(static_cast<float>(a.count))),
        reciprocal(V::set(1.0f / static_cast<float>(a.count))),
        most(V::set(0x1p20f)),
        by_reciprocal((a.count & (a.count - 1)) == 0) {}

  OCTAVO_INLINE typename V::I of(typename V::I sum) const {
    const typename V::F v = V::mul(V::to_float(V::sub_i(sum, zero_sum)), scale);
    return V::round(V::min(by_reciprocal ? V::mul(v, reciprocal) : V::div(v, count), most));
  }
};

template <class Isa>
void pool_average(const PoolArgs& args, const AverageArgs& average) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  constexpr int64_t kWordTaps = 257;  // 257 * 255 < 2^16
  const AverageOf<V> average_of(average, args.rows * args.columns, args.is_signed);
  const typename Bytes::B x_flip = Bytes::set(args.is_signed ? 0x80 : 0);
  const uint8_t flip = average.y_signed ? 0 : 0x80;
  const typename Bytes::B y_flip = Bytes::set(flip);
  for_each_tile<Bytes>(
      args, [&](const uint8_t* x, uint8_t* y, int64_t n, auto tile) OCTAVO_INLINE_LAMBDA {
        constexpr int N = decltype(tile)::kOutputs;
        typename V::I total[N][4];
        typename Bytes::W words[N][2];
        OCTAVO_UNROLL
        for (int o = 0; o < N; ++o) {
          for (auto& sum : total[o]) sum = V::set_i(0);
          words[o][0] = words[o][1] = Bytes::no_words();
        }
        int64_t room = kWordTaps;
        for (int64_t i = 0; i < args.rows; ++i) {
          const uint8_t* tap = x + i * args.row_step;
          for (int64_t j = 0; j < args.columns; ++j, tap += args.column_step) {
            if (room == 0) {
              OCTAVO_UNROLL
              for (int o = 0; o < N; ++o) {
                Bytes::widen_words(words[o], total[o]);
                words[o][0] = words[o][1] = Bytes::no_words();
              }
              room = kWordTaps;
            }
            --room;
            OCTAVO_UNROLL
            for (int o = 0; o < N; ++o) {
              const auto codes = load_bytes<Bytes>(tap + o * args.x_step, n);
              Bytes::add_words(words[o], Bytes::exclusive_or(codes, x_flip));
            }
          }
        }
        OCTAVO_UNROLL
        for (int o = 0; o < N; ++o) {
          Bytes::widen_words(words[o], total[o]);
          OCTAVO_UNROLL
          for (int v = 0; v < 4; ++v) total[o][v] = average_of.of(total[o][v]);
          const auto codes = Bytes::narrow(total[o], average.y_zero - flip);
          store_bytes<Bytes>(y + o * args.y_step, Bytes::exclusive_or(codes, y_flip), n);
        }
      });
}

template <class Isa>
void pool_average_rows(const uint8_t* x, int64_t rows, int64_t length, bool is_signed,
                       const AverageArgs& average, uint8_t* y) {
  using V = typename Isa::Vector;
  constexpr int N = 4, kRows = N * V::kLanes;
  const AverageOf<V> average_of(average, length, is_signed);
  const uint8_t x_flip = is_signed ? 0x80 : 0, y_flip = average.y_signed ? 0 : 0x80;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t count = rows - first < kRows ? rows - first : kRows;
    int32_t sums[kRows] = {};
    for (int64_t i = 0; i < count; ++i, x += length) {
      typename V::Sum sum = V::sum_zero();
      int64_t k = 0;
      for (; k + V::kSumBytes <= length; k += V::kSumBytes) sum = V::sum_bytes(sum, x + k, x_flip);
      int64_t total = V::sum_total(sum);
      for (; k < length; ++k) total += x[k] ^ x_flip;
      sums[i] = static_cast<int32_t>(total);
    }
    typename V::I codes[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) codes[v] = average_of.of(V::load_i(sums + v * V::kLanes));
    V::template store_codes_part<N>(y + first, codes, average.y_zero - y_flip, y_flip, count);
  }
}

template <class Isa>
constexpr PoolKernels pool_kernels() {
  return {pool_max<Isa>, pool_average<Isa>, pool_average_rows<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
