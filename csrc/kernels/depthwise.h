// depthwise_u8s8: y[o][x][c] = epilogue(sum over i, j of in[o * stride + i][x + j][c] *
// w[i][j][c]), 8-bit operands, exact int32 accumulators, for a tile of one image. What a tap reads
// where the image ends holds the input's zero point za, so that only the start of a sum knows it:
//   start[c] = bias[c] - za * sums[c]
// Bytes are turned to the table's signedness (flip, which moves za by 128) as they are read.
//
// A segment is a run of output columns whose taps come from the same rows of pixels; a tap is an
// offset in a row, and what one block of outputs needs of it are `block` bytes, wherever they
// begin. Up to a block is read beyond the last value. Blocks lie thus:
//   slab   each pixel's channels by themselves, in_step and out_step apart; the last one of a
//          pixel may be partial
//   flat   the segment is one run of columns * C values; block p has the same channels as block
//          p + C / gcd(C, block), so that all of them share one set of weights. Wastes no lane
//
// Weights: [group][C + block - 1][taps] of the table's Weight; channels repeat behind C. A group is
// `taps` slots (4 for vpdpbusd and sdot, 2 for vpmaddwd, 1 for smlal), each one kernel position, or
// none with weight 0. In a block the interleaved bytes of a group's taps are multiplied at once.
// With by_rows group q of kernel row i holds kernel columns taps * q ...: then a row of pixels is
// interleaved once for all the output rows that read it.
//
//   rows of pixels    r0 r1 r2 r3 ..         3 x 3, stride 1: row r is interleaved, and its quads
//   output 0          w0 w1 w2               go to outputs r (weights of kernel row 0), r - 1
//   output 1             w0 w1 w2            (row 1) and r - 2 (row 2), which is then complete
//   output 2                w0 w1 w2
//
// Interleaving works within 128-bit lanes on x86: an accumulator's lanes hold channels in another
// order, which the saturating packs of the epilogue undo. Weights, starts and multipliers of a
// block are put in that order once for all its pixels.
#pragma once

#include <stdint.h>

#include "kernels/gemm.h"

namespace octavo {

struct DepthwiseSegment {
  // Tap (i, j) of output row o, column k: taps[(o * row_step + i) * kernel_w + j] + k * in_step.
  const uint8_t* const* taps;
  int64_t columns;
  int64_t out;  // first value
};

struct DepthwiseArgs {
  const DepthwiseSegment* segments;
  int64_t segment_count;
  int64_t out_rows;
  int64_t row_step;
  uint8_t flip;

  int64_t kernel_h, kernel_w;
  int64_t groups;
  bool by_rows;
  const int64_t* slots;  // kernel row * kernel_w + column of each; any where the weight is 0

  const void* weights;
  const int32_t* sums;  // C + block - 1 values
  int64_t channels;     // C
  int64_t first_channel;
  int64_t slab;  // channels to compute; 0: flat
  int32_t x_zero_point;

  int64_t in_step;   // slab: bytes
  int64_t out_step;  // slab: values
  int64_t out_row_step;

  void* local;  // local_bytes() of scratch, aligned to 64

  // As GemmArgs has it; arrays hold C + block - 1 values, of which channels repeat behind C.
  GemmOutput output;
  void* y;
  const int32_t* bias_s32;  // null: none
  const float* multiplier;
  const float* bias;
  bool activate;
  float lo, hi;
  int32_t zero_point;
};

// A padded row: `before` bytes of `fill`; `count` pixels of `bytes` bytes, x_step apart, to places
// out_step apart; `after` bytes of `fill`. Reads up to `readable` bytes from x on, writes up to a
// block beyond the end.
struct DepthwiseCopy {
  const uint8_t* x;
  int64_t x_step, bytes, count, readable;
  uint8_t* out;
  int64_t out_step, before, after;
  uint8_t fill;
};

struct DepthwiseKernels {
  int block;         // channels of a block
  int taps;          // slots of a group
  int weight_bytes;  // of one weight: 2 hold any difference of two codes
  void (*run)(const DepthwiseArgs& args);
  void (*copy)(const DepthwiseCopy& copy);
};

// Kernel sizes that the kernel interleaves row by row.
constexpr bool depthwise_by_rows(int64_t kernel_h, int64_t kernel_w) {
  return kernel_h == kernel_w && (kernel_h == 3 || kernel_h == 5);
}

// Bytes of scratch that run() needs.
constexpr int64_t depthwise_local_bytes(const DepthwiseKernels& k, int64_t groups) {
  return groups * k.taps * (k.block * k.weight_bytes + 8) + 2 * k.block * 4 + 4 * 64;
}

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// The blocks of a segment that share channels, and so weights: `count` of them, in_step and
// out_step apart.
template <class Isa>
struct DepthwiseColumn {
  using T = typename Isa::Depthwise;
  const DepthwiseArgs& a;
  const uint8_t* const* taps;
  const typename T::Weight* weights;  // [part][group][vector][lane][tap]
  const int32_t* start;               // in the order of accumulators
  const float* multiplier;            // likewise
  GemmArgs* store;                    // epilogue of sums and floats, and scratch for it
  const float* plain_multiplier;      // in the order of channels
  const float* plain_bias;
  const uint8_t** pointers;  // scratch, one a slot
  int64_t in, in_step, out, out_step, count;
  int64_t n, last_n;  // channels of a block, and of the last one
};

// The epilogue of the matrix product, for sums and floats. Called: they take their time anyway.
template <class Isa, int kPart>
__attribute__((noinline)) void depthwise_store_plain(
    const DepthwiseColumn<Isa>& c, int64_t at, int64_t n,
    typename Isa::Vector::I (&acc)[Isa::Depthwise::kVectors]) {
  using T = typename Isa::Depthwise;
  using V = typename Isa::Vector;
  typename V::I x[T::kVectors];
  for (int v = 0; v < T::kVectors; ++v) x[v] = acc[v];
  T::reorder(x);
  GemmArgs& g = *c.store;
  OCTAVO_UNROLL
  for (int v = 0; v < T::kVectors; ++v) {
    const int64_t first = T::channel(kPart, v);
    if (first >= n) continue;
    g.n = n - first < V::kLanes ? n - first : V::kLanes;
    g.c = static_cast<char*>(c.a.y) + (at + first) * 4;
    g.multiplier = c.plain_multiplier + first;
    g.bias = c.plain_bias ? c.plain_bias + first : nullptr;
    typename Isa::U8S8::Row rows[1][1] = {{x[v]}};
    gemm_store<typename Isa::U8S8, 1, 1>(g, 0, rows);
  }
}

// Sums and floats; codes; codes whose multipliers, all below 1, make no sum exceed int32: those are
// clamped as bytes, which takes one operation where floats take four.
enum class DepthwiseOutput { kPlain, kCodes, kSmallCodes };

// Where sums go. All that the loops need is held by value: stores of bytes might change what lies
// behind a pointer.
template <class Isa, int kPart, DepthwiseOutput kOutput>
struct DepthwiseStore {
  using T = typename Isa::Depthwise;
  using V = typename Isa::Vector;
  static constexpr int N = T::kVectors;
  const DepthwiseColumn<Isa>& c;
  const float* multiplier;
  uint8_t* y;
  int64_t out_step, row_step;
  int64_t last, n, last_n;
  typename V::F hi;
  typename T::Codes codes;

  explicit OCTAVO_INLINE DepthwiseStore(const DepthwiseColumn<Isa>& column)
      : c(column),
        multiplier(c.multiplier + kPart * N * V::kLanes),
        y(static_cast<uint8_t*>(c.a.y) + c.out),
        out_step(c.out_step),
        row_step(c.a.out_row_step),
        last(c.count - 1),
        n(c.n),
        last_n(c.last_n) {
    // Bounds are clamped as codes; an upper one that int32 might not reach, before.
    if (kOutput == DepthwiseOutput::kPlain) return;
    const uint8_t flip = c.a.output == GemmOutput::kU8 ? 0x80 : 0;
    const int32_t offset = c.a.zero_point - flip;
    hi = V::set(c.a.hi);
    codes = T::codes(offset, static_cast<int32_t>(__builtin_rintf(c.a.lo)) + offset,
                     static_cast<int32_t>(__builtin_rintf(c.a.hi)) + offset, flip);
  }

  // Row o of the k-th block.
  OCTAVO_INLINE void operator()(int64_t o, int64_t k, typename V::I (&acc)[N]) const {
    const int64_t at = o * row_step + k * out_step;
    const int64_t valid = k == last ? last_n : n;
    if constexpr (kOutput != DepthwiseOutput::kPlain) {
      typename V::I q[N];
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) {
        typename V::F f = V::mul(V::to_float(acc[v]), V::load(multiplier + v * V::kLanes));
        if (kOutput == DepthwiseOutput::kCodes) f = V::min(f, hi);
        q[v] = V::round(f);
      }
      if (valid >= T::kBlock)
        T::template store_codes<kPart>(y + at, q, codes);
      else
        T::template store_codes_part<kPart>(y + at, q, codes, valid);
    } else {
      depthwise_store_plain<Isa, kPart>(c, c.out + at, valid, acc);
    }
  }
};

// Any taps: each output row on its own.
template <class Isa, int kPart, DepthwiseOutput kOutput>
void depthwise_taps(const DepthwiseColumn<Isa>& c) {
  using T = typename Isa::Depthwise;
  using V = typename Isa::Vector;
  constexpr int N = T::kVectors;
  constexpr int64_t kVectorWeights = V::kLanes * T::kTaps;
  const DepthwiseArgs& a = c.a;
  const int64_t groups = a.groups, count = c.count, out_rows = a.out_rows;
  const typename T::Weight* weights = c.weights + kPart * groups * N * kVectorWeights;
  const int32_t* start = c.start + kPart * N * V::kLanes;
  const uint8_t** const pointers = c.pointers;
  const typename T::Flip flip = T::broadcast_flip(a.flip);
  const DepthwiseStore<Isa, kPart, kOutput> store(c);
  for (int64_t o = 0; o < out_rows; ++o) {
    for (int64_t s = 0; s < groups * T::kTaps; ++s)
      pointers[s] = c.taps[o * a.row_step * a.kernel_w + a.slots[s]] + c.in;
    int64_t at = 0;
    for (int64_t k = 0; k < count; ++k, at += c.in_step) {
      typename V::I acc[N], second[N];
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) {
        acc[v] = V::load_i(start + v * V::kLanes);
        second[v] = V::set_i(0);
      }
      const typename T::Weight* w = weights;
      const uint8_t* const* pointer = pointers;
      const auto group = [&](typename V::I(&sums)[N]) OCTAVO_INLINE_LAMBDA {
        const uint8_t* p[T::kTaps];
        OCTAVO_UNROLL
        for (int t = 0; t < T::kTaps; ++t) p[t] = pointer[t] + at;
        typename T::Taps x[N];
        T::template load_taps<kPart, T::kTaps>(p, flip, x);
        OCTAVO_UNROLL
        for (int v = 0; v < N; ++v) T::dot(sums[v], x[v], T::load_weights(w + v * kVectorWeights));
        w += N * kVectorWeights;
        pointer += T::kTaps;
      };
      // Two sets of accumulators hide the latency of a product.
      int64_t left = groups;
      for (; left >= 2; left -= 2) {
        group(acc);
        group(second);
      }
      if (left) group(acc);
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) acc[v] = V::add_i(acc[v], second[v]);
      store(o, k, acc);
    }
  }
}

// kH x kW taps, vertical stride kS: down the rows, each interleaved once. A step is kS rows; in a
// step of phase p the output that began d steps ago has the accumulators acc[(p + kAges - d) %
// kAges], so that none ever moves.
template <class Isa, int kPart, int kH, int kW, int kS, DepthwiseOutput kOutput>
struct DepthwiseRows {
  using T = typename Isa::Depthwise;
  using V = typename Isa::Vector;
  static constexpr int N = T::kVectors;
  static constexpr int kGroupsOfRow = (kW + T::kTaps - 1) / T::kTaps;
  static constexpr int kAges = (kH + kS - 1) / kS;
  static constexpr int64_t kVectorWeights = V::kLanes * T::kTaps;
  static constexpr int kWeights = kH * kGroupsOfRow * N;
  static constexpr bool kHoldsWeights = kWeights <= T::kWeightsHeld;
  using Acc = typename V::I[kAges][N];
  using Weights = typename T::Weights;

  const uint8_t* const* taps;
  const int32_t* start;
  const typename T::Weight* weights;
  int64_t out_rows;
  typename T::Flip flip;
  Weights held[kHoldsWeights ? kWeights : 1];
  DepthwiseStore<Isa, kPart, kOutput> store;

  explicit OCTAVO_INLINE DepthwiseRows(const DepthwiseColumn<Isa>& c)
      : taps(c.taps),
        start(c.start + kPart * N * V::kLanes),
        weights(c.weights + kPart * c.a.groups * N * kVectorWeights),
        out_rows(c.a.out_rows),
        flip(T::broadcast_flip(c.a.flip)),
        store(c) {
    if (kHoldsWeights) {
      OCTAVO_UNROLL
      for (int i = 0; i < (kHoldsWeights ? kWeights : 1); ++i) {
        held[i] = T::load_weights(weights + i * kVectorWeights);
        Isa::U8S8::keep(held[i]);
      }
    }
  }
  // Rows of step s to outputs of ages kFirst .. kLast.
  template <int kPhase, int kFirst, int kLast>
  OCTAVO_INLINE void step(int64_t s, int64_t at, Acc& acc) const {
    // GCC 12 takes equal loads of several steps together, and spills what it then has to keep.
    const int32_t* first = start;
    const typename T::Weight* w = weights;
    Isa::U8S8::keep_pointer(first);
    Isa::U8S8::keep_pointer(w);
    if constexpr (kFirst == 0) {
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) acc[kPhase][v] = V::load_i(first + v * V::kLanes);
    }
    OCTAVO_UNROLL
    for (int j = 0; j < kS; ++j) {
      if (kFirst * kS + j >= kH) continue;
      OCTAVO_UNROLL
      for (int q = 0; q < kGroupsOfRow; ++q) {
        const uint8_t* p[T::kTaps];
        OCTAVO_UNROLL
        for (int t = 0; t < T::kTaps; ++t) {
          const int column = q * T::kTaps + t < kW ? q * T::kTaps + t : kW - 1;
          p[t] = taps[(s * kS + j) * kW + column] + at;
        }
        typename T::Taps x[N];
        if ((q + 1) * T::kTaps <= kW)
          T::template load_taps<kPart, T::kTaps>(p, flip, x);
        else
          T::template load_taps<kPart, (kW - 1) % T::kTaps + 1>(p, flip, x);
        OCTAVO_UNROLL
        for (int d = kLast; d >= kFirst; --d) {
          const int i = d * kS + j;
          if (i >= kH) continue;
          OCTAVO_UNROLL
          for (int v = 0; v < N; ++v) {
            const int at_weight = (i * kGroupsOfRow + q) * N + v;
            T::dot(acc[(kPhase + kAges - d) % kAges][v], x[v],
                   kHoldsWeights ? held[kHoldsWeights ? at_weight : 0]
                                 : T::load_weights(w + at_weight * kVectorWeights));
          }
        }
      }
    }
  }
  // As above, and the eldest output is complete.
  template <int kPhase, int kFirst>
  OCTAVO_INLINE void last_step(int64_t s, int64_t at, int64_t k, Acc& acc) const {
    step<kPhase, kFirst, kAges - 1>(s, at, acc);
    store(s - (kAges - 1), k, acc[(kPhase + 1) % kAges]);
  }
  template <int kPhase>
  OCTAVO_INLINE void begin(int64_t at, Acc& acc) const {
    if constexpr (kPhase < kAges - 1) {
      step<kPhase, 0, kPhase>(kPhase, at, acc);
      begin<kPhase + 1>(at, acc);
    }
  }
  // kAges steps, of phases kAges - 1, 0, 1, ...
  template <int kStep>
  OCTAVO_INLINE void round(int64_t s, int64_t at, int64_t k, Acc& acc) const {
    if constexpr (kStep < kAges) {
      last_step<(kAges - 1 + kStep) % kAges, 0>(s + kStep, at, k, acc);
      round<kStep + 1>(s, at, k, acc);
    }
  }
  template <int kFirst>
  OCTAVO_INLINE void end(int64_t at, int64_t k, Acc& acc) const {
    if constexpr (kFirst < kAges) {
      last_step<(kAges - 2 + kFirst) % kAges, kFirst>(out_rows + kFirst - 1, at, k, acc);
      end<kFirst + 1>(at, k, acc);
    }
  }

  static void run(const DepthwiseColumn<Isa>& c) {
    const DepthwiseRows self(c);
    const int64_t count = c.count, in_step = c.in_step;
    int64_t at = c.in;
    for (int64_t k = 0; k < count; ++k, at += in_step) {
      Acc acc;
      self.template begin<0>(at, acc);
      int64_t s = kAges - 1;
      for (; (self.out_rows - s) % kAges; ++s) {
        self.template last_step<kAges - 1, 0>(s, at, k, acc);
        OCTAVO_UNROLL
        for (int d = 0; d < kAges - 1; ++d) {
          OCTAVO_UNROLL
          for (int v = 0; v < N; ++v) acc[d][v] = acc[d + 1][v];
        }
      }
      for (; s < self.out_rows; s += kAges) self.template round<0>(s, at, k, acc);
      self.template end<1>(at, k, acc);
    }
  }
};

template <class Isa, int kPart, DepthwiseOutput kOutput>
void depthwise_part(const DepthwiseColumn<Isa>& c) {
  const DepthwiseArgs& a = c.a;
  const int64_t steps = (a.kernel_h + a.row_step - 1) / a.row_step;
  if constexpr (Isa::Depthwise::kHoldsRows && kOutput != DepthwiseOutput::kCodes) {
    if (a.by_rows && a.row_step <= 2 && a.out_rows >= steps) {
      if (a.kernel_h == 3 && a.row_step == 1)
        DepthwiseRows<Isa, kPart, 3, 3, 1, kOutput>::run(c);
      else if (a.kernel_h == 3)
        DepthwiseRows<Isa, kPart, 3, 3, 2, kOutput>::run(c);
      else if (a.row_step == 1)
        DepthwiseRows<Isa, kPart, 5, 5, 1, kOutput>::run(c);
      else
        DepthwiseRows<Isa, kPart, 5, 5, 2, kOutput>::run(c);
      return;
    }
  }
  depthwise_taps<Isa, kPart, kOutput>(c);
}

template <class Isa, DepthwiseOutput kOutput>
void depthwise_parts(const DepthwiseColumn<Isa>& c) {
  depthwise_part<Isa, 0, kOutput>(c);
  if constexpr (Isa::Depthwise::kParts == 2) depthwise_part<Isa, 1, kOutput>(c);
}

// Whether all multipliers of a block are below 1.
template <class Isa>
OCTAVO_INLINE bool depthwise_below_one(const float* multiplier) {
  using V = typename Isa::Vector;
  typename V::F most = V::load(multiplier);
  for (int64_t i = V::kLanes; i < Isa::Depthwise::kBlock; i += V::kLanes)
    most = V::max(most, V::load(multiplier + i));
  return V::reduce_max(most) < 1.0f;
}

// The weights, starts and multipliers of a block in the order of accumulators.
template <class Isa, int kPart>
OCTAVO_INLINE void depthwise_order(const DepthwiseArgs& a, int64_t channel, const int32_t* bias,
                                   const float* multiplier,
                                   typename Isa::Depthwise::Weight* weights, int32_t* start,
                                   float* ordered) {
  using T = typename Isa::Depthwise;
  using V = typename Isa::Vector;
  using Weight = typename T::Weight;
  constexpr int N = T::kVectors;
  constexpr int64_t kVectorWeights = V::kLanes * T::kTaps;
  const int64_t pitch = (a.channels + T::kBlock - 1) * T::kTaps;
  const Weight* w = static_cast<const Weight*>(a.weights) + channel * T::kTaps;
  for (int64_t g = 0; g < a.groups; ++g) {
    T::template order_weights<kPart>(w + g * pitch,
                                     weights + (kPart * a.groups + g) * N * kVectorWeights);
  }
  typename V::I x[N];
  OCTAVO_UNROLL
  for (int v = 0; v < N; ++v) {
    const int64_t at = T::channel(kPart, v);
    const typename V::I share =
        V::mul_i(V::load_i(a.sums + channel + at), V::set_i(a.x_zero_point));
    x[v] = V::sub_i(bias ? V::load_i(bias + at) : V::set_i(0), share);
  }
  T::reorder(x);
  OCTAVO_UNROLL
  for (int v = 0; v < N; ++v) V::store(start + (kPart * N + v) * V::kLanes, x[v]);
  if (!multiplier) return;
  typename V::F y[N];
  OCTAVO_UNROLL
  for (int v = 0; v < N; ++v) y[v] = V::load(multiplier + T::channel(kPart, v));
  T::reorder(y);
  OCTAVO_UNROLL
  for (int v = 0; v < N; ++v) V::store(ordered + (kPart * N + v) * V::kLanes, y[v]);
}

template <class Isa>
void depthwise_run(const DepthwiseArgs& a) {
  using T = typename Isa::Depthwise;
  constexpr int64_t kBlock = T::kBlock;
  char* memory = static_cast<char*>(a.local);
  const auto take = [&](int64_t bytes) {
    char* taken = memory;
    memory += (bytes + 63) / 64 * 64;
    return static_cast<void*>(taken);
  };
  auto* start = static_cast<int32_t*>(take(kBlock * 4));
  auto* ordered = static_cast<float*>(take(kBlock * 4));
  auto* pointers = static_cast<const uint8_t**>(take(a.groups * T::kTaps * 8));
  auto* weights = reinterpret_cast<typename T::Weight*>(memory);
  const bool codes = a.output == GemmOutput::kU8 || a.output == GemmOutput::kS8;

  const float one = 1.0f;
  GemmArgs store{};
  store.output = a.output;
  store.row_scale = &one;
  store.activate = a.activate;
  store.lo = a.lo;
  store.hi = a.hi;
  // Blocks that differ in their channels.
  int64_t period = (a.slab + kBlock - 1) / kBlock;
  if (a.slab == 0) {
    int64_t common = kBlock, rest = a.channels, columns = 0;
    while (rest) {
      const int64_t next = common % rest;
      common = rest;
      rest = next;
    }
    period = a.channels / common;
    for (int64_t i = 0; i < a.segment_count; ++i) {
      if (a.segments[i].columns > columns) columns = a.segments[i].columns;
    }
    const int64_t blocks = (columns * a.channels + kBlock - 1) / kBlock;
    if (blocks < period) period = blocks;
  }
  for (int64_t p = 0; p < period; ++p) {
    const int64_t here = p * kBlock, channel = (a.first_channel + here) % a.channels;
    const int32_t* bias = a.bias_s32 ? a.bias_s32 + channel : nullptr;
    const float* multiplier = a.output == GemmOutput::kS32 ? nullptr : a.multiplier + channel;
    const float* bias_f32 = a.bias ? a.bias + channel : nullptr;
    depthwise_order<Isa, 0>(a, channel, bias, multiplier, weights, start, ordered);
    if constexpr (T::kParts == 2)
      depthwise_order<Isa, 1>(a, channel, bias, multiplier, weights, start, ordered);
    const bool small = codes && depthwise_below_one<Isa>(ordered);

    for (int64_t i = 0; i < a.segment_count; ++i) {
      const DepthwiseSegment& segment = a.segments[i];
      DepthwiseColumn<Isa> c = {
          a,          segment.taps,    weights,       start,        ordered,   &store,
          multiplier, bias_f32,        pointers,      here,         a.in_step, segment.out + here,
          a.out_step, segment.columns, a.slab - here, a.slab - here};
      if (a.slab == 0) {
        const int64_t length = segment.columns * a.channels;
        if (length <= here) continue;
        c.in_step = c.out_step = period * kBlock;
        c.count = (length - here - 1) / c.in_step + 1;
        c.n = kBlock;
        c.last_n = length - here - (c.count - 1) * c.in_step;
      }
      if (!codes)
        depthwise_parts<Isa, DepthwiseOutput::kPlain>(c);
      else if (small)
        depthwise_parts<Isa, DepthwiseOutput::kSmallCodes>(c);
      else
        depthwise_parts<Isa, DepthwiseOutput::kCodes>(c);
    }
  }
}

template <class T>
OCTAVO_INLINE void depthwise_fill(uint8_t* out, int64_t bytes, uint8_t fill) {
  for (int64_t i = 0; i < bytes; i += T::kCopyBytes) T::fill(out + i, fill);
}

// Pixels of kSteps vectors, all of which may be read.
template <class T, int kSteps>
OCTAVO_INLINE void depthwise_copy_pixels(const uint8_t* x, int64_t x_step, int64_t count,
                                         uint8_t* out, int64_t out_step) {
  for (int64_t i = 0; i < count; ++i) {
    OCTAVO_UNROLL
    for (int v = 0; v < kSteps; ++v) T::copy(x + v * T::kCopyBytes, out + v * T::kCopyBytes);
    x += x_step;
    out += out_step;
  }
}

// Pixels of which each is one move of kBytes, all of which may be read.
template <int kBytes>
OCTAVO_INLINE void depthwise_move_pixels(const uint8_t* x, int64_t x_step, int64_t count,
                                         uint8_t* out, int64_t out_step) {
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(out + i * out_step, x + i * x_step, kBytes);
}

// `bytes` bytes, and nothing read behind them.
template <class T>
void depthwise_copy_bytes(const uint8_t* x, int64_t bytes, uint8_t* out) {
  constexpr int64_t kStep = T::kCopyBytes;
  int64_t i = 0;
  if (bytes >= kStep) {
    for (; i + kStep <= bytes; i += kStep) T::copy(x + i, out + i);
    if (i < bytes) T::copy(x + bytes - kStep, out + bytes - kStep);
    return;
  }
  const auto copy8 = [&](int64_t at) {
    uint64_t word;
    __builtin_memcpy(&word, x + at, 8);
    __builtin_memcpy(out + at, &word, 8);
  };
  if (bytes >= 8) {
    for (; i + 8 <= bytes; i += 8) copy8(i);
    if (i < bytes) copy8(bytes - 8);
    return;
  }
  for (; i < bytes; ++i) out[i] = x[i];
}

template <class Isa>
void depthwise_copy(const DepthwiseCopy& c) {
  using T = typename Isa::Depthwise;
  constexpr int64_t kStep = T::kCopyBytes;
  const uint8_t* x = c.x;
  uint8_t* out = c.out;
  depthwise_fill<T>(out, c.before, c.fill);
  out += c.before;
  // Pixels behind which enough may be read for whole vectors.
  const int64_t steps = (c.bytes + kStep - 1) / kStep;
  const int64_t reach = kStep > 16 && c.bytes <= 16   ? 16
                        : kStep > 32 && c.bytes <= 32 ? 32
                                                      : steps * kStep;
  const int64_t rest = c.readable - reach;
  int64_t whole = rest < 0 ? 0 : c.count == 1 ? 1 : rest / c.x_step + 1;
  if (whole > c.count) whole = c.count;
  if (reach < kStep) {
    if (reach == 16)
      depthwise_move_pixels<16>(x, c.x_step, whole, out, c.out_step);
    else
      depthwise_move_pixels<32>(x, c.x_step, whole, out, c.out_step);
  } else if (steps == 1) {
    depthwise_copy_pixels<T, 1>(x, c.x_step, whole, out, c.out_step);
  } else if (steps == 2) {
    depthwise_copy_pixels<T, 2>(x, c.x_step, whole, out, c.out_step);
  } else if (steps == 3) {
    depthwise_copy_pixels<T, 3>(x, c.x_step, whole, out, c.out_step);
  } else {
    for (int64_t i = 0; i < whole; ++i) {
      for (int64_t v = 0; v < steps; ++v)
        T::copy(x + i * c.x_step + v * kStep, out + i * c.out_step + v * kStep);
    }
  }
  for (int64_t i = whole; i < c.count; ++i)
    depthwise_copy_bytes<T>(x + i * c.x_step, c.bytes, out + i * c.out_step);
  depthwise_fill<T>(out + c.count * c.out_step, c.after, c.fill);
}

template <class Isa>
constexpr DepthwiseKernels depthwise_kernels() {
  using T = typename Isa::Depthwise;
  static_assert(T::kBlock == T::kParts * T::kVectors * Isa::Vector::kLanes, "");
  return {T::kBlock, T::kTaps, static_cast<int>(sizeof(typename T::Weight)), depthwise_run<Isa>,
          depthwise_copy<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
