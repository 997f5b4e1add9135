// AVX512-VNNI: vpdpbusd on 16 columns at a time; 32 registers hold a tile of 6 x 64.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "isa/features.h"
#include "isa/row_accumulators.h"
#include "isa/x86_bytes512.h"
#include "isa/x86_depthwise512.h"
#include "isa/x86_grouped512.h"

namespace octavo {
namespace {

// 16 lanes of float32 or int32.
struct Vector512 {
  static constexpr int kLanes = 16;
  using F = __m512;
  using I = __m512i;

  static OCTAVO_INLINE __mmask16 first(int64_t n) {
    return n >= 16 ? 0xFFFF : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
  }

  static OCTAVO_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static OCTAVO_INLINE I load_i(const int32_t* p) { return _mm512_loadu_si512(p); }
  static OCTAVO_INLINE F load_part(const float* p, int64_t n) {
    return _mm512_maskz_loadu_ps(first(n), p);
  }
  static OCTAVO_INLINE I load_part_i(const int32_t* p, int64_t n) {
    return _mm512_maskz_loadu_epi32(first(n), p);
  }
  static OCTAVO_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static OCTAVO_INLINE void store(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
  static OCTAVO_INLINE void store_part(float* p, F x, int64_t n) {
    _mm512_mask_storeu_ps(p, first(n), x);
  }
  static OCTAVO_INLINE void store_part(int32_t* p, I x, int64_t n) {
    _mm512_mask_storeu_epi32(p, first(n), x);
  }
  // IEEE binary16, widened.
  static OCTAVO_INLINE F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static OCTAVO_INLINE F set(float x) { return _mm512_set1_ps(x); }
  static OCTAVO_INLINE I set_i(int32_t x) { return _mm512_set1_epi32(x); }

  static OCTAVO_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static OCTAVO_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static OCTAVO_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static OCTAVO_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static constexpr bool kHasFma = true;
  static OCTAVO_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
  static OCTAVO_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
  static OCTAVO_INLINE F abs(F x) { return _mm512_abs_ps(x); }
  static OCTAVO_INLINE F copy_sign(F x, F sign) {  // x >= 0
    return _mm512_or_ps(x, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
  }
  static OCTAVO_INLINE F select_less(F a, F b, F yes, F no) {  // a < b ? yes : no
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  // x 2^n rounded once; 1/2 < x < 2, n whole, n <= 129.
  static OCTAVO_INLINE F scale(F x, F n) { return _mm512_scalef_ps(x, n); }
  static OCTAVO_INLINE F first_lanes(F x, int64_t n) { return _mm512_maskz_mov_ps(first(n), x); }
  static OCTAVO_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  static OCTAVO_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  // x < lo ? lo : x > hi ? hi : x; NaN stays NaN (the second operand of min and max wins).
  static OCTAVO_INLINE F clip(F x, F lo, F hi) { return _mm512_min_ps(hi, _mm512_max_ps(lo, x)); }
  static OCTAVO_INLINE bool any_nan(F a, F b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0;
  }
  static OCTAVO_INLINE F nan_to_zero(F x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
  }
  // Adds x * 0: the sum is NaN as soon as one x is NaN or infinite.
  static OCTAVO_INLINE F probe(F x, F sum) { return _mm512_fmadd_ps(x, _mm512_setzero_ps(), sum); }
  static OCTAVO_INLINE F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  // Half to even; what int32 cannot hold gives its least value.
  static OCTAVO_INLINE I round(F x) { return _mm512_cvtps_epi32(x); }
  static OCTAVO_INLINE I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
  static OCTAVO_INLINE I sub_i(I a, I b) { return _mm512_sub_epi32(a, b); }
  static OCTAVO_INLINE I mul_i(I a, I b) { return _mm512_mullo_epi32(a, b); }

  static OCTAVO_INLINE float reduce_min(F x) { return _mm512_reduce_min_ps(x); }
  static OCTAVO_INLINE float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
  // By halves: lane i + lane i + 8, then 4, 2, 1.
  static OCTAVO_INLINE float reduce_add(F x) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }

  template <bool kSigned>
  static OCTAVO_INLINE I load_codes(const uint8_t* p) {
    return widen<kSigned>(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  template <bool kSigned>
  static OCTAVO_INLINE I load_codes_part(const uint8_t* p, int64_t n) {
    return widen<kSigned>(_mm_maskz_loadu_epi8(first(n), p));
  }
  template <bool kSigned>
  static OCTAVO_INLINE I widen(__m128i x) {
    return kSigned ? _mm512_cvtepi8_epi32(x) : _mm512_cvtepu8_epi32(x);
  }

  // N vectors to bytes: each value saturated to int16, plus `offset`, saturated to int8, xor
  // `flip`.
  template <int N>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const I (&x)[N], int32_t offset, uint8_t flip) {
    if constexpr (N % 4 == 0) {
      OCTAVO_UNROLL
      for (int i = 0; i < N; i += 4)
        _mm512_storeu_si512(p + 16 * i, pack4(x[i], x[i + 1], x[i + 2], x[i + 3], offset, flip));
    } else {
      OCTAVO_UNROLL
      for (int i = 0; i < N; ++i)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16 * i), pack1(x[i], offset, flip));
    }
  }
  template <int N>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const I (&x)[N], int32_t offset,
                                             uint8_t flip, int64_t n) {
    OCTAVO_UNROLL
    for (int i = 0; i < N; ++i)
      _mm_mask_storeu_epi8(p + 16 * i, first(n - 16 * i), pack1(x[i], offset, flip));
  }
  static OCTAVO_INLINE __m128i pack1(I x, int32_t offset, uint8_t flip) {
    const __m256i words = _mm256_adds_epi16(_mm512_cvtsepi32_epi16(x),
                                            _mm256_set1_epi16(static_cast<int16_t>(offset)));
    return _mm_xor_si128(_mm256_cvtsepi16_epi8(words), _mm_set1_epi8(static_cast<char>(flip)));
  }
  static OCTAVO_INLINE __m512i pack4(I a, I b, I c, I d, int32_t offset, uint8_t flip) {
    // The packs work in 128-bit lanes: dword 4 * lane + v holds four codes of vector v.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i add = _mm512_set1_epi16(static_cast<int16_t>(offset));
    const __m512i packed = _mm512_packs_epi16(_mm512_adds_epi16(_mm512_packs_epi32(a, b), add),
                                              _mm512_adds_epi16(_mm512_packs_epi32(c, d), add));
    return _mm512_xor_si512(_mm512_permutexvar_epi32(order, packed),
                            _mm512_set1_epi8(static_cast<char>(flip)));
  }

  // Sums of bytes, each xor `flip`, as unsigned values.
  static constexpr int kSumBytes = 64;
  using Sum = __m512i;
  static OCTAVO_INLINE Sum sum_zero() { return _mm512_setzero_si512(); }
  static OCTAVO_INLINE Sum sum_bytes(Sum sum, const uint8_t* p, uint8_t flip) {
    __m512i x = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(flip)));
    return _mm512_add_epi64(sum, _mm512_sad_epu8(x, _mm512_setzero_si512()));
  }
  static OCTAVO_INLINE int64_t sum_total(Sum sum) { return _mm512_reduce_add_epi64(sum); }
};

struct Isa {
  static constexpr const char* kName = "avx512vnni";
  static constexpr uint32_t kRequired =
      kAvx2 | kFma | kF16c | kAvx512F | kAvx512Bw | kAvx512Dq | kAvx512Vl | kAvx512Vnni;
  static constexpr bool kTestOnly = false;
  using Vector = Vector512;
  using Bytes = Bytes512;
  using Depthwise = Depthwise512;
  using Grouped = Grouped512;

  struct U8S8 : RowAccumulators<Vector512> {
    static constexpr int kKr = 4;
    static constexpr int kMaxVectors = 4;
    static constexpr int kRows[] = {14, 12, 8, 6};  // by row vectors of the tile
    static constexpr int kChains = 8;
    static constexpr bool kASigned = false;
    static constexpr bool kFlips = true;
    static constexpr int kExpandedBytes = 1;
    static constexpr int kMc = 128;
    static constexpr int64_t kMacsPerDot = 64;
    static constexpr int kBVectorBytes = 64;
    using AValue = uint8_t;
    template <bool kStored>
    using BValue = int8_t;
    using AVec = __m512i;
    using BVec = __m512i;
    using Flip = __m512i;

    static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) {
      return _mm512_set1_epi8(static_cast<char>(flip));
    }
    static OCTAVO_INLINE AVec load_a(const uint8_t* p, int64_t, Flip flip) {
      int32_t x;
      __builtin_memcpy(&x, p, 4);
      return _mm512_xor_si512(_mm512_set1_epi32(x), flip);
    }
    static OCTAVO_INLINE AVec load_a_tail(const uint8_t* p, int64_t, int count, Flip flip) {
      int32_t x = p[0];
      if (count > 1) x |= p[1] << 8;
      if (count > 2) x |= p[2] << 16;
      return _mm512_xor_si512(_mm512_set1_epi32(x), flip);
    }
    static OCTAVO_INLINE BVec load_b(const int8_t* p) { return _mm512_loadu_si512(p); }
    static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) {
      acc = _mm512_dpbusd_epi32(acc, a, b);
    }
    // An empty asm that claims to change x: GCC 12 neither folds a load back into its uses nor
    // spills what goes through it.
    template <class X>
    static OCTAVO_INLINE void keep(X& x) {
      asm("" : "+v"(x));
    }
    // As keep(), and x counts as used: for loops that only burn time.
    template <class X>
    static OCTAVO_INLINE void opaque(X& x) {
      asm volatile("" : "+v"(x));
    }
    template <class X>
    static OCTAVO_INLINE void in_order(X&) {}
    template <class P>
    static OCTAVO_INLINE void keep_pointer(P& p) {
      asm volatile("" : "+r"(p));
    }
    static OCTAVO_INLINE void prefetch_write(const char* p) { __builtin_prefetch(p, 1, 3); }
    static OCTAVO_INLINE void prefetch_read(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }

    static constexpr int kPackColumns = 64;
    // kKr rows of kPackColumns bytes, rs apart, to one k-group of a panel.
    static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
      const __m512i x = _mm512_set1_epi8(static_cast<char>(flip));
      __m512i r0 = _mm512_xor_si512(_mm512_loadu_si512(b), x);
      __m512i r1 = _mm512_xor_si512(_mm512_loadu_si512(b + rs), x);
      __m512i r2 = _mm512_xor_si512(_mm512_loadu_si512(b + 2 * rs), x);
      __m512i r3 = _mm512_xor_si512(_mm512_loadu_si512(b + 3 * rs), x);
      __m512i t0 = _mm512_unpacklo_epi8(r0, r1), t1 = _mm512_unpackhi_epi8(r0, r1);
      __m512i t2 = _mm512_unpacklo_epi8(r2, r3), t3 = _mm512_unpackhi_epi8(r2, r3);
      // u_i: in 128-bit lane l the groups of columns 16 l + 4 i .. 16 l + 4 i + 3.
      __m512i u0 = _mm512_unpacklo_epi16(t0, t2), u1 = _mm512_unpackhi_epi16(t0, t2);
      __m512i u2 = _mm512_unpacklo_epi16(t1, t3), u3 = _mm512_unpackhi_epi16(t1, t3);
      __m512i a = _mm512_shuffle_i32x4(u0, u1, 0x44), b2 = _mm512_shuffle_i32x4(u0, u1, 0xEE);
      __m512i c = _mm512_shuffle_i32x4(u2, u3, 0x44), d = _mm512_shuffle_i32x4(u2, u3, 0xEE);
      _mm512_storeu_si512(out, _mm512_shuffle_i32x4(a, c, 0x88));
      _mm512_storeu_si512(out + 64, _mm512_shuffle_i32x4(a, c, 0xDD));
      _mm512_storeu_si512(out + 128, _mm512_shuffle_i32x4(b2, d, 0x88));
      _mm512_storeu_si512(out + 192, _mm512_shuffle_i32x4(b2, d, 0xDD));
    }
  };
};

}  // namespace
}  // namespace octavo
