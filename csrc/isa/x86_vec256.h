// 8 lanes of float32 or int32 in AVX2; what the ISAs of 256 bits share.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "isa/features.h"
#include "isa/row_accumulators.h"

namespace octavo {
namespace {

struct Vector256 {
  static constexpr int kLanes = 8;
  using F = __m256;
  using I = __m256i;

  static OCTAVO_INLINE __m256i first(int64_t n) {
    const int32_t count = n >= 8 ? 8 : n <= 0 ? 0 : static_cast<int32_t>(n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static OCTAVO_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  static OCTAVO_INLINE I load_i(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static OCTAVO_INLINE F load_part(const float* p, int64_t n) {
    return _mm256_maskload_ps(p, first(n));
  }
  static OCTAVO_INLINE I load_part_i(const int32_t* p, int64_t n) {
    return _mm256_maskload_epi32(p, first(n));
  }
  static OCTAVO_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static OCTAVO_INLINE void store(int32_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static OCTAVO_INLINE void store_part(float* p, F x, int64_t n) {
    _mm256_maskstore_ps(p, first(n), x);
  }
  static OCTAVO_INLINE void store_part(int32_t* p, I x, int64_t n) {
    _mm256_maskstore_epi32(p, first(n), x);
  }
  // IEEE binary16, widened.
  static OCTAVO_INLINE F load_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static OCTAVO_INLINE F set(float x) { return _mm256_set1_ps(x); }
  static OCTAVO_INLINE I set_i(int32_t x) { return _mm256_set1_epi32(x); }

  static OCTAVO_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static OCTAVO_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static OCTAVO_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static OCTAVO_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static constexpr bool kHasFma = true;
  static OCTAVO_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }    // a b + c
  static OCTAVO_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b
  static OCTAVO_INLINE F abs(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static OCTAVO_INLINE F copy_sign(F x, F sign) {  // x >= 0
    return _mm256_or_ps(x, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
  }
  static OCTAVO_INLINE F select_less(F a, F b, F yes, F no) {  // a < b ? yes : no
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  // x 2^n rounded once; 1/2 < x < 2, n whole, n <= 129. In two factors: the first product is exact;
  // 0 below -150.
  static OCTAVO_INLINE F scale(F x, F n) {
    const I whole = _mm256_max_epi32(round(n), set_i(-151)), half = _mm256_srai_epi32(whole, 1);
    return mul(mul(x, power(half)), power(sub_i(whole, half)));
  }
  static OCTAVO_INLINE F power(I n) {  // 2^n
    return _mm256_castsi256_ps(_mm256_slli_epi32(add_i(n, set_i(127)), 23));
  }
  static OCTAVO_INLINE F first_lanes(F x, int64_t n) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(first(n)));
  }
  static OCTAVO_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  static OCTAVO_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  // x < lo ? lo : x > hi ? hi : x; NaN stays NaN (the second operand of min and max wins).
  static OCTAVO_INLINE F clip(F x, F lo, F hi) { return _mm256_min_ps(hi, _mm256_max_ps(lo, x)); }
  static OCTAVO_INLINE bool any_nan(F a, F b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
  }
  static OCTAVO_INLINE F nan_to_zero(F x) {
    return _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
  }
  static OCTAVO_INLINE F probe(F x, F sum) { return _mm256_fmadd_ps(x, _mm256_setzero_ps(), sum); }
  static OCTAVO_INLINE F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  // Half to even; what int32 cannot hold gives its least value.
  static OCTAVO_INLINE I round(F x) { return _mm256_cvtps_epi32(x); }
  static OCTAVO_INLINE I add_i(I a, I b) { return _mm256_add_epi32(a, b); }
  static OCTAVO_INLINE I sub_i(I a, I b) { return _mm256_sub_epi32(a, b); }
  static OCTAVO_INLINE I mul_i(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static OCTAVO_INLINE I quarter_i(I x) { return _mm256_srai_epi32(x, 2); }  // of a multiple of 4

  static OCTAVO_INLINE float reduce_min(F x) {
    __m128 y = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_min_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_min_ss(y, _mm_movehdup_ps(y)));
  }
  static OCTAVO_INLINE float reduce_max(F x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  // By halves: lane i + lane i + 4, then 2, 1.
  static OCTAVO_INLINE float reduce_add(F x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }

  template <bool kSigned>
  static OCTAVO_INLINE I load_codes(const uint8_t* p) {
    const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return kSigned ? _mm256_cvtepi8_epi32(x) : _mm256_cvtepu8_epi32(x);
  }
  template <bool kSigned>
  static OCTAVO_INLINE I load_codes_part(const uint8_t* p, int64_t n) {
    uint8_t bytes[8] = {};
    for (int64_t i = 0; i < n; ++i) bytes[i] = p[i];
    return load_codes<kSigned>(bytes);
  }

  // N vectors to bytes: each value saturated to int16, plus `offset`, saturated to int8, xor
  // `flip`.
  template <int N>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const I (&x)[N], int32_t offset, uint8_t flip) {
    int i = 0;
    OCTAVO_UNROLL
    for (; i + 4 <= N; i += 4)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8 * i),
                          pack4(x[i], x[i + 1], x[i + 2], x[i + 3], offset, flip));
    OCTAVO_UNROLL
    for (; i < N; ++i)
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 8 * i), pack1(x[i], offset, flip));
  }
  template <int N>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const I (&x)[N], int32_t offset,
                                             uint8_t flip, int64_t n) {
    uint8_t bytes[8 * N];
    store_codes<N>(bytes, x, offset, flip);
    for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
  }
  static OCTAVO_INLINE __m128i pack1(I x, int32_t offset, uint8_t flip) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    words = _mm_adds_epi16(words, _mm_set1_epi16(static_cast<int16_t>(offset)));
    return _mm_xor_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(static_cast<char>(flip)));
  }
  static OCTAVO_INLINE __m256i pack4(I a, I b, I c, I d, int32_t offset, uint8_t flip) {
    // The packs work in 128-bit lanes: dword 4 * lane + v holds four codes of vector v.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i add = _mm256_set1_epi16(static_cast<int16_t>(offset));
    const __m256i packed = _mm256_packs_epi16(_mm256_adds_epi16(_mm256_packs_epi32(a, b), add),
                                              _mm256_adds_epi16(_mm256_packs_epi32(c, d), add));
    return _mm256_xor_si256(_mm256_permutevar8x32_epi32(packed, order),
                            _mm256_set1_epi8(static_cast<char>(flip)));
  }

  // Sums of bytes, each xor `flip`, as unsigned values.
  static constexpr int kSumBytes = 32;
  using Sum = __m256i;
  static OCTAVO_INLINE Sum sum_zero() { return _mm256_setzero_si256(); }
  static OCTAVO_INLINE Sum sum_bytes(Sum sum, const uint8_t* p, uint8_t flip) {
    const __m256i x = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                                       _mm256_set1_epi8(static_cast<char>(flip)));
    return _mm256_add_epi64(sum, _mm256_sad_epu8(x, _mm256_setzero_si256()));
  }
  static OCTAVO_INLINE int64_t sum_total(Sum sum) {
    const __m128i y = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    return _mm_cvtsi128_si64(y) + _mm_extract_epi64(y, 1);
  }
};

// 16 lanes of int16.
struct Words256 {
  static constexpr int kLanes = 16;
  using I = __m256i;
  template <bool kSigned>
  static OCTAVO_INLINE I widen(const uint8_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return kSigned ? _mm256_cvtepi8_epi16(x) : _mm256_cvtepu8_epi16(x);
  }
  static OCTAVO_INLINE void store(int16_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static OCTAVO_INLINE I set(int16_t x) { return _mm256_set1_epi16(x); }
  static OCTAVO_INLINE I add(I a, I b) { return _mm256_add_epi16(a, b); }
  static OCTAVO_INLINE I sub(I a, I b) { return _mm256_sub_epi16(a, b); }
};

template <bool kFirst, class A, class B>
struct Select {
  using type = A;
};
template <class A, class B>
struct Select<false, A, B> {
  using type = B;
};

// What the tiles of 256 bits share.
struct Tile256 : RowAccumulators<Vector256> {
  using AVec = __m256i;
  using BVec = __m256i;
  using Flip = __m256i;

  static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) {
    return _mm256_set1_epi8(static_cast<char>(flip));
  }
  // An empty asm that claims to change x: GCC 12 neither folds a load back into its uses nor
  // spills what goes through it.
  template <class X>
  static OCTAVO_INLINE void keep(X& x) {
    asm("" : "+x"(x));
  }
  // As keep(), and x counts as used: for loops that only burn time.
  template <class X>
  static OCTAVO_INLINE void opaque(X& x) {
    asm volatile("" : "+x"(x));
  }
  // Keeps A's vectors in the order of the source: with 16 registers GCC 12 would otherwise load
  // one early and spill an accumulator.
  template <class X>
  static OCTAVO_INLINE void in_order(X& a) {
    opaque(a);
  }
  template <class P>
  static OCTAVO_INLINE void keep_pointer(P& p) {
    asm volatile("" : "+r"(p));
  }
  static OCTAVO_INLINE void prefetch_write(const char* p) { __builtin_prefetch(p, 1, 3); }
  static OCTAVO_INLINE void prefetch_read(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }

  static OCTAVO_INLINE __m128i load16(const uint8_t* p, __m128i flip) {
    return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), flip);
  }
  static OCTAVO_INLINE void store16(int8_t* p, __m128i x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
  }
};

}  // namespace
}  // namespace octavo
