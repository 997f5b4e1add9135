// 32 bytes in AVX2.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "isa/shuffle_lookup.h"

namespace octavo {
namespace {

struct Bytes256 {
  static constexpr int kCount = 32;
  static constexpr bool kHasMasks = false;  // a part costs no more than the whole
  using B = __m256i;
  using F = __m256;
  using I = __m256i;
  using Lookup = ShuffleLookup<Bytes256>;

  static OCTAVO_INLINE B load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static OCTAVO_INLINE B load_part(const uint8_t* p, int64_t n) {
    if (n < 16) return _mm256_setr_m128i(load16_part(p, n), _mm_setzero_si128());
    return _mm256_setr_m128i(load_lane(p), load16_part(p + 16, n - 16));
  }
  static OCTAVO_INLINE void store(uint8_t* p, B x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static OCTAVO_INLINE void store_part(uint8_t* p, B x, int64_t n) {
    __m128i rest = _mm256_castsi256_si128(x);
    if (n >= 16) {
      store_lane(p, rest);
      rest = _mm256_extracti128_si256(x, 1);
      p += 16;
      n -= 16;
    }
    if (n >= 8) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), rest);
      rest = _mm_unpackhi_epi64(rest, rest);
      p += 8;
      n -= 8;
    }
    auto bytes = static_cast<uint64_t>(_mm_cvtsi128_si64(rest));
    for (; n > 0; --n, bytes >>= 8) *p++ = static_cast<uint8_t>(bytes);
  }
  // n < 8 bytes as a number; where there are several, by two loads that overlap.
  static OCTAVO_INLINE uint64_t load8_part(const uint8_t* p, int64_t n) {
    if (n >= 4) {
      uint32_t first, last;
      __builtin_memcpy(&first, p, 4);
      __builtin_memcpy(&last, p + n - 4, 4);
      return first | static_cast<uint64_t>(last) << (8 * (n - 4));
    }
    uint64_t x = 0;
    for (int64_t i = 0; i < n; ++i) x |= static_cast<uint64_t>(p[i]) << (8 * i);
    return x;
  }
  static OCTAVO_INLINE __m128i load16_part(const uint8_t* p, int64_t n) {
    uint64_t first = 0, rest = 0;
    if (n >= 16) return load_lane(p);
    if (n >= 8) {
      __builtin_memcpy(&first, p, 8);
      rest = load8_part(p + 8, n - 8);
    } else {
      first = load8_part(p, n);
    }
    return _mm_set_epi64x(static_cast<int64_t>(rest), static_cast<int64_t>(first));
  }
  static OCTAVO_INLINE B set(uint8_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  static OCTAVO_INLINE B exclusive_or(B a, B b) { return _mm256_xor_si256(a, b); }
  static OCTAVO_INLINE B subtract_saturated(B a, B b) { return _mm256_subs_epi8(a, b); }
  template <bool kSigned>
  static OCTAVO_INLINE B min(B a, B b) {
    return kSigned ? _mm256_min_epi8(a, b) : _mm256_min_epu8(a, b);
  }
  template <bool kSigned>
  static OCTAVO_INLINE B max(B a, B b) {
    return kSigned ? _mm256_max_epi8(a, b) : _mm256_max_epu8(a, b);
  }
  static OCTAVO_INLINE B repeat16(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static OCTAVO_INLINE B shuffle16(B table, B x) { return _mm256_shuffle_epi8(table, x); }

  // As x86_bytes512.h has them: bytes 4 v .. 4 v + 3 of each 128-bit lane make vector v.
  static OCTAVO_INLINE F center(int32_t zero_point) {
    return _mm256_set1_ps(0x1p23f + static_cast<float>(zero_point));
  }
  static OCTAVO_INLINE void centered(B x, F center, F (&y)[4]) {
    const __m256i magic = _mm256_set1_epi32(0x4B000000);
    const __m256i zeros = _mm256_set1_epi32(static_cast<int32_t>(0x80808000));
    OCTAVO_UNROLL
    for (int v = 0; v < 4; ++v) {
      const int at = 4 * v;
      const __m256i first =
          _mm256_setr_epi32(at, at + 1, at + 2, at + 3, at, at + 1, at + 2, at + 3);
      const __m256i wide = _mm256_shuffle_epi8(x, _mm256_or_si256(first, zeros));
      y[v] = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_or_si256(wide, magic)), center);
    }
  }
  static OCTAVO_INLINE B narrow(const I (&x)[4], int32_t offset) {
    const __m256i add = _mm256_set1_epi16(static_cast<int16_t>(offset));
    return _mm256_packs_epi16(_mm256_adds_epi16(_mm256_packs_epi32(x[0], x[1]), add),
                              _mm256_adds_epi16(_mm256_packs_epi32(x[2], x[3]), add));
  }

  // Sums of bytes in 16 bits, then in 32: in narrow()'s order.
  using W = __m256i;
  static OCTAVO_INLINE void add_words(W (&sum)[2], B x) {
    const __m256i zero = _mm256_setzero_si256();
    sum[0] = _mm256_add_epi16(sum[0], _mm256_unpacklo_epi8(x, zero));
    sum[1] = _mm256_add_epi16(sum[1], _mm256_unpackhi_epi8(x, zero));
  }
  static OCTAVO_INLINE void widen_words(const W (&sum)[2], I (&total)[4]) {
    const __m256i zero = _mm256_setzero_si256();
    total[0] = _mm256_add_epi32(total[0], _mm256_unpacklo_epi16(sum[0], zero));
    total[1] = _mm256_add_epi32(total[1], _mm256_unpackhi_epi16(sum[0], zero));
    total[2] = _mm256_add_epi32(total[2], _mm256_unpacklo_epi16(sum[1], zero));
    total[3] = _mm256_add_epi32(total[3], _mm256_unpackhi_epi16(sum[1], zero));
  }
  static OCTAVO_INLINE W no_words() { return _mm256_setzero_si256(); }

  // Lanes of 16 bytes: bytes of a and b in turn, from the lower or upper halves of their lanes.
  static constexpr int kLanes16 = 2;
  static OCTAVO_INLINE B interleave_low(B a, B b) { return _mm256_unpacklo_epi8(a, b); }
  static OCTAVO_INLINE B interleave_high(B a, B b) { return _mm256_unpackhi_epi8(a, b); }
  // The same of words of 32 bits.
  static OCTAVO_INLINE B interleave_words_low(B a, B b) { return _mm256_unpacklo_epi32(a, b); }
  static OCTAVO_INLINE B interleave_words_high(B a, B b) { return _mm256_unpackhi_epi32(a, b); }
  // The first `lanes` lanes, `stride` bytes apart.
  static OCTAVO_INLINE void store_lanes(uint8_t* p, int64_t stride, B x, int64_t lanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(x));
    if (lanes > 1)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + stride), _mm256_extracti128_si256(x, 1));
  }

  // 16 bytes of a lane's size, and those that `index` names.
  using Lane = __m128i;
  static OCTAVO_INLINE Lane load_lane(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static OCTAVO_INLINE void store_lane(uint8_t* p, Lane x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
  }
  static OCTAVO_INLINE Lane pick(Lane x, Lane index) { return _mm_shuffle_epi8(x, index); }
};

}  // namespace
}  // namespace octavo
