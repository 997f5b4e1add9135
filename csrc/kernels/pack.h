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

namespace octavo {

struct PackKernels {
  // One panel. b points at its first column; rs and cs are strides in bytes along k and n.
  // col_sum (width values) is written.
  void (*pack)(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
               uint8_t flip, int8_t* panel, int32_t* col_sum);
  // The inverse: n columns of k values to b, flipped back.
  void (*unpack)(const int8_t* panel, int64_t k, int64_t n, int64_t width, uint8_t flip, uint8_t* b,
                 int64_t rs, int64_t cs);
  // Sums over `groups` k-groups of the stored values of each of `width` columns.
  void (*column_sums)(const int8_t* panel, int64_t groups, int64_t width, int32_t* sums);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class Isa>
void pack_column_sums(const int8_t* panel, int64_t groups, int64_t width, int32_t* sums) {
  using T = typename Isa::U8S8;
  constexpr int kAccRows = T::kAccRows;
  constexpr int64_t kVector = T::kVectorColumns * T::kKr;  // stored values of one row vector
  typename T::AValue ones[2 * 8];
  for (auto& x : ones) x = 1;
  const typename T::AVec one = T::load_a(ones, 8, T::broadcast_flip(0));
  for (int64_t column = 0; column < width; column += T::kVectorColumns) {
    typename T::Acc acc[kAccRows];
    for (int j = 0; j < kAccRows; ++j) acc[j] = T::zero();
    const int8_t* b = panel + column * T::kKr;
    for (int64_t g = 0; g < groups; ++g, b += width * T::kKr) {
      for (int j = 0; j < kAccRows; ++j)
        T::dot(acc[j], one, T::load_b(b + j * (kVector / kAccRows)));
    }
    typename T::Row rows[kAccRows][1];
    T::template join<1>(acc, rows, 0, 0);
    T::Vector::store(sums + column, rows[0][0]);
  }
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

template <class Isa>
void pack_panel(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
                uint8_t flip, int8_t* panel, int32_t* col_sum) {
  using T = typename Isa::U8S8;
  constexpr int kKr = T::kKr;
  const int64_t groups = (k + kKr - 1) / kKr;
  int64_t g = 0;
  if (cs == 1) {
    // Whole blocks of columns straight from their rows.
    constexpr int kStep = T::kPackColumns;
    const int64_t whole = n / kStep * kStep;
    for (; g < k / kKr; ++g) {
      const uint8_t* rows = b + g * kKr * rs;
      int8_t* out = panel + g * width * kKr;
      for (int64_t c = 0; c < whole; c += kStep) T::interleave(rows + c, rs, flip, out + c * kKr);
      if (whole < width)
        pack_edge<T>(rows + whole, rs, 1, kKr, n - whole, width - whole, flip, out + whole * kKr);
    }
  } else if (rs == 1) {
    // The bytes of a column's k-group lie side by side.
    for (; g < k / kKr; ++g) {
      const uint8_t* rows = b + g * kKr;
      int8_t* out = panel + g * width * kKr;
      for (int64_t c = 0; c < n; ++c) {
        for (int i = 0; i < kKr; ++i)
          out[c * kKr + i] = static_cast<int8_t>(rows[c * cs + i] ^ flip);
      }
      for (int64_t i = n * kKr; i < width * kKr; ++i) out[i] = 0;
    }
  }
  for (; g < groups; ++g) {
    const int64_t rows = k - g * kKr < kKr ? k - g * kKr : kKr;
    pack_edge<T>(b + g * kKr * rs, rs, cs, rows, n, width, flip, panel + g * width * kKr);
  }
  pack_column_sums<Isa>(panel, groups, width, col_sum);
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

template <class Isa>
constexpr PackKernels pack_kernels() {
  return {pack_panel<Isa>, pack_unpack<Isa>, pack_column_sums<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
