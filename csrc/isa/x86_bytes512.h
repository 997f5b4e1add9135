// 64 bytes in AVX-512.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "isa/shuffle_lookup.h"

namespace octavo {
namespace {

struct Bytes512 {
  static constexpr int kCount = 64;
  static constexpr bool kHasMasks = true;  // a part costs no more than the whole
  using B = __m512i;
  using F = __m512;
  using I = __m512i;
  using Lookup = ShuffleLookup<Bytes512>;

  static OCTAVO_INLINE __mmask64 first(int64_t n) {
    return n >= 64 ? ~0ull : n <= 0 ? 0 : ~0ull >> (64 - n);
  }
  static OCTAVO_INLINE B load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static OCTAVO_INLINE B load_part(const uint8_t* p, int64_t n) {
    return _mm512_maskz_loadu_epi8(first(n), p);
  }
  static OCTAVO_INLINE void store(uint8_t* p, B x) { _mm512_storeu_si512(p, x); }
  static OCTAVO_INLINE void store_part(uint8_t* p, B x, int64_t n) {
    _mm512_mask_storeu_epi8(p, first(n), x);
  }
  static OCTAVO_INLINE B set(uint8_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  static OCTAVO_INLINE B exclusive_or(B a, B b) { return _mm512_xor_si512(a, b); }
  static OCTAVO_INLINE B subtract_saturated(B a, B b) { return _mm512_subs_epi8(a, b); }
  template <bool kSigned>
  static OCTAVO_INLINE B min(B a, B b) {
    return kSigned ? _mm512_min_epi8(a, b) : _mm512_min_epu8(a, b);
  }
  template <bool kSigned>
  static OCTAVO_INLINE B max(B a, B b) {
    return kSigned ? _mm512_max_epi8(a, b) : _mm512_max_epu8(a, b);
  }
  static OCTAVO_INLINE B repeat16(const uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static OCTAVO_INLINE B shuffle16(B table, B x) { return _mm512_shuffle_epi8(table, x); }

  // Bytes as floats less a zero point, in the order that narrow() undoes: vector v holds bytes
  // 4 v .. 4 v + 3 of each 128-bit lane. A byte becomes the last one of 2^23's float.
  static OCTAVO_INLINE F center(int32_t zero_point) {
    return _mm512_set1_ps(0x1p23f + static_cast<float>(zero_point));
  }
  static OCTAVO_INLINE void centered(B x, F center, F (&y)[4]) {
    const __m512i magic = _mm512_set1_epi32(0x4B000000);
    OCTAVO_UNROLL
    for (int v = 0; v < 4; ++v) {
      const int at = 4 * v;
      const __m512i index = _mm512_set4_epi32(at + 3, at + 2, at + 1, at);
      y[v] = _mm512_sub_ps(
          _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(magic, 0x1111111111111111, x, index)),
          center);
    }
  }
  // Each value saturated to int16, plus `offset`, saturated to int8.
  static OCTAVO_INLINE B narrow(const I (&x)[4], int32_t offset) {
    const __m512i add = _mm512_set1_epi16(static_cast<int16_t>(offset));
    return _mm512_packs_epi16(_mm512_adds_epi16(_mm512_packs_epi32(x[0], x[1]), add),
                              _mm512_adds_epi16(_mm512_packs_epi32(x[2], x[3]), add));
  }

  // Sums of bytes in 16 bits, then in 32: in narrow()'s order.
  using W = __m512i;
  static OCTAVO_INLINE void add_words(W (&sum)[2], B x) {
    const __m512i zero = _mm512_setzero_si512();
    sum[0] = _mm512_add_epi16(sum[0], _mm512_unpacklo_epi8(x, zero));
    sum[1] = _mm512_add_epi16(sum[1], _mm512_unpackhi_epi8(x, zero));
  }
  static OCTAVO_INLINE void widen_words(const W (&sum)[2], I (&total)[4]) {
    const __m512i zero = _mm512_setzero_si512();
    total[0] = _mm512_add_epi32(total[0], _mm512_unpacklo_epi16(sum[0], zero));
    total[1] = _mm512_add_epi32(total[1], _mm512_unpackhi_epi16(sum[0], zero));
    total[2] = _mm512_add_epi32(total[2], _mm512_unpacklo_epi16(sum[1], zero));
    total[3] = _mm512_add_epi32(total[3], _mm512_unpackhi_epi16(sum[1], zero));
  }
  static OCTAVO_INLINE W no_words() { return _mm512_setzero_si512(); }

  // Lanes of 16 bytes: bytes of a and b in turn, from the lower or upper halves of their lanes.
  static constexpr int kLanes16 = 4;
  static OCTAVO_INLINE B interleave_low(B a, B b) { return _mm512_unpacklo_epi8(a, b); }
  static OCTAVO_INLINE B interleave_high(B a, B b) { return _mm512_unpackhi_epi8(a, b); }
  // The same of words of 32 bits.
  static OCTAVO_INLINE B interleave_words_low(B a, B b) { return _mm512_unpacklo_epi32(a, b); }
  static OCTAVO_INLINE B interleave_words_high(B a, B b) { return _mm512_unpackhi_epi32(a, b); }
  // The first `lanes` lanes, `stride` bytes apart.
  static OCTAVO_INLINE void store_lanes(uint8_t* p, int64_t stride, B x, int64_t lanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(x));
    if (lanes > 1)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + stride), _mm512_extracti32x4_epi32(x, 1));
    if (lanes > 2)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 2 * stride), _mm512_extracti32x4_epi32(x, 2));
    if (lanes > 3)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 3 * stride), _mm512_extracti32x4_epi32(x, 3));
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
