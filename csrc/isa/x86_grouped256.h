// Weights in groups for the ISAs of 256 bits.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace octavo {
namespace {

struct Grouped256 {
  static constexpr int kKr = 4;
  static constexpr int kVectors = 2;
  static constexpr int kRows = 3;
  static constexpr int kUnroll = 4;  // steps, of few rows
  static constexpr int kRegisters = 16;
  using A = __m256i;

  static OCTAVO_INLINE A load_a(const int8_t* p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
  }
  static OCTAVO_INLINE __m256i load_bytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  struct NibbleWeights {
    static constexpr int kBits = 4;
    static constexpr bool kSigned = false;
    using Weights = __m256i;
    using Sum = __m256i;
    static OCTAVO_INLINE Sum zero() { return _mm256_setzero_si256(); }
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t) {
      __m256i x = load_bytes(p);
      if (kHalf) x = _mm256_srli_epi16(x, 4);
      return _mm256_and_si256(x, _mm256_set1_epi8(15));
    }
  };
};

// Without VNNI, by vpmaddubsw, which adds two products in int16. A weight of 4 bits by a code of
// at most 127 in magnitude leaves room for eight such pairs: 8 * 2 * 15 * 127 < 2^15.
struct GroupedPairs256 : Grouped256 {
  struct Nibbles : NibbleWeights {
    static constexpr int kBurst = 4;  // steps, of two pairs each
    static constexpr bool kScalesHigh = false;
    static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) {
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, a));
    }
    static OCTAVO_INLINE __m256i add(__m256i acc, Sum sum) {
      return _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    }
  };

  // |w| * sign(w) a: the activation, which is never -128, takes the sign; 2 * 128 * 127 < 2^15.
  struct Bytes {
    static constexpr int kBits = 8;
    static constexpr int kBurst = 0;
    static constexpr bool kScalesHigh = false;
    static constexpr bool kSigned = true;
    using Sum = __m256i;
    struct Weights {
      __m256i magnitude, value;
    };
    static OCTAVO_INLINE Sum zero() { return _mm256_setzero_si256(); }
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t pitch) {
      const __m256i x = load_bytes(p + kHalf * pitch);
      return {_mm256_abs_epi8(x), x};
    }
    static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) {
      const __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(a, w.value));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  };
};

}  // namespace
}  // namespace octavo
