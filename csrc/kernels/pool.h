// Pooling of 8-bit images with the channels of a pixel side by side.
//
//   max       the greatest value under the window
//   average   rint(float32(sum(x - xz)) * scale / float32(count)) + yz (DESIGN section 4, rule 8)
//
// A window is a grid of taps. Channels go by vectors, the last of which repeats some of the one
// before it (where there are fewer channels than in a vector, it is not full). A tile is a few
// vectors: of outputs side by side or, where there is but one output, of neighbouring channels.
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

// A few vectors of outputs, whose windows lie x_step apart.
template <int kN>
struct PoolTile {
  static constexpr int N = kN;
  const uint8_t* x;
  int64_t x_step;
  uint8_t* y;
  int64_t y_step;
  int64_t count;  // of channels in a vector

  template <class Bytes>
  OCTAVO_INLINE typename Bytes::B load(const uint8_t* tap, int v) const {
    return load_bytes<Bytes>(tap + v * x_step, count);
  }
  template <class Bytes>
  OCTAVO_INLINE void store(typename Bytes::B value, int v) const {
    store_bytes<Bytes>(y + v * y_step, value, count);
  }
};

// body(tile) for `vectors` vectors: kN at a time, then one.
template <int kN, class Body>
OCTAVO_INLINE void for_each_tile_of(PoolTile<kN> tile, int64_t vectors, const Body& body) {
  int64_t v = 0;
  for (; v + kN <= vectors; v += kN) {
    body(tile);
    tile.x += kN * tile.x_step;
    tile.y += kN * tile.y_step;
  }
  PoolTile<1> one{tile.x, tile.x_step, tile.y, tile.y_step, tile.count};
  for (; v < vectors; ++v) {
    body(one);
    one.x += one.x_step;
    one.y += one.y_step;
  }
}

template <class Bytes, int kN, class Body>
OCTAVO_INLINE void for_each_tile(const PoolArgs& args, const Body& body) {
  constexpr int64_t kStep = Bytes::kCount;
  if (args.channels < kStep) {
    for_each_tile_of<kN>({args.x, args.x_step, args.y, args.y_step, args.channels}, args.outputs,
                         body);
  } else if (args.outputs == 1) {
    for_each_tile_of<kN>({args.x, kStep, args.y, kStep, kStep}, args.channels / kStep, body);
    const int64_t last = args.channels - kStep;
    if (args.channels % kStep) body(PoolTile<1>{args.x + last, 0, args.y + last, 0, kStep});
  } else {
    for (int64_t c = 0; c < args.channels; c += kStep) {
      const int64_t at = args.channels - c < kStep ? args.channels - kStep : c;
      for_each_tile_of<kN>({args.x + at, args.x_step, args.y + at, args.y_step, kStep},
                           args.outputs, body);
    }
  }
}

template <class Bytes, bool kSigned>
void pool_max_of(const PoolArgs& args) {
  const auto pool = [&](auto tile) OCTAVO_INLINE_LAMBDA {
    constexpr int N = decltype(tile)::N;
    typename Bytes::B best[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) best[v] = tile.template load<Bytes>(tile.x, v);
    for (int64_t i = 0; i < args.rows; ++i) {
      const uint8_t* tap = tile.x + i * args.row_step;
      for (int64_t j = 0; j < args.columns; ++j, tap += args.column_step) {
        OCTAVO_UNROLL
        for (int v = 0; v < N; ++v)
          best[v] = Bytes::template max<kSigned>(best[v], tile.template load<Bytes>(tap, v));
      }
    }
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) tile.template store<Bytes>(best[v], v);
  };
  for_each_tile<Bytes, 4>(args, pool);
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

// Sums in 16 bits hold as many bytes: 257 * 255 < 2^16.
constexpr int64_t kWordTaps = 257;

// Sums of N vectors of bytes, which widen() brings to 32 bits and begins anew.
template <class Isa, int N>
struct WordSums {
  using Bytes = typename Isa::Bytes;
  typename Bytes::W words[N][2];

  OCTAVO_INLINE void clear() {
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) words[v][0] = words[v][1] = Bytes::no_words();
  }
  OCTAVO_INLINE void add(int v, typename Bytes::B x) { Bytes::add_words(words[v], x); }
};

// So few channels that a vector of 32-bit sums holds them, in two chains.
template <class V, bool kSigned>
void average_narrow(const PoolArgs& args, const AverageArgs& average) {
  const AverageOf<V> average_of(average, args.rows * args.columns, false);
  const uint8_t flip = average.y_signed ? 0 : 0x80;
  const int64_t n = args.channels;
  const auto load = [&](const uint8_t* p) OCTAVO_INLINE_LAMBDA {
    return n == V::kLanes ? V::template load_codes<kSigned>(p)
                          : V::template load_codes_part<kSigned>(p, n);
  };
  for (int64_t o = 0; o < args.outputs; ++o) {
    typename V::I sum = V::set_i(0), more = sum;
    for (int64_t i = 0; i < args.rows; ++i) {
      const uint8_t* tap = args.x + o * args.x_step + i * args.row_step;
      int64_t j = 0;
      for (; j + 2 <= args.columns; j += 2, tap += 2 * args.column_step) {
        sum = V::add_i(sum, load(tap));
        more = V::add_i(more, load(tap + args.column_step));
      }
      if (j < args.columns) sum = V::add_i(sum, load(tap));
    }
    const typename V::I codes[1] = {average_of.of(V::add_i(sum, more))};
    V::template store_codes_part<1>(args.y + o * args.y_step, codes, average.y_zero - flip, flip,
                                    n);
  }
}

template <class Isa>
void pool_average(const PoolArgs& args, const AverageArgs& average) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  if (args.channels <= V::kLanes)
    return args.is_signed ? average_narrow<V, true>(args, average)
                          : average_narrow<V, false>(args, average);
  const AverageOf<V> average_of(average, args.rows * args.columns, args.is_signed);
  const typename Bytes::B x_flip = Bytes::set(args.is_signed ? 0x80 : 0);
  const uint8_t flip = average.y_signed ? 0 : 0x80;
  const typename Bytes::B y_flip = Bytes::set(flip);
  const auto clear = [](typename V::I(&total)[4]) OCTAVO_INLINE_LAMBDA {
    for (auto& sum : total) sum = V::set_i(0);
  };
  const auto finish = [&](typename V::I(&total)[4]) OCTAVO_INLINE_LAMBDA {
    OCTAVO_UNROLL
    for (int i = 0; i < 4; ++i) total[i] = average_of.of(total[i]);
    return Bytes::exclusive_or(Bytes::narrow(total, average.y_zero - flip), y_flip);
  };
  const auto few_taps = [&](auto tile) OCTAVO_INLINE_LAMBDA {
    constexpr int N = decltype(tile)::N;
    WordSums<Isa, N> sums;
    sums.clear();
    for (int64_t i = 0; i < args.rows; ++i) {
      const uint8_t* tap = tile.x + i * args.row_step;
      for (int64_t j = 0; j < args.columns; ++j, tap += args.column_step) {
        OCTAVO_UNROLL
        for (int v = 0; v < N; ++v)
          sums.add(v, Bytes::exclusive_or(tile.template load<Bytes>(tap, v), x_flip));
      }
    }
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) {
      typename V::I total[4];
      clear(total);
      Bytes::widen_words(sums.words[v], total);
      tile.template store<Bytes>(finish(total), v);
    }
  };
  // In four chains, each of which adds at most kWordTaps taps before it is widened.
  const auto many_taps = [&](auto tile) OCTAVO_INLINE_LAMBDA {
    constexpr int N = 4;
    WordSums<Isa, N> sums;
    sums.clear();
    typename V::I total[4];
    clear(total);
    for (int64_t i = 0; i < args.rows; ++i) {
      const uint8_t* tap = tile.x + i * args.row_step;
      for (int64_t j = 0; j < args.columns;) {
        const int64_t last = args.columns - j < kWordTaps ? args.columns : j + kWordTaps;
        for (; j + N <= last; j += N) {
          OCTAVO_UNROLL
          for (int v = 0; v < N; ++v, tap += args.column_step)
            sums.add(v, Bytes::exclusive_or(tile.template load<Bytes>(tap, 0), x_flip));
        }
        for (; j < last; ++j, tap += args.column_step)
          sums.add(0, Bytes::exclusive_or(tile.template load<Bytes>(tap, 0), x_flip));
        OCTAVO_UNROLL
        for (int v = 0; v < N; ++v) Bytes::widen_words(sums.words[v], total);
        sums.clear();
      }
    }
    tile.template store<Bytes>(finish(total), 0);
  };
  if (args.rows * args.columns <= kWordTaps)
    for_each_tile<Bytes, 4>(args, few_taps);
  else
    for_each_tile<Bytes, 1>(args, many_taps);
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
