// pack: B (K x N, 8 bits, any strides) to panels of nr columns, and back.
//
//   panel p = columns [p*nr, p*nr + width), width = nr, but in the last panel N - p*nr rounded up
//   to a multiple of nv:
//
//          col 0        col 1              col width-1
//     k=0  [b00 .. b(kr-1)0][b01 .. b(kr-1)1] ... [...]      one row = one k-group, width*kr bytes
//     k=kr [ .. ]
//     ...  ceil(K/kr) rows; zeros where k >= K or the column >= N
//
// uint8 is stored as b ^ 0x80 (b - 128): stored values are always int8. The sums over k of the
// stored values of each column come with it.
#pragma once

#include <stdint.h>

#include "kernels/bytes.h"

namespace octavo {

struct PackKernels {
  // Panels one after another, `width` columns in all (only the last may be narrower than nr), of
  // which n are real. b points at the first column; rs and cs are strides in bytes along k and n.
  // col_sum (width values) is written.
  void (*pack)(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
               uint8_t flip, int8_t* panel, int32_t* col_sum);
  // The inverse: n columns of k values to b, flipped back.
  void (*unpack)(const int8_t* panel, int64_t k, int64_t n, int64_t width, uint8_t flip, uint8_t* b,
                 int64_t rs, int64_t cs);
  // Adds to `sums` what `groups` k-groups of stored values sum to in each of `width` columns.
  void (*column_sums)(const int8_t* panel, int64_t groups, int64_t width, int32_t* sums);
  // out[c * out_stride + r] = in[r * in_stride + c] (channels to or from the last axis), of bytes
  // and of 32-bit values.
  void (*transpose)(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t cols, uint8_t* out,
                    int64_t out_stride);
  void (*transpose_words)(const uint32_t* in, int64_t in_stride, int64_t rows, int64_t cols,
                          uint32_t* out, int64_t out_stride);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// Adds the sums of V row vectors of columns; V chains hide the latency of the dot product.
template <class T, int V>
OCTAVO_INLINE void add_column_sums(const int8_t* b, int64_t groups, int64_t width, int32_t* sums) {
  constexpr int kAccRows = T::kAccRows;
  constexpr int64_t kBVector = T::kVectorColumns * T::kKr / kAccRows;
  typename T::AValue ones[2 * 8];
  for (auto& x : ones) x = 1;
  const typename T::AVec one = T::load_a(ones, 8, T::broadcast_flip(0));
  typename T::Acc acc[V][kAccRows];
  for (int v = 0; v < V; ++v) {
    for (int j = 0; j < kAccRows; ++j) acc[v][j] = T::zero();
  }
  for (int64_t g = 0; g < groups; ++g, b += width * T::kKr) {
    OCTAVO_UNROLL
    for (int v = 0; v < V; ++v) {
      OCTAVO_UNROLL
      for (int j = 0; j < kAccRows; ++j)
        T::dot(acc[v][j], one, T::load_b(b + (v * kAccRows + j) * kBVector));
    }
  }
  for (int v = 0; v < V; ++v) {
    typename T::Row rows[kAccRows][1];
    T::template join<1>(acc[v], rows, 0, 0);
    int32_t* at = sums + v * T::kVectorColumns;
    T::Vector::store(at, T::Vector::add_i(rows[0][0], T::Vector::load_i(at)));
  }
}

template <class Isa>
void pack_column_sums(const int8_t* panel, int64_t groups, int64_t width, int32_t* sums) {
  using T = typename Isa::U8S8;
  constexpr int64_t kColumns = T::kVectorColumns;
  int64_t c = 0;
  for (; c + 4 * kColumns <= width; c += 4 * kColumns)
    add_column_sums<T, 4>(panel + c * T::kKr, groups, width, sums + c);
  for (; c < width; c += kColumns)
    add_column_sums<T, 1>(panel + c * T::kKr, groups, width, sums + c);
}

// One k-group of a panel from anywhere: `rows` rows of `n` columns, zeros around them.
template <class T>
void pack_edge(const uint8_t* b, int64_t rs, int64_t cs, int64_t rows, int64_t n, int64_t width,
               uint8_t flip, int8_t* out) {
  constexpr int kStep = T::kPackColumns;
  uint8_t block[T::kKr * kStep];
  int8_t packed[T::kKr * kStep];
  for (int64_t column = 0; column < width; column += kStep) {
    const int64_t valid = n - column < kStep ? n - column : kStep;
    for (int64_t r = 0; r < T::kKr; ++r) {
      uint8_t* row = block + r * kStep;
      const uint8_t* source = b + r * rs + column * cs;
      int64_t c = 0;
      if (r < rows) {
        if (cs == 1 && valid > 0) {
          __builtin_memcpy(row, source, static_cast<uint64_t>(valid));
          c = valid;
        } else {
          for (; c < valid; ++c) row[c] = source[c * cs];
        }
      }
      for (; c < kStep; ++c) row[c] = flip;  // flips to zero
    }
    T::interleave(block, kStep, flip, packed);
    const int64_t columns = width - column < kStep ? width - column : kStep;
    __builtin_memcpy(out + column * T::kKr, packed, static_cast<uint64_t>(columns * T::kKr));
  }
}

// Whole k-groups [g, last) of rows that lie one after another.
template <class T>
void pack_rows(const uint8_t* b, int64_t rs, int64_t n, int64_t width, uint8_t flip, int64_t g,
               int64_t last, int8_t* panel) {
  constexpr int kStep = T::kPackColumns;
  const int64_t whole = n / kStep * kStep;
  for (; g < last; ++g) {
    const uint8_t* rows = b + g * T::kKr * rs;
    int8_t* out = panel + g * width * T::kKr;
    for (int64_t c = 0; c < whole; c += kStep) T::interleave(rows + c, rs, flip, out + c * T::kKr);
    if (whole < width)
      pack_edge<T>(rows + whole, rs, 1, T::kKr, n - whole, width - whole, flip,
                   out + whole * T::kKr);
  }
}

// Whole k-groups [g, last) of columns that lie one after another: the bytes of a column's group
// are neighbours already.
template <class T>
void pack_columns(const uint8_t* b, int64_t cs, int64_t n, int64_t width, uint8_t flip, int64_t g,
                  int64_t last, int8_t* panel) {
  for (; g < last; ++g) {
    const uint8_t* rows = b + g * T::kKr;
    int8_t* out = panel + g * width * T::kKr;
    for (int64_t c = 0; c < n; ++c) {
      for (int i = 0; i < T::kKr; ++i)
        out[c * T::kKr + i] = static_cast<int8_t>(rows[c * cs + i] ^ flip);
    }
    for (int64_t i = n * T::kKr; i < width * T::kKr; ++i) out[i] = 0;
  }
}

// k-groups [first, last) of one panel.
template <class T>
void pack_block(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
                uint8_t flip, int64_t first, int64_t last, int8_t* panel) {
  constexpr int kKr = T::kKr;
  const int64_t whole = last < k / kKr ? last : k / kKr;
  int64_t g = first;
  if (cs == 1 && g < whole) {
    pack_rows<T>(b, rs, n, width, flip, g, whole, panel);
    g = whole;
  } else if (rs == 1 && g < whole) {
    pack_columns<T>(b, cs, n, width, flip, g, whole, panel);
    g = whole;
  }
  for (; g < last; ++g) {
    const int64_t rows = k - g * kKr < kKr ? k - g * kKr : kKr;
    pack_edge<T>(b + g * kKr * rs, rs, cs, rows, n, width, flip, panel + g * width * kKr);
  }
}

template <class Isa>
void pack_panels(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
                 uint8_t flip, int8_t* panels, int32_t* col_sum) {
  using T = typename Isa::U8S8;
  constexpr int64_t kNr = T::kMaxVectors * T::kVectorColumns;
  // Where rows lie one after another, a few rows of all panels at a time, so that whole lines of
  // them are read; where columns do, a panel at a time.
  constexpr int64_t kChunk = 16;
  const int64_t groups = (k + T::kKr - 1) / T::kKr;
  const int64_t columns = cs == 1 ? width : kNr;
  for (int64_t c = 0; c < width; ++c) col_sum[c] = 0;
  for (int64_t from = 0; from < width; from += columns) {
    for (int64_t first = 0; first < groups; first += kChunk) {
      const int64_t last = groups - first < kChunk ? groups : first + kChunk;
      for (int64_t c = from; c < width && c < from + columns; c += kNr) {
        const int64_t panel_width = width - c < kNr ? width - c : kNr;
        int8_t* panel = panels + c * groups * T::kKr;
        pack_block<T>(b + c * cs, rs, cs, k, n - c < kNr ? n - c : kNr, panel_width, flip, first,
                      last, panel);
        pack_column_sums<Isa>(panel + first * panel_width * T::kKr, last - first, panel_width,
                              col_sum + c);
      }
    }
  }
}

template <class Isa>
void pack_unpack(const int8_t* panel, int64_t k, int64_t n, int64_t width, uint8_t flip, uint8_t* b,
                 int64_t rs, int64_t cs) {
  constexpr int kKr = Isa::U8S8::kKr;
  for (int64_t row = 0; row < k; ++row) {
    const int8_t* group = panel + row / kKr * width * kKr + row % kKr;
    for (int64_t column = 0; column < n; ++column)
      b[row * rs + column * cs] = static_cast<uint8_t>(group[column * kKr]) ^ flip;
  }
}

// 16 bytes of rows (16 rows of bytes, 4 of words) of n <= Bytes::kCount bytes to columns of 16
// bytes, out_stride values apart. Round by round, the rows of the lower half are interleaved with
// those of the upper one: that moves the top bit of the row's number below the column's, whose top
// bit becomes the row's lowest; once all bits of a row have moved the two have changed places.
template <class Bytes, class Value>
OCTAVO_INLINE void transpose16(const Value* in, int64_t in_stride, int64_t n, Value* out,
                               int64_t out_stride) {
  constexpr int kRows = 16 / sizeof(Value);
  typename Bytes::B a[kRows], b[kRows];
  OCTAVO_UNROLL
  for (int i = 0; i < kRows; ++i)
    a[i] = load_bytes<Bytes>(reinterpret_cast<const uint8_t*>(in + i * in_stride), n);
  OCTAVO_UNROLL
  for (int moved = 1; moved < kRows; moved *= 2) {
    OCTAVO_UNROLL
    for (int i = 0; i < kRows / 2; ++i) {
      if constexpr (sizeof(Value) == 1) {
        b[2 * i] = Bytes::interleave_low(a[i], a[i + kRows / 2]);
        b[2 * i + 1] = Bytes::interleave_high(a[i], a[i + kRows / 2]);
      } else {
        b[2 * i] = Bytes::interleave_words_low(a[i], a[i + kRows / 2]);
        b[2 * i + 1] = Bytes::interleave_words_high(a[i], a[i + kRows / 2]);
      }
    }
    OCTAVO_UNROLL
    for (int i = 0; i < kRows; ++i) a[i] = b[i];
  }
  // Lane l of a[i] is column kRows * l + i.
  const int64_t columns = n / static_cast<int64_t>(sizeof(Value));
  const int64_t lane_stride = 16 * out_stride;  // in bytes: kRows columns
  OCTAVO_UNROLL
  for (int i = 0; i < kRows; ++i) {
    auto* column = reinterpret_cast<uint8_t*>(out + i * out_stride);
    if (n == Bytes::kCount)
      Bytes::store_lanes(column, lane_stride, a[i], Bytes::kLanes16);
    else if (i < columns)
      Bytes::store_lanes(column, lane_stride, a[i], (columns - i + kRows - 1) / kRows);
  }
}

template <class Isa, class Value>
void pack_transpose(const Value* in, int64_t in_stride, int64_t rows, int64_t cols, Value* out,
                    int64_t out_stride) {
  using Bytes = typename Isa::Bytes;
  constexpr int64_t kSize = sizeof(Value), kRows = 16 / kSize;
  if constexpr (Bytes::kLanes16 > 0) {
    constexpr int64_t kStep = Bytes::kCount / kSize;
    if (rows >= kRows && (cols >= kStep || Bytes::kHasMasks)) {
      const int64_t n = cols < kStep ? cols : kStep;
      // The last rows and columns are done with some from before them.
      for (int64_t c = 0; c < cols; c += kStep) {
        const int64_t column = c + n < cols ? c : cols - n;
        for (int64_t r = 0; r < rows; r += kRows) {
          const int64_t row = r + kRows < rows ? r : rows - kRows;
          const Value* from = in + row * in_stride + column;
          Value* to = out + column * out_stride + row;
          if (n == kStep)
            transpose16<Bytes>(from, in_stride, Bytes::kCount, to, out_stride);
          else
            transpose16<Bytes>(from, in_stride, n * kSize, to, out_stride);
        }
      }
      return;
    }
  }
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t last = first + kRows < rows ? first + kRows : rows;
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = first; r < last; ++r) out[c * out_stride + r] = in[r * in_stride + c];
    }
  }
}

template <class Isa>
constexpr PackKernels pack_kernels() {
  return {pack_panels<Isa>, pack_unpack<Isa>, pack_column_sums<Isa>, pack_transpose<Isa, uint8_t>,
          pack_transpose<Isa, uint32_t>};
}

}  // namespace
}  // namespace octavo
#endif
