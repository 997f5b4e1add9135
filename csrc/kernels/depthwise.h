// depthwise_u8s8: y[o][x][c] = epilogue(sum over i, j of in[o * stride + i][x + j][c] *
// w[i][j][c]), 8-bit operands, exact int32 accumulators, for a tile of an image that the driver has
// copied into a window. The window holds what the kernel multiplies: padding, and bytes of the
// table's signedness, so that only the start of a sum knows the input's zero point za:
//   start[c] = bias[c] - za * sums[c]
//
// Window: rows of pixels of `block`s of channels, or of C channels back to back. A tap is a byte
// offset in a row; what one block of outputs needs of a tap are `block` bytes in a row, wherever
// they begin. The outputs of a row are `runs` runs of run_length values, in_step and out_step
// apart, and a block that begins at value f of a run covers channels (first_channel + f) mod C ...:
//   slab   a run is one pixel's channels (or some of them); its last block may be partial
//   flat   one run is a whole row of width * C values; block p has the same channels as block
//          p + C / gcd(C, block), so that all of them share one set of weights
//
// Weights: [group][C + block - 1][taps] of the table's Weight; channels repeat behind C. A group is
// `taps` slots (4 for vpdpbusd and sdot, 2 for vpmaddwd, 1 for smlal), each one kernel position, or
// none with weight 0. In a block the interleaved bytes of a group's taps are multiplied at once.
// With by_rows slot taps * groups_a_row * i + j is kernel position (i, j): then a row of the window
// is interleaved once for all the output rows that read it.
//
//   rows of the window    r0 r1 r2 r3 ..         3 x 3, stride 1: row r is interleaved, and its
//   output 0              w0 w1 w2               quads go to outputs r (weights of kernel row 0),
//   output 1                 w0 w1 w2            r - 1 (row 1) and r - 2 (row 2), which is then
//   output 2                    w0 w1 w2         complete
//
// Interleaving works within 128-bit lanes on x86: an accumulator's lanes hold channels in another
// order, which the saturating packs of the epilogue undo. Weights, starts and multipliers of a
// block are put in that order once for all its pixels.
#pragma once

#include <stdint.h>

#include "kernels/gemm.h"

namespace octavo {

struct DepthwiseArgs {
  // Output row o reads rows[o * row_step + i] for kernel row i.
  const uint8_t* const* rows;
  int64_t out_rows;
  int64_t row_step;

  int64_t kernel_h;
  int64_t groups;
  bool by_rows;
  // Of each slot: kernel row, and offset in a row (0 where the weight is 0).
  const int64_t* slot_row;
  const int64_t* slot_offset;

  const void* weights;
  const int32_t* sums;  // C + block - 1 values
  int64_t channels;     // C
  int64_t first_channel;
  int32_t x_zero_point;

  int64_t runs, run_length;
  bool flat;
  int64_t in_step;   // bytes
  int64_t out_step;  // values
  int64_t out_row_step;

  void* local;  // local_bytes() of scratch, aligned to 64

  // As GemmArgs has it; arrays hold C values.
  GemmOutput output;
  void* y;
  const int32_t* bias_s32;  // null: none
  const float* multiplier;
  const float* bias;
  bool activate;
  float lo, hi;
  int32_t zero_point;
};

// `count` pixels of `bytes` bytes, x_step apart, to out, out_step apart, each byte xor flip. Reads
// up to `readable` bytes from x on, writes up to a block beyond the end of a pixel.
struct DepthwiseCopy {
  const uint8_t* x;
  int64_t x_step, bytes, count, readable;
  uint8_t* out;
  int64_t out_step;
  uint8_t flip;
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
  return groups * k.taps * (k.block * k.weight_bytes + 8) + 6 * k.block * 4 + 8 * 64;
}

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// The blocks that share channels, and so weights: `count` of them, in_step and out_step apart.
template <class Isa>
struct DepthwiseColumn {
  using T = typename Isa::Depthwise;
  const DepthwiseArgs& a;
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

// Where sums go. All that the loops need is held by value: stores of bytes might change what lies
// behind a pointer.
template <class Isa, int kPart, bool kCodes>
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
    // The lower bound is clamped as a code; the upper one before int32 could overflow.
    const uint8_t flip = c.a.output == GemmOutput::kU8 ? 0x80 : 0;
    const int32_t offset = c.a.zero_point - flip;
    hi = V::set(c.a.hi);
    if (kCodes)
      codes = T::codes(offset, static_cast<int32_t>(__builtin_rintf(c.a.lo)) + offset, flip);
  }

  // Row o of the k-th block.
  OCTAVO_INLINE void operator()(int64_t o, int64_t k, typename V::I (&acc)[N]) const {
    const int64_t at = o * row_step + k * out_step;
    const int64_t valid = k == last ? last_n : n;
    if constexpr (kCodes) {
      typename V::I q[N];
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v)
        q[v] =
            V::round(V::min(V::mul(V::to_float(acc[v]), V::load(multiplier + v * V::kLanes)), hi));
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
template <class Isa, int kPart, bool kCodes>
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
  const DepthwiseStore<Isa, kPart, kCodes> store(c);
  for (int64_t o = 0; o < out_rows; ++o) {
    for (int64_t s = 0; s < groups * T::kTaps; ++s)
      pointers[s] = a.rows[o * a.row_step + a.slot_row[s]] + a.slot_offset[s] + c.in;
    int64_t at = 0;
    for (int64_t k = 0; k < count; ++k, at += c.in_step) {
      typename V::I acc[N];
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) acc[v] = V::load_i(start + v * V::kLanes);
      const typename T::Weight* w = weights;
      const uint8_t* const* pointer = pointers;
      for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* p[T::kTaps];
        OCTAVO_UNROLL
        for (int t = 0; t < T::kTaps; ++t) p[t] = pointer[t] + at;
        typename T::Taps x[N];
        T::template load_taps<kPart, T::kTaps>(p, x);
        OCTAVO_UNROLL
        for (int v = 0; v < N; ++v) T::dot(acc[v], x[v], T::load_weights(w + v * kVectorWeights));
        w += N * kVectorWeights;
        pointer += T::kTaps;
      }
      store(o, k, acc);
    }
  }
}

// kH x kW taps, vertical stride kS: down the rows, each interleaved once. acc[d] belongs to the
// output that began d steps ago; a step is kS rows.
template <class Isa, int kPart, int kH, int kW, int kS, bool kCodes>
struct DepthwiseRows {
  using T = typename Isa::Depthwise;
  using V = typename Isa::Vector;
  static constexpr int N = T::kVectors;
  static constexpr int kGroupsOfRow = (kW + T::kTaps - 1) / T::kTaps;
  static constexpr int kAges = (kH + kS - 1) / kS;
  static constexpr int64_t kVectorWeights = V::kLanes * T::kTaps;
  using Acc = typename V::I[kAges][N];

  const uint8_t* const* rows;
  const int32_t* start;
  const typename T::Weight* weights;
  int64_t out_rows;
  int64_t offset[kGroupsOfRow * T::kTaps];
  DepthwiseStore<Isa, kPart, kCodes> store;

  explicit OCTAVO_INLINE DepthwiseRows(const DepthwiseColumn<Isa>& c)
      : rows(c.a.rows),
        start(c.start + kPart * N * V::kLanes),
        weights(c.weights + kPart * c.a.groups * N * kVectorWeights),
        out_rows(c.a.out_rows),
        store(c) {
    for (int t = 0; t < kGroupsOfRow * T::kTaps; ++t) offset[t] = c.a.slot_offset[t];
  }

  // Rows of step s to outputs of ages kFirst .. kLast.
  template <int kFirst, int kLast>
  OCTAVO_INLINE void step(int64_t s, int64_t at, Acc& acc) const {
    if constexpr (kFirst == 0) {
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) acc[0][v] = V::load_i(start + v * V::kLanes);
    }
    OCTAVO_UNROLL
    for (int j = 0; j < kS; ++j) {
      if (kFirst * kS + j >= kH) continue;
      const uint8_t* row = rows[s * kS + j] + at;
      OCTAVO_UNROLL
      for (int q = 0; q < kGroupsOfRow; ++q) {
        const uint8_t* p[T::kTaps];
        OCTAVO_UNROLL
        for (int t = 0; t < T::kTaps; ++t) p[t] = row + offset[q * T::kTaps + t];
        typename T::Taps x[N];
        if ((q + 1) * T::kTaps <= kW)
          T::template load_taps<kPart, T::kTaps>(p, x);
        else
          T::template load_taps<kPart, (kW - 1) % T::kTaps + 1>(p, x);
        OCTAVO_UNROLL
        for (int d = kFirst; d <= kLast; ++d) {
          const int i = d * kS + j;
          if (i >= kH) continue;
          OCTAVO_UNROLL
          for (int v = 0; v < N; ++v)
            T::dot(acc[d][v], x[v],
                   T::load_weights(weights + ((i * kGroupsOfRow + q) * N + v) * kVectorWeights));
        }
      }
    }
  }
  static OCTAVO_INLINE void age(Acc& acc) {
    OCTAVO_UNROLL
    for (int d = kAges - 1; d > 0; --d) {
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) acc[d][v] = acc[d - 1][v];
    }
  }
  template <int kLast>
  OCTAVO_INLINE void begin(int64_t at, Acc& acc) const {
    if constexpr (kLast < kAges - 1) {
      step<0, kLast>(kLast, at, acc);
      age(acc);
      begin<kLast + 1>(at, acc);
    }
  }
  template <int kFirst>
  OCTAVO_INLINE void end(int64_t at, int64_t k, Acc& acc) const {
    if constexpr (kFirst < kAges) {
      const int64_t s = out_rows + kFirst - 1;
      step<kFirst, kAges - 1>(s, at, acc);
      store(s - (kAges - 1), k, acc[kAges - 1]);
      age(acc);
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
      for (int64_t s = kAges - 1; s < self.out_rows; ++s) {
        self.template step<0, kAges - 1>(s, at, acc);
        self.store(s - (kAges - 1), k, acc[kAges - 1]);
        age(acc);
      }
      self.template end<1>(at, k, acc);
    }
  }
};

template <class Isa, int kPart, bool kCodes>
void depthwise_part(const DepthwiseColumn<Isa>& c) {
  const DepthwiseArgs& a = c.a;
  const int64_t steps = (a.kernel_h + a.row_step - 1) / a.row_step;
  if constexpr (Isa::Depthwise::kHoldsRows) {
    if (a.by_rows && a.row_step <= 2 && a.out_rows >= steps) {
      if (a.kernel_h == 3 && a.row_step == 1)
        DepthwiseRows<Isa, kPart, 3, 3, 1, kCodes>::run(c);
      else if (a.kernel_h == 3)
        DepthwiseRows<Isa, kPart, 3, 3, 2, kCodes>::run(c);
      else if (a.row_step == 1)
        DepthwiseRows<Isa, kPart, 5, 5, 1, kCodes>::run(c);
      else
        DepthwiseRows<Isa, kPart, 5, 5, 2, kCodes>::run(c);
      return;
    }
  }
  depthwise_taps<Isa, kPart, kCodes>(c);
}

// values[first .. first + block) of an array that repeats after `channels`.
template <class T, class X>
OCTAVO_INLINE const X* depthwise_pick(const X* values, int64_t first, int64_t channels,
                                      X* scratch) {
  if (first + T::kBlock <= channels) return values + first;
  for (int i = 0; i < T::kBlock; ++i) {
    scratch[i] = values[first];
    if (++first == channels) first = 0;
  }
  return scratch;
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
  auto* picked_bias = static_cast<int32_t*>(take(kBlock * 4));
  auto* picked_multiplier = static_cast<float*>(take(kBlock * 4));
  auto* picked_float = static_cast<float*>(take(kBlock * 4));
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
  // Blocks of a run, and how many of them differ in their channels.
  const int64_t blocks = (a.run_length + kBlock - 1) / kBlock;
  int64_t period = blocks;
  if (a.flat) {
    int64_t common = kBlock, rest = a.channels;
    while (rest) {
      const int64_t next = common % rest;
      common = rest;
      rest = next;
    }
    if (a.channels / common < period) period = a.channels / common;
  }
  for (int64_t p = 0; p < period; ++p) {
    const int64_t channel = (a.first_channel + p * kBlock) % a.channels;
    const int32_t* bias =
        a.bias_s32 ? depthwise_pick<T>(a.bias_s32, channel, a.channels, picked_bias) : nullptr;
    const float* multiplier =
        a.output == GemmOutput::kS32
            ? nullptr
            : depthwise_pick<T>(a.multiplier, channel, a.channels, picked_multiplier);
    const float* bias_f32 =
        a.bias && !codes ? depthwise_pick<T>(a.bias, channel, a.channels, picked_float) : nullptr;
    depthwise_order<Isa, 0>(a, channel, bias, multiplier, weights, start, ordered);
    if constexpr (T::kParts == 2)
      depthwise_order<Isa, 1>(a, channel, bias, multiplier, weights, start, ordered);

    const int64_t here = p * kBlock;
    DepthwiseColumn<Isa> c = {a,
                              weights,
                              start,
                              ordered,
                              &store,
                              multiplier,
                              bias_f32,
                              pointers,
                              here,
                              a.in_step,
                              here,
                              a.out_step,
                              a.runs,
                              a.run_length - here,
                              a.run_length - here};
    if (a.flat) {
      c.in_step = c.out_step = period * kBlock;
      c.count = (blocks - p + period - 1) / period;
      c.n = kBlock;
      c.last_n = a.run_length - here - (c.count - 1) * period * kBlock;
    }
    if (codes) {
      depthwise_part<Isa, 0, true>(c);
      if constexpr (T::kParts == 2) depthwise_part<Isa, 1, true>(c);
    } else {
      depthwise_part<Isa, 0, false>(c);
      if constexpr (T::kParts == 2) depthwise_part<Isa, 1, false>(c);
    }
  }
}

template <class Isa>
void depthwise_copy(const DepthwiseCopy& c) {
  using T = typename Isa::Depthwise;
  constexpr int64_t kStep = T::kCopyBytes;
  for (int64_t i = 0; i < c.count; ++i) {
    const uint8_t* x = c.x + i * c.x_step;
    uint8_t* out = c.out + i * c.out_step;
    const int64_t readable = c.readable - i * c.x_step;
    int64_t at = 0;
    for (; at < c.bytes && at + kStep <= readable; at += kStep) T::copy(x + at, out + at, c.flip);
    if (at < c.bytes && c.bytes >= kStep) {
      at = c.bytes - kStep;
      T::copy(x + at, out + at, c.flip);
      continue;
    }
    for (; at < c.bytes; ++at) out[at] = x[at] ^ c.flip;
  }
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
