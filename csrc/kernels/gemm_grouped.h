// gemm_grouped: C = A * W^T with weights of 4 or 8 bits in groups along K, float32 in and out
// (DESIGN section 4, rule 7). A row of A becomes symmetric int8 codes a with one scale; then
//   acc_g = sum over group g of a (w - zero_g), exact in int32,
//   s = +0; for g ascending: s = fma(float32(acc_g), scale_g, s),
//   C = s * row_scale, + bias if any, with `activate` clipped to [lo, hi] (-0 becomes +0).
// The zero point enters through the group's sum of activations: acc_g starts at
// -zero_g * sum over g of a.
//
// A (written by prepare): int8, each group padded with zeros to whole steps of 2 kr values.
// W: panels of `columns` columns, the last one narrower (whole row vectors). A panel is a block for
// each group, one after another:
//
//     zero points   width bytes, where they differ (4 bits: unsigned)
//     weights       for each step of 2 kr values of K, `width` columns:
//                     4 bits: [col 0: kr bytes][col 1] ..., k-group 2i in the low nibbles,
//                             k-group 2i + 1 in the high ones
//                     8 bits: k-group 2i as [col 0: kr bytes][col 1] ..., then k-group 2i + 1
//     scales        width float32, or float16 (binary16), widened as they are read
//
// each part padded to a multiple of 4 bytes. Codes are stored unsigned (signed ones with 8 or 128
// added); those of 8 bits signed (unsigned ones less 128) where `signed8`.
#pragma once

#include <stdint.h>

#include "kernels/quantize.h"

namespace octavo {

struct GemmGroupedArgs {
  const int8_t* a;
  int64_t lda;
  int64_t m;
  const int32_t* row_start;  // [m][groups], where accumulators start (has_zero: times the zero)
  const float* row_scale;

  const uint8_t* b;    // one panel
  int64_t b_prefetch;  // bytes ahead of the reads of B; 0: none
  int64_t groups;
  int64_t steps, last_steps;  // of a group, of the last one
  int64_t width, n;           // columns of the panel, and those that are real
  int bits;
  bool is_half, has_zero;

  float* c;
  int64_t ldc;
  const float* bias;  // null: none; finite behind column n
  bool activate;
  float lo, hi;
};

struct GroupedRows {
  const float* x;
  int64_t ldx, m, k, group_size;
  int64_t padded_group;  // values that a group takes in `q`
  int32_t factor;        // row_start = factor * sum of the group's codes
  int8_t* q;
  int64_t ldq;
  float* scale;  // NaN, and codes 0, where a row holds NaN or infinity
  int32_t* row_start;
  int64_t groups;
};

struct GemmGroupedKernels {
  int kr, columns, vector;  // values of a k-group, columns of a panel, of a vector
  bool signed8;
  void (*prepare)(const GroupedRows& rows);
  void (*run)(const GemmGroupedArgs& args);
};

// Bytes of one part of a block.
inline int64_t grouped_part(int64_t bytes) { return (bytes + 3) / 4 * 4; }

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <int kHalf>
struct GroupedHalf {
  static constexpr int value = kHalf;
};

// R rows by V row vectors from vector `first` on. S sets of sums, one for each half of a step, hide
// the latency of few rows. Float sums stay in registers where there are enough.
template <class Isa, class B, int R, int V>
void grouped_tile(const GemmGroupedArgs& g, int64_t row, int64_t first) {
  using T = typename Isa::Grouped;
  using Tile = typename Isa::U8S8;
  using Vector = typename Isa::Vector;
  constexpr int kLanes = Vector::kLanes;
  constexpr int kRowPointers = (R + 2) / 3;
  constexpr int kFree = T::kRegisters * 3 / 4;
  constexpr int S = B::kBurst == 0 && 3 * R * V <= kFree ? 2 : 1;
  constexpr bool kScaled = S == 2 && B::kScalesHigh;
  constexpr bool kInRegisters = (S + 1) * R * V <= kFree;
  constexpr int64_t kStepBytes = int64_t{2} * V * kLanes * T::kKr * B::kBits / 8;

  // A full panel's width is known here.
  const int64_t width = V == T::kVectors ? V * kLanes : g.width;
  const int64_t row_bytes = width * T::kKr, step_bytes = 2 * row_bytes * B::kBits / 8;
  const int64_t zero_bytes = g.has_zero ? grouped_part(width) : 0;
  const int64_t scale_bytes = grouped_part(width * (g.is_half ? 2 : 4));
  const int64_t column = first * kLanes;
  // Held here: a store of floats might change what `g` refers to.
  const int64_t lda = g.lda, groups = g.groups;
  const bool is_half = g.is_half, has_zero = g.has_zero;
  const int64_t prefetch = row == 0 ? g.b_prefetch : 0;  // later tiles find the panel in L2

  typename Vector::F sum[kInRegisters ? R : 1][V];
  alignas(64) float held[kInRegisters ? 1 : R * V * kLanes];
  float* held_at = held;
  OCTAVO_UNROLL
  for (int r = 0; r < R; ++r) {
    OCTAVO_UNROLL
    for (int w = 0; w < V; ++w) {
      if constexpr (kInRegisters)
        sum[r][w] = Vector::set(0.0f);
      else
        Vector::store(held_at + (r * V + w) * kLanes, Vector::set(0.0f));
    }
  }

  const int8_t* at[kRowPointers];
  OCTAVO_UNROLL
  for (int i = 0; i < kRowPointers; ++i) at[i] = g.a + (row + 3 * i) * lda;
  const uint8_t* b = g.b;
  const int32_t* starts = g.row_start + row * groups;
  typename B::Sum part[S][R][V];
  typename Vector::I acc[R][V];
  auto half_step = [&](auto half, const uint8_t* p, int offset) OCTAVO_INLINE_LAMBDA {
    constexpr int kHalf = decltype(half)::value;
    typename B::Weights x[V];
    OCTAVO_UNROLL
    for (int w = 0; w < V; ++w) {
      const uint8_t* from = p + w * kLanes * T::kKr;
      if constexpr (kScaled)
        x[w] = B::template load_scaled<kHalf>(from, row_bytes);
      else
        x[w] = B::template load<kHalf>(from, row_bytes);
    }
    OCTAVO_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename T::A a = T::load_a(at[r / 3] + (r % 3) * lda + offset + kHalf * T::kKr);
      OCTAVO_UNROLL
      for (int w = 0; w < V; ++w) B::dot(part[S == 2 ? kHalf : 0][r][w], a, x[w]);
    }
  };
  constexpr int kUnroll = R > 2 && T::kUnroll > 2 ? 2 : T::kUnroll;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t steps = group == groups - 1 ? g.last_steps : g.steps;
    OCTAVO_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename Vector::I start = Vector::set_i(starts[r * groups + group]);
      OCTAVO_UNROLL
      for (int w = 0; w < V; ++w) {
        if constexpr (B::kBurst == 0)
          part[0][r][w] = start;
        else
          acc[r][w] = start;
        if constexpr (S == 2) part[1][r][w] = B::zero();
      }
    }
    if (has_zero) {
      OCTAVO_UNROLL
      for (int w = 0; w < V; ++w) {
        const typename Vector::I zero =
            Vector::template load_codes<B::kSigned>(b + column + w * kLanes);
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) {
          if constexpr (B::kBurst == 0)
            part[0][r][w] = Vector::mul_i(part[0][r][w], zero);
          else
            acc[r][w] = Vector::mul_i(acc[r][w], zero);
        }
      }
    }

    const uint8_t* weights = b + zero_bytes + column * T::kKr;
    for (int64_t left = steps; left > 0;) {
      int64_t todo = B::kBurst > 0 && left > B::kBurst ? B::kBurst : left;
      left -= todo;
      if constexpr (B::kBurst > 0) {
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) {
          OCTAVO_UNROLL
          for (int w = 0; w < V; ++w) part[0][r][w] = B::zero();
        }
      }
      for (; todo >= kUnroll; todo -= kUnroll) {
        OCTAVO_UNROLL
        for (int u = 0; u < kUnroll; ++u) {
          if (prefetch) {
            OCTAVO_UNROLL
            for (int64_t line = 0; line < kStepBytes; line += 64)
              Tile::prefetch_read(reinterpret_cast<const char*>(weights + u * step_bytes) +
                                  prefetch + line);
          }
          half_step(GroupedHalf<0>{}, weights + u * step_bytes, u * 2 * T::kKr);
          half_step(GroupedHalf<1>{}, weights + u * step_bytes, u * 2 * T::kKr);
        }
        // As in gemm.h: else GCC 12 spills.
        OCTAVO_UNROLL
        for (int s = 0; s < S; ++s) {
          OCTAVO_UNROLL
          for (int r = 0; r < R; ++r) {
            OCTAVO_UNROLL
            for (int w = 0; w < V; ++w) Tile::opaque(part[s][r][w]);
          }
        }
        weights += kUnroll * step_bytes;
        OCTAVO_UNROLL
        for (int i = 0; i < kRowPointers; ++i) {
          at[i] += kUnroll * 2 * T::kKr;
          Tile::keep_pointer(at[i]);
        }
      }
      for (; todo > 0; --todo) {
        half_step(GroupedHalf<0>{}, weights, 0);
        half_step(GroupedHalf<1>{}, weights, 0);
        weights += step_bytes;
        OCTAVO_UNROLL
        for (int i = 0; i < kRowPointers; ++i) at[i] += 2 * T::kKr;
      }
      if constexpr (B::kBurst > 0) {
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) {
          OCTAVO_UNROLL
          for (int w = 0; w < V; ++w) acc[r][w] = B::add(acc[r][w], part[0][r][w]);
        }
      }
    }
    if constexpr (B::kBurst == 0) {
      OCTAVO_UNROLL
      for (int r = 0; r < R; ++r) {
        OCTAVO_UNROLL
        for (int w = 0; w < V; ++w) {
          if constexpr (kScaled)
            acc[r][w] = Vector::add_i(part[0][r][w], B::unscale(part[1][r][w]));
          else if constexpr (S == 2)
            acc[r][w] = Vector::add_i(part[0][r][w], part[1][r][w]);
          else
            acc[r][w] = part[0][r][w];
        }
      }
    }

    const uint8_t* scales = b + zero_bytes + grouped_part(steps * step_bytes);
    b = scales + scale_bytes;
    if constexpr (!kInRegisters) Tile::keep_pointer(held_at);
    OCTAVO_UNROLL
    for (int w = 0; w < V; ++w) {
      const int64_t c = column + w * kLanes;
      const typename Vector::F scale =
          is_half ? Vector::load_half(reinterpret_cast<const uint16_t*>(scales) + c)
                  : Vector::load(reinterpret_cast<const float*>(scales) + c);
      OCTAVO_UNROLL
      for (int r = 0; r < R; ++r) {
        const typename Vector::F value = Vector::to_float(acc[r][w]);
        if constexpr (kInRegisters) {
          sum[r][w] = Vector::fma(value, scale, sum[r][w]);
        } else {
          float* s = held_at + (r * V + w) * kLanes;
          Vector::store(s, Vector::fma(value, scale, Vector::load(s)));
        }
      }
    }
  }

  const typename Vector::F lo = Vector::set(g.lo), hi = Vector::set(g.hi), none = Vector::set(0.0f);
  OCTAVO_UNROLL
  for (int r = 0; r < R; ++r) {
    const typename Vector::F row_scale = Vector::set(g.row_scale[row + r]);
    float* c = g.c + (row + r) * g.ldc;
    OCTAVO_UNROLL
    for (int w = 0; w < V; ++w) {
      const int64_t n = column + w * kLanes;
      typename Vector::F y;
      if constexpr (kInRegisters)
        y = sum[r][w];
      else
        y = Vector::load(held_at + (r * V + w) * kLanes);
      y = Vector::mul(y, row_scale);
      if (g.bias) y = Vector::add(y, Vector::load(g.bias + n));
      if (g.activate) y = Vector::add(Vector::clip(y, lo, hi), none);
      if (n + kLanes <= g.n)
        Vector::store(c + n, y);
      else
        Vector::store_part(c + n, y, g.n - n);
    }
  }
}

// All rows of V row vectors: tiles of kRows rows, whose sums fit the registers; none has one row
// alone but where there is no other.
template <class Isa, class B, int V>
void grouped_rows(const GemmGroupedArgs& g, int64_t first) {
  constexpr int kRows = Isa::Grouped::kRows;
  static_assert(kRows == 2 || kRows == 3, "the switch knows every number of rows");
  for (int64_t row = 0; row < g.m;) {
    const int64_t left = g.m - row, rows = left <= kRows + 1 ? left : kRows;
    switch (rows) {
      case 1:
        grouped_tile<Isa, B, 1, V>(g, row, first);
        break;
      case 2:
        grouped_tile<Isa, B, 2, V>(g, row, first);
        break;
      case 3:
        grouped_tile<Isa, B, 3, V>(g, row, first);
        break;
      default:
        grouped_tile<Isa, B, kRows + 1, V>(g, row, first);
        break;
    }
    row += rows;
  }
}

template <class Isa, class B>
void grouped_bits(const GemmGroupedArgs& g) {
  constexpr int V = Isa::Grouped::kVectors;
  const int64_t vectors = g.width / Isa::Vector::kLanes;
  if (vectors == V) {
    grouped_rows<Isa, B, V>(g, 0);
  } else {
    for (int64_t v = 0; v < vectors; ++v) grouped_rows<Isa, B, 1>(g, v);
  }
}

template <class Isa>
void grouped_run(const GemmGroupedArgs& g) {
  if (g.m <= 0) return;
  if (g.bits == 4)
    grouped_bits<Isa, typename Isa::Grouped::Nibbles>(g);
  else
    grouped_bits<Isa, typename Isa::Grouped::Bytes>(g);
}

// Codes of n values by one scale, at most 127 in magnitude as x / scale is.
template <class V>
OCTAVO_INLINE void quantize_symmetric(const float* x, int64_t n, const Quotient<V>* quotient,
                                      float scale, int8_t* q) {
  auto* codes = reinterpret_cast<uint8_t*>(q);
  if (!quotient) return quantize_all<V>(x, n, scale, 0, true, codes);
  constexpr int N = 4;
  for_each_step<N * V::kLanes>(n, [&](int64_t at, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::F value[N];
    load_values<V, N>(x + at, count, value);
    typename V::I rounded[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) rounded[v] = V::round(quotient->of(value[v]));
    store_codes<V, N>(codes + at, rounded, 0, 0, count);
  });
}

template <class Isa>
void grouped_prepare(const GroupedRows& g) {
  using V = typename Isa::Vector;
  const bool is_one_run = g.padded_group == g.group_size;
  const int64_t run = is_one_run ? g.k : g.group_size;
  for (int64_t i = 0; i < g.m; ++i) {
    const float* x = g.x + i * g.ldx;
    int8_t* q = g.q + i * g.ldq;
    float least = 0.0f, greatest = 0.0f, not_finite = 0.0f;
    if (g.k > 0) range_of<V, true>(x, g.k, &least, &greatest, &not_finite);
    const float top = -least > greatest ? -least : greatest;
    const bool is_finite = not_finite == 0.0f;
    float scale = top / 127.0f;
    scale = scale > 0x1p-126f ? scale : 0x1p-126f;
    if (top == 0.0f) scale = 1.0f;
    const bool fits = is_finite && Quotient<V>::fits(scale);
    const Quotient<V> quotient = Quotient<V>::of_scales(V::set(fits ? scale : 1.0f));
    int8_t* out = q;
    for (int64_t k = 0; k < g.k; k += run) {
      const int64_t n = g.k - k < run ? g.k - k : run;
      if (is_finite)
        quantize_symmetric<V>(x + k, n, fits ? &quotient : nullptr, scale, out);
      else
        __builtin_memset(out, 0, static_cast<uint64_t>(n));
      if (is_one_run) {
        out += n;
      } else {
        for (int64_t j = n; j < g.padded_group; ++j) out[j] = 0;
        out += g.padded_group;
      }
    }
    for (; out < q + g.groups * g.padded_group; ++out) *out = 0;
    g.scale[i] = is_finite ? scale : __builtin_nanf("");
    for (int64_t j = 0; j < g.groups; ++j) {
      int32_t sum = 0;
      for (int64_t k = 0; k < g.padded_group; ++k) sum += q[j * g.padded_group + k];
      g.row_start[i * g.groups + j] = g.factor * sum;
    }
  }
}

template <class Isa>
constexpr GemmGroupedKernels gemm_grouped_kernels() {
  using T = typename Isa::Grouped;
  return {T::kKr,
          T::kVectors * Isa::Vector::kLanes,
          Isa::Vector::kLanes,
          T::Bytes::kSigned,
          grouped_prepare<Isa>,
          grouped_run<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
