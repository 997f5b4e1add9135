// Weights in groups for AVX512-VNNI: unsigned weights by signed activations.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace octavo {
namespace {

struct Grouped512 {
  static constexpr int kKr = 4;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 3;
  static constexpr int kUnroll = 4;  // steps, of few rows
  static constexpr int kRegisters = 32;
  using A = __m512i;

  static OCTAVO_INLINE A load_a(const int8_t* p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
  }

  struct Products {
    static constexpr int kBurst = 0;  // sums never overflow
    static constexpr bool kSigned = false;
    using Sum = __m512i;
    using Weights = __m512i;
    static OCTAVO_INLINE Sum zero() { return _mm512_setzero_si512(); }
    static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) {
      sum = _mm512_dpbusd_epi32(sum, w, a);
    }
  };

  struct Nibbles : Products {
    static constexpr int kBits = 4;
    static constexpr bool kScalesHigh = true;
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t) {
      __m512i x = _mm512_loadu_si512(p);
      if (kHalf) x = _mm512_srli_epi16(x, 4);
      return _mm512_and_si512(x, _mm512_set1_epi8(15));
    }
    // High nibbles where they are, 16 times too large: their sum is shifted instead.
    template <int kHalf>
    static OCTAVO_INLINE Weights load_scaled(const uint8_t* p, int64_t) {
      return _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(kHalf ? -16 : 15));
    }
    static OCTAVO_INLINE Sum unscale(Sum x) { return _mm512_srai_epi32(x, 4); }
  };

  struct Bytes : Products {
    static constexpr int kBits = 8;
    static constexpr bool kScalesHigh = false;
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t pitch) {
      return _mm512_loadu_si512(p + kHalf * pitch);
    }
  };
};

}  // namespace
}  // namespace octavo
