// Winograd's inner product (IEEE Trans. Computers C-17, 1968) on AVX2, a whole product: is it
// faster than the vpmaddwd kernel of csrc/isa/avx2.h? See docs/speed.md.
//
//   a0 b0 + a1 b1 = (a0 + b1)(a1 + b0) - a0 a1 - b0 b1
//
// halves the multiplications: the last two terms are sums over a row of A and a column of B. The
// sums of two 8-bit values are exact in int16. A, widened once a block: [a0 a2][a1 a3] for each
// four values of a row. B, widened ahead: [b1 b3] of eight columns, then [b0 b2] of the same.
//
//   g++ -O3 -mavx2 -std=c++17 bench/inner_product.cpp -o inner_product && taskset -c 1
//   ./inner_product PYTHONPATH=... octavo kernels --isa avx2 --shape 504,512,512     # the kernel
//   to compare with
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kRows = 4, kVectors = 2, kColumns = 8 * kVectors;
constexpr int64_t kBlock = 96;

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
__m256i broadcast(const int16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return _mm256_set1_epi32(pair);
}

// GCC 12 folds loads into the additions, and spills accumulators, unless values are held.
void hold(__m256i& x) { asm("" : "+x"(x)); }

// Inlined into the loops around it, GCC 12 would spill the accumulators.
[[gnu::noinline]] void tile(const int16_t* a, int64_t k, const int16_t* b, const int32_t* row_terms,
                            const int32_t* column_terms, int32_t* c, int64_t ldc) {
  __m256i acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int w = 0; w < kVectors; ++w) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      acc[r][w] = _mm256_sub_epi32(_mm256_set1_epi32(-row_terms[r]), load(column_terms + 8 * w));
  }
  for (int64_t at = 0; at < k; at += 4, b += 4 * kColumns) {
    __m256i odd[kVectors], even[kVectors];
#pragma GCC unroll 8
    for (int w = 0; w < kVectors; ++w) {
      hold(odd[w] = load(b + 32 * w));
      hold(even[w] = load(b + 32 * w + 16));
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __m256i a_even = broadcast(a + r * k + at), a_odd = broadcast(a + r * k + at + 2);
      hold(a_even);
      hold(a_odd);
#pragma GCC unroll 8
      for (int w = 0; w < kVectors; ++w) {
        __m256i x = _mm256_add_epi16(a_even, odd[w]), y = _mm256_add_epi16(a_odd, even[w]);
        acc[r][w] = _mm256_add_epi32(acc[r][w], _mm256_madd_epi16(x, y));
        hold(acc[r][w]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int w = 0; w < kVectors; ++w)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + r * ldc + 8 * w), acc[r][w]);
  }
}

// One row to int16, [a0 a2][a1 a3]; returns the sum of a0 a1. k is a multiple of 16.
int32_t widen(const uint8_t* a, int64_t k, int16_t* out) {
  const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  __m256i sums = _mm256_setzero_si256();
  for (int64_t i = 0; i < k; i += 16) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    const __m256i wide = _mm256_cvtepu8_epi16(x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_cvtepu8_epi16(_mm_shuffle_epi8(x, order)));
    sums =
        _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_and_si256(wide, _mm256_set1_epi32(0xffff)),
                                                 _mm256_srli_epi32(wide, 16)));
  }
  int32_t lanes[8], sum = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums);
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

// m a multiple of kRows, n of kColumns, k of 16. False if a result is wrong.
bool measure(int64_t m, int64_t n, int64_t k) {
  std::vector<uint8_t> a(static_cast<size_t>(m * k));
  std::vector<int8_t> b(static_cast<size_t>(k * n));
  for (auto& x : a) x = static_cast<uint8_t>(std::rand());
  for (auto& x : b) x = static_cast<int8_t>(std::rand());
  std::vector<int16_t> packed, wide(static_cast<size_t>(std::min(m, kBlock) * k));
  std::vector<int32_t> columns(static_cast<size_t>(n)), rows(static_cast<size_t>(kBlock)),
      c(static_cast<size_t>(m * n));
  const auto at = [&](int64_t i, int64_t j) { return b[static_cast<size_t>(i * n + j)]; };
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; i += 2) columns[static_cast<size_t>(j)] += at(i, j) * at(i + 1, j);
  }
  for (int64_t j = 0; j < n; j += kColumns) {
    for (int64_t i = 0; i < k; i += 4) {
      for (int64_t v = j; v < j + kColumns; v += 8) {
        for (const int first : {1, 0}) {
          for (int64_t l = v; l < v + 8; ++l) {
            packed.push_back(at(i + first, l));
            packed.push_back(at(i + first + 2, l));
          }
        }
      }
    }
  }
  double best = 1e9;
  for (int round = 0; round < std::max<int64_t>(100, 4'000'000'000 / (m * n * k)); ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t first = 0; first < m; first += kBlock) {
      const int64_t last = std::min(m, first + kBlock);
      for (int64_t i = first; i < last; ++i)
        rows[static_cast<size_t>(i - first)] =
            widen(a.data() + i * k, k, wide.data() + (i - first) * k);
      for (int64_t j = 0; j < n; j += kColumns) {
        for (int64_t i = first; i < last; i += kRows)
          tile(wide.data() + (i - first) * k, k, packed.data() + j * k, rows.data() + (i - first),
               columns.data() + j, c.data() + i * n + j, n);
      }
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    best = std::min(best, taken.count());
  }
  bool right = true;
  for (int64_t i = 0; i < m; i += 7) {
    for (int64_t j = 0; j < n; ++j) {
      int32_t sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += a[static_cast<size_t>(i * k + l)] * at(l, j);
      right &= sum == c[static_cast<size_t>(i * n + j)];
    }
  }
  std::printf("%4lld x %4lld x %4lld  %6.1f G%s\n", static_cast<long long>(m),
              static_cast<long long>(n), static_cast<long long>(k),
              1e-9 * static_cast<double>(m * n * k) / best, right ? "" : "  WRONG");
  return right;
}

}  // namespace

int main() {
  bool right = measure(504, 512, 512);
  right &= measure(252, 256, 256);
  right &= measure(96, 768, 768);
  right &= measure(96, 3072, 768);
  right &= measure(96, 768, 3072);
  right &= measure(96, 64, 512);
  return right ? 0 : 1;
}
