// gemm_u8s8s32: C[m][n] = epilogue(sum_k A[m][k] * B[k][n]), 8-bit operands, int32 accumulators
// that wrap modulo 2^32, one panel of packed B at a time.
//
// Zero points. With a, b as stored in the operands and za, zb their zero points,
//   sum (a - za)(b - zb) = sum a*b - za * sum b - zb * (sum a - K * za),
// so the accumulators start at
//   col_init[n] + row_a[m] * col_sum[n] + row_b[m] * col_zp[n]
// where the driver sets col_init = bias - za * sum b (za common to all rows), or row_a = -za[m] and
// col_sum = sum b (za of each row), and row_b = -(sum a - K * za), col_zp = zb. Flipping the top
// bit of every byte of A (a_flip = 0x80) turns uint8 into int8 and back, moving za by 128.
//
// A: `m` rows, `lda` values apart. A row is `segments` runs of `segment_length` values, `pitch`
// values apart, or where `offsets` says (one run for a product; one for each kernel row of a
// convolution, or each tap of a dilated one). B has each segment padded with zeros to a multiple of
// kr; of A nothing is read beyond a segment's end.
// B: one panel, [segments * ceil(segment_length / kr)][width][kr], see pack.h; `width` columns (a
// multiple of nv), of which `n` are real. b_skip values of it are passed over after each segment
// (taps that meet nothing but padding are left out).
// C: row-major, `ldc` values apart; nothing is written beyond column n.
//
// Epilogues, in the order that DESIGN section 4 fixes:
//   kS32: acc
//   kU8, kS8: rint(clamp(float32(acc) * multiplier[n], lo, hi)) + zero_point
//   kF32: float32(acc) * float32(row_scale[m * row_scale_step] * multiplier[n]), + bias[n] if any,
//         then with `activate` x < lo ? lo : x > hi ? hi : x, and -0 becomes +0; NaN stays
// All arrays over columns hold `width` values, finite ones behind column n.
#pragma once

#include <stdint.h>

namespace octavo {

enum class GemmOutput : int32_t { kS32, kU8, kS8, kF32 };

struct GemmArgs {
  const void* a;
  int64_t lda;
  int64_t m;
  int64_t segments;
  int64_t pitch;
  const int64_t* offsets;  // null: segment * pitch; else where each segment begins
  int64_t segment_length;
  uint8_t a_flip;  // 0 or 0x80; 0 where prepare_a made A, and where info.flips is false

  const void* b;
  int64_t b_skip;
  bool b_expanded;     // b was made by expand_b
  int64_t b_prefetch;  // bytes ahead of the reads of B; 0: none
  // Bytes from b to the panel after it: > 0 computes two full panels at once (m <= 2, K > 0).
  int64_t b_next;

  int64_t width;
  int64_t n;

  const int32_t* col_init;  // null: zeros
  const int32_t* row_a;     // null, or m values, with col_sum
  const int32_t* col_sum;
  const int32_t* row_b;  // null, or m values, with col_zp
  const int32_t* col_zp;

  GemmOutput output;
  void* c;
  int64_t ldc;
  const float* multiplier;
  const float* row_scale;
  int64_t row_scale_step;  // 0 or 1
  const float* bias;       // null: none
  bool activate;
  float lo, hi;
  int32_t zero_point;
  bool accumulate;  // gemm_f32.h: start from C
};

struct GemmKernels {
  void (*run)(const GemmArgs& args);
  // a_bytes == 2: writes rows of A as int16, ceil(k / kr) * kr values a row,
  // zeros behind k. Null where the micro-kernel reads bytes. A must be unit-stride along k.
  void (*prepare_a)(const uint8_t* a, int64_t lda, int64_t m, int64_t k, bool is_signed, void* out,
                    int64_t ldo);
  // b_bytes == 2: one panel of `values` stored values to int16. Null where they are one.
  void (*expand_b)(const int8_t* panel, int64_t values, void* out);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class T, int R, int kW, int kRowsHeld>
OCTAVO_INLINE void gemm_store(const GemmArgs& g, int64_t row,
                              typename T::Row (&rows)[kRowsHeld][kW]) {
  using V = typename T::Vector;
  constexpr int kColumns = T::kVectorColumns;
  const bool full = g.n == kW * kColumns;
  if constexpr (!T::kIntegers) {
    float* c = static_cast<float*>(g.c) + row * g.ldc;
    const typename V::F lo = V::set(g.lo), hi = V::set(g.hi), zero = V::set(0.0f);
    OCTAVO_UNROLL
    for (int r = 0; r < R; ++r) {
      OCTAVO_UNROLL
      for (int w = 0; w < kW; ++w) {
        typename V::F y = rows[r][w];
        if (g.bias) y = V::add(y, V::load(g.bias + w * kColumns));
        if (g.activate) y = V::add(V::clip(y, lo, hi), zero);
        if (full)
          V::store(c + r * g.ldc + w * kColumns, y);
        else
          V::store_part(c + r * g.ldc + w * kColumns, y, g.n - w * kColumns);
      }
    }
  } else {
    switch (g.output) {
      case GemmOutput::kS32: {
        int32_t* c = static_cast<int32_t*>(g.c) + row * g.ldc;
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) {
          OCTAVO_UNROLL
          for (int w = 0; w < kW; ++w) {
            if (full)
              V::store(c + r * g.ldc + w * kColumns, rows[r][w]);
            else
              V::store_part(c + r * g.ldc + w * kColumns, rows[r][w], g.n - w * kColumns);
          }
        }
        break;
      }
      case GemmOutput::kF32: {
        float* c = static_cast<float*>(g.c) + row * g.ldc;
        const typename V::F lo = V::set(g.lo), hi = V::set(g.hi), zero = V::set(0.0f);
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) {
          const typename V::F row_scale = V::set(g.row_scale[(row + r) * g.row_scale_step]);
          typename V::F y[kW];
          OCTAVO_UNROLL
          for (int w = 0; w < kW; ++w)
            y[w] = V::mul(V::to_float(rows[r][w]),
                          V::mul(row_scale, V::load(g.multiplier + w * kColumns)));
          if (g.bias) {
            OCTAVO_UNROLL
            for (int w = 0; w < kW; ++w) y[w] = V::add(y[w], V::load(g.bias + w * kColumns));
          }
          if (g.activate) {
            OCTAVO_UNROLL
            for (int w = 0; w < kW; ++w) y[w] = V::add(V::clip(y[w], lo, hi), zero);
          }
          OCTAVO_UNROLL
          for (int w = 0; w < kW; ++w) {
            if (full)
              V::store(c + r * g.ldc + w * kColumns, y[w]);
            else
              V::store_part(c + r * g.ldc + w * kColumns, y[w], g.n - w * kColumns);
          }
        }
        break;
      }
      default: {
        // Codes are brought to int8's range, and flipped back to uint8.
        const bool is_unsigned = g.output == GemmOutput::kU8;
        uint8_t* c = static_cast<uint8_t*>(g.c) + row * g.ldc;
        const typename V::F lo = V::set(g.lo), hi = V::set(g.hi);
        const uint8_t flip = is_unsigned ? 0x80 : 0;
        const int32_t offset = g.zero_point - flip;
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) {
          typename V::I q[kW];
          OCTAVO_UNROLL
          for (int w = 0; w < kW; ++w) {
            typename V::F y = V::mul(V::to_float(rows[r][w]), V::load(g.multiplier + w * kColumns));
            q[w] = V::round(V::clip(y, lo, hi));
          }
          if (full)
            V::template store_codes<kW>(c + r * g.ldc, q, offset, flip);
          else
            V::template store_codes_part<kW>(c + r * g.ldc, q, offset, flip, g.n);
        }
        break;
      }
    }
  }
}

// Where the accumulators of a tile start.
template <class T, int R, int kW, int kRowsHeld>
OCTAVO_INLINE void gemm_start(const GemmArgs& g, int64_t row,
                              typename T::Row (&rows)[kRowsHeld][kW]) {
  constexpr int kColumns = T::kVectorColumns;
  if constexpr (!T::kIntegers) {
    using V = typename T::Vector;
    const float* c = static_cast<const float*>(g.c) + row * g.ldc;
    const bool full = g.n == kW * kColumns;
    OCTAVO_UNROLL
    for (int r = 0; r < R; ++r) {
      OCTAVO_UNROLL
      for (int w = 0; w < kW; ++w) {
        const float* at = c + r * g.ldc + w * kColumns;
        rows[r][w] = !g.accumulate ? V::set(0.0f)
                     : full        ? V::load(at)
                                   : V::load_part(at, g.n - w * kColumns);
      }
    }
  } else {
    OCTAVO_UNROLL
    for (int w = 0; w < kW; ++w) {
      const typename T::Row start =
          g.col_init ? T::load_row(g.col_init + w * kColumns) : T::set_row(0);
      OCTAVO_UNROLL
      for (int r = 0; r < kRowsHeld; ++r) rows[r][w] = start;
    }
    if (g.row_a) {
      OCTAVO_UNROLL
      for (int r = 0; r < R; ++r) {
        typename T::Row coefficient = T::set_row(g.row_a[row + r]);
        OCTAVO_UNROLL
        for (int w = 0; w < kW; ++w)
          rows[r][w] =
              T::add_product(rows[r][w], coefficient, T::load_row(g.col_sum + w * kColumns));
      }
    }
    if (g.row_b) {
      OCTAVO_UNROLL
      for (int r = 0; r < R; ++r) {
        typename T::Row coefficient = T::set_row(g.row_b[row + r]);
        OCTAVO_UNROLL
        for (int w = 0; w < kW; ++w)
          rows[r][w] =
              T::add_product(rows[r][w], coefficient, T::load_row(g.col_zp + w * kColumns));
      }
    }
  }
}

// R rows by P panels of V row vectors. S accumulator sets take the k-groups in turn: few rows
// alone could not hide the latency of a dot product. An accumulator covers kAccRows rows, so a
// block of kAccRows rows by one row vector takes kAccRows accumulators. kFlips false: a_flip is 0.
template <class T, int R, int V, int S, int P, bool kStored, bool kFlips>
void gemm_tile(const GemmArgs& g, int64_t row) {
  using AValue = typename T::AValue;
  using BValue = typename T::template BValue<kStored>;
  constexpr int kAccRows = T::kAccRows;
  constexpr int kBlocks = (R + kAccRows - 1) / kAccRows;
  constexpr int kW = P * V;
  constexpr int kColumns = T::kVectorColumns;
  constexpr int kRowPointers = (R + 2) / 3;
  constexpr int64_t kGroup = static_cast<int64_t>(V) * kColumns * T::kKr;  // values of B a k-group
  constexpr int kBVectors = V * kAccRows;
  constexpr int64_t kBVector = kGroup / kBVectors;

  typename T::Acc acc[S][kBlocks][kW][kAccRows];
  typename T::Row rows[kBlocks * kAccRows][kW];
  gemm_start<T, R, kW>(g, row, rows);
  OCTAVO_UNROLL
  for (int i = 0; i < kBlocks; ++i) {
    OCTAVO_UNROLL
    for (int w = 0; w < kW; ++w) T::template split<kW>(rows, i, w, acc[0][i][w]);
  }
  OCTAVO_UNROLL
  for (int s = 1; s < S; ++s) {
    OCTAVO_UNROLL
    for (int i = 0; i < kBlocks; ++i) {
      OCTAVO_UNROLL
      for (int w = 0; w < kW; ++w) {
        OCTAVO_UNROLL
        for (int j = 0; j < kAccRows; ++j) acc[s][i][w][j] = T::zero();
      }
    }
  }

  // Rows of C a multiple of 4 kB apart share a set of L1: the writes of a tile would wait for
  // memory one by one, were the lines not fetched while the sums are formed.
  const int64_t c_bytes = g.output == GemmOutput::kU8 || g.output == GemmOutput::kS8 ? 1 : 4;
  if (g.ldc * c_bytes % 4096 == 0) {
    const char* c = static_cast<const char*>(g.c) + row * g.ldc * c_bytes;
    OCTAVO_UNROLL
    for (int r = 0; r < R; ++r) {
      for (int64_t line = 0; line < g.n * c_bytes; line += 64)
        T::prefetch_write(c + r * g.ldc * c_bytes + line);
    }
  }

  const typename T::Flip flip = T::broadcast_flip(kFlips ? g.a_flip : 0);
  const int64_t lda = g.lda;
  // A block's second row is `lda` further on; an odd last row stands in for its absent partner.
  const int64_t last_lda = R % kAccRows == 0 ? lda : 0;
  const AValue* a = static_cast<const AValue*>(g.a) + row * lda;
  const BValue* b = static_cast<const BValue*>(g.b);
  const BValue* b_panel2 = P == 2 ? b + g.b_next : b;
  const int64_t prefetch = row == 0 ? g.b_prefetch : 0;  // later tiles find the panel in L2

  auto group = [&](const AValue* const(&at)[kRowPointers], int offset, int s, const BValue* b0,
                   const BValue* b1, int tail) OCTAVO_INLINE_LAMBDA {
    typename T::BVec bv[P * kBVectors];
    OCTAVO_UNROLL
    for (int v = 0; v < kBVectors; ++v) {
      bv[v] = T::load_b(b0 + v * kBVector);
      T::keep(bv[v]);
      if (P == 2) {
        bv[kBVectors * (P - 1) + v] = T::load_b(b1 + v * kBVector);
        T::keep(bv[kBVectors * (P - 1) + v]);
      }
    }
    OCTAVO_UNROLL
    for (int i = 0; i < kBlocks; ++i) {
      const int r = i * kAccRows;
      const AValue* p = at[r / 3] + offset + (r % 3) * lda;
      const int64_t partner = i == kBlocks - 1 ? last_lda : lda;
      typename T::AVec av =
          tail ? T::load_a_tail(p, partner, tail, flip) : T::load_a(p, partner, flip);
      T::in_order(av);
      OCTAVO_UNROLL
      for (int w = 0; w < kW; ++w) {
        OCTAVO_UNROLL
        for (int j = 0; j < kAccRows; ++j) T::dot(acc[s][i][w][j], av, bv[w * kAccRows + j]);
      }
    }
  };

  const int64_t full_groups = g.segment_length / T::kKr;
  const int tail = static_cast<int>(g.segment_length % T::kKr);
  for (int64_t segment = 0; segment < g.segments; ++segment) {
    const int64_t offset = g.offsets ? g.offsets[segment] : segment * g.pitch;
    const AValue* at[kRowPointers];
    OCTAVO_UNROLL
    for (int i = 0; i < kRowPointers; ++i) at[i] = a + offset + 3 * i * lda;
    int64_t left = full_groups;
    for (; left >= S; left -= S) {
      OCTAVO_UNROLL
      for (int s = 0; s < S; ++s) {
        if (prefetch) {
          OCTAVO_UNROLL
          for (int64_t line = 0; line < kGroup * static_cast<int64_t>(sizeof(BValue)); line += 64)
            T::prefetch_read(reinterpret_cast<const char*>(b + s * kGroup) + prefetch + line);
        }
        group(at, s * T::kKr, s, b + s * kGroup, b_panel2 + s * kGroup, 0);
      }
      // GCC 12 spills accumulators that live across nested loops without this, and takes a second
      // register for A where pointers move before the last use.
      OCTAVO_UNROLL
      for (int s = 0; s < S; ++s) {
        OCTAVO_UNROLL
        for (int i = 0; i < kBlocks; ++i) {
          OCTAVO_UNROLL
          for (int w = 0; w < kW; ++w) {
            OCTAVO_UNROLL
            for (int j = 0; j < kAccRows; ++j) T::opaque(acc[s][i][w][j]);
          }
        }
      }
      b += S * kGroup;
      if (P == 2) b_panel2 += S * kGroup;
      OCTAVO_UNROLL
      for (int i = 0; i < kRowPointers; ++i) {
        at[i] += S * T::kKr;
        T::keep_pointer(at[i]);
      }
    }
    for (; left > 0; --left) {
      group(at, 0, 0, b, b_panel2, 0);
      b += kGroup;
      if (P == 2) b_panel2 += kGroup;
      OCTAVO_UNROLL
      for (int i = 0; i < kRowPointers; ++i) at[i] += T::kKr;
    }
    if (tail) {
      group(at, 0, 0, b, b_panel2, tail);
      b += kGroup;
      if (P == 2) b_panel2 += kGroup;
    }
    b += g.b_skip;
    if (P == 2) b_panel2 += g.b_skip;
  }

  OCTAVO_UNROLL
  for (int i = 0; i < kBlocks; ++i) {
    OCTAVO_UNROLL
    for (int w = 0; w < kW; ++w) {
      OCTAVO_UNROLL
      for (int j = 0; j < kAccRows; ++j) {
        OCTAVO_UNROLL
        for (int s = 1; s < S; ++s) acc[0][i][w][j] = T::add_acc(acc[0][i][w][j], acc[s][i][w][j]);
      }
      T::template join<kW>(acc[0][i][w], rows, i, w);
    }
  }
  gemm_store<T, R, kW>(g, row, rows);
}

template <class T, int V, bool kStored, bool kFlips>
struct GemmTiles {
  using Tile = void (*)(const GemmArgs&, int64_t);
  static constexpr int kMaxRows = T::kRows[V - 1];
  // Accumulator sets for R rows: enough chains to hide the latency of a dot product.
  static constexpr int sets(int rows) {
    if (!T::kIntegers) return 1;  // a float sum is one chain
    return rows * V >= T::kChains ? 1 : 2 * rows * V >= T::kChains || V > 1 ? 2 : 4;
  }
  template <int R>
  static constexpr Tile tile() {
    if constexpr (R <= kMaxRows)
      return gemm_tile<T, R, V, sets(R), 1, kStored, kFlips>;
    else
      return nullptr;
  }

  static void run(const GemmArgs& g) {
    static constexpr Tile kTiles[] = {tile<1>(),  tile<2>(),  tile<3>(),  tile<4>(), tile<5>(),
                                      tile<6>(),  tile<7>(),  tile<8>(),  tile<9>(), tile<10>(),
                                      tile<11>(), tile<12>(), tile<13>(), tile<14>()};
    // Tiles of `base` or `base + 1` units of rows: no thin tile is left at the end.
    constexpr int kUnit = T::kAccRows;
    static_assert(kMaxRows % kUnit == 0 && kMaxRows <= 14, "kTiles holds every number of rows");
    const int64_t units = (g.m + kUnit - 1) / kUnit;
    const int64_t tiles = (units * kUnit + kMaxRows - 1) / kMaxRows;
    const int64_t base = units / tiles, more = units % tiles;
    int64_t row = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      int64_t rows = (base + (t < more)) * kUnit;
      if (rows > g.m - row) rows = g.m - row;
      kTiles[rows - 1](g, row);
      row += rows;
    }
  }
};

template <class T>
constexpr bool flips() {
  if constexpr (T::kIntegers)
    return T::kFlips;
  else
    return false;
}

template <class T, int V, bool kStored>
OCTAVO_INLINE void gemm_width(const GemmArgs& g, int64_t vectors) {
  if constexpr (V > 0) {
    // By one row vector, a value of A takes part in one dot product: a flip would cost as much.
    constexpr bool kMaySkip = V == 1 && flips<T>();
    if (vectors == V && kMaySkip && g.a_flip == 0)
      GemmTiles<T, V, kStored, !kMaySkip>::run(g);
    else if (vectors == V)
      GemmTiles<T, V, kStored, true>::run(g);
    else
      gemm_width<T, V - 1, kStored>(g, vectors);
  }
}

template <class T>
void gemm_run(const GemmArgs& g) {
  if (g.m <= 0) return;
  const int64_t vectors = g.width / T::kVectorColumns;
  if (g.b_next > 0) {
    constexpr int V = T::kMaxVectors;
    if (g.m == 1)
      gemm_tile<T, 1, V, 1, 2, true, true>(g, 0);
    else
      gemm_tile<T, 2, V, 1, 2, true, true>(g, 0);
  } else if (T::kExpandedBytes == 1 || !g.b_expanded) {
    gemm_width<T, T::kMaxVectors, true>(g, vectors);
  } else {
    gemm_width<T, T::kMaxVectors, T::kExpandedBytes == 1>(g, vectors);
  }
}

template <class Isa>
void gemm_prepare_a(const uint8_t* a, int64_t lda, int64_t m, int64_t k, bool is_signed, void* out,
                    int64_t ldo) {
  using T = typename Isa::U8S8;
  for (int64_t i = 0; i < m; ++i)
    T::widen_a(a + i * lda, k, is_signed, static_cast<typename T::AValue*>(out) + i * ldo);
}

template <class Isa>
void gemm_expand_b(const int8_t* panel, int64_t values, void* out) {
  using T = typename Isa::U8S8;
  using BValue = typename T::template BValue<false>;
  constexpr int64_t kStep = T::kBVectorBytes / static_cast<int64_t>(sizeof(BValue));
  for (int64_t i = 0; i < values; i += kStep)
    T::store_b(static_cast<BValue*>(out) + i, T::load_b(panel + i));
}

template <class Isa>
constexpr GemmKernels gemm_kernels() {
  using T = typename Isa::U8S8;
  GemmKernels kernels = {gemm_run<T>, nullptr, nullptr};
  if constexpr (sizeof(typename T::AValue) == 2) kernels.prepare_a = gemm_prepare_a<Isa>;
  if constexpr (T::kExpandedBytes == 2) kernels.expand_b = gemm_expand_b<Isa>;
  return kernels;
}

}  // namespace
}  // namespace octavo
#endif
