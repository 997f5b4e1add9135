// 4 lanes of float32 or int32 in NEON; what the ISAs of ARM share.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "isa/features.h"
#include "isa/row_accumulators.h"

namespace octavo {
namespace {

struct Vector128 {
  static constexpr int kLanes = 4;
  using F = float32x4_t;
  using I = int32x4_t;

  static OCTAVO_INLINE F load(const float* p) { return vld1q_f32(p); }
  static OCTAVO_INLINE I load_i(const int32_t* p) { return vld1q_s32(p); }
  static OCTAVO_INLINE F load_part(const float* p, int64_t n) {
    if (n >= 4) return load(p);
    F x = vdupq_n_f32(0.0f);
    if (n > 0) x = vld1q_lane_f32(p, x, 0);
    if (n > 1) x = vld1q_lane_f32(p + 1, x, 1);
    if (n > 2) x = vld1q_lane_f32(p + 2, x, 2);
    return x;
  }
  static OCTAVO_INLINE I load_part_i(const int32_t* p, int64_t n) {
    if (n >= 4) return load_i(p);
    I x = vdupq_n_s32(0);
    if (n > 0) x = vld1q_lane_s32(p, x, 0);
    if (n > 1) x = vld1q_lane_s32(p + 1, x, 1);
    if (n > 2) x = vld1q_lane_s32(p + 2, x, 2);
    return x;
  }
  static OCTAVO_INLINE void store(float* p, F x) { vst1q_f32(p, x); }
  static OCTAVO_INLINE void store(int32_t* p, I x) { vst1q_s32(p, x); }
  static OCTAVO_INLINE void store_part(float* p, F x, int64_t n) {
    if (n >= 4) return store(p, x);
    if (n > 0) vst1q_lane_f32(p, x, 0);
    if (n > 1) vst1q_lane_f32(p + 1, x, 1);
    if (n > 2) vst1q_lane_f32(p + 2, x, 2);
  }
  static OCTAVO_INLINE void store_part(int32_t* p, I x, int64_t n) {
    if (n >= 4) return store(p, x);
    if (n > 0) vst1q_lane_s32(p, x, 0);
    if (n > 1) vst1q_lane_s32(p + 1, x, 1);
    if (n > 2) vst1q_lane_s32(p + 2, x, 2);
  }
  // IEEE binary16, widened.
  static OCTAVO_INLINE F load_half(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
  static OCTAVO_INLINE F set(float x) { return vdupq_n_f32(x); }
  static OCTAVO_INLINE I set_i(int32_t x) { return vdupq_n_s32(x); }

  static OCTAVO_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
  static OCTAVO_INLINE F sub(F a, F b) { return vsubq_f32(a, b); }
  static OCTAVO_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
  static OCTAVO_INLINE F div(F a, F b) { return vdivq_f32(a, b); }
  static OCTAVO_INLINE F min(F a, F b) { return vminq_f32(a, b); }
  static OCTAVO_INLINE F max(F a, F b) { return vmaxq_f32(a, b); }
  // x < lo ? lo : x > hi ? hi : x, but for the sign of a zero, which no caller keeps; fmin and
  // fmax let NaN stay NaN.
  static OCTAVO_INLINE F clip(F x, F lo, F hi) { return vminq_f32(vmaxq_f32(x, lo), hi); }
  // round() itself brings NaN to 0.
  static OCTAVO_INLINE bool any_nan(F, F) { return false; }
  static OCTAVO_INLINE F nan_to_zero(F x) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vceqq_f32(x, x)));
  }
  // Adds x * 0: the sum is NaN as soon as one x is NaN or infinite.
  static constexpr bool kHasFma = true;
  static OCTAVO_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }   // a b + c
  static OCTAVO_INLINE F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }  // c - a b
  static OCTAVO_INLINE F abs(F x) { return vabsq_f32(x); }
  static OCTAVO_INLINE F copy_sign(F x, F sign) {  // x >= 0
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, x);
  }
  static OCTAVO_INLINE F select_less(F a, F b, F yes, F no) {  // a < b ? yes : no
    return vbslq_f32(vcltq_f32(a, b), yes, no);
  }
  // x 2^n rounded once; 1/2 < x < 2, n whole, n <= 129. In two factors: the first product is exact;
  // 0 below -150.
  static OCTAVO_INLINE F scale(F x, F n) {
    const I whole = vmaxq_s32(round(n), set_i(-151)), half = vshrq_n_s32(whole, 1);
    return mul(mul(x, power(half)), power(sub_i(whole, half)));
  }
  static OCTAVO_INLINE F power(I n) {  // 2^n
    return vreinterpretq_f32_s32(vshlq_n_s32(add_i(n, set_i(127)), 23));
  }
  static OCTAVO_INLINE F first_lanes(F x, int64_t n) {
    static constexpr int32_t kIndex[] = {0, 1, 2, 3};
    const int32_t count = n >= 4 ? 4 : static_cast<int32_t>(n);
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(x), vcltq_s32(vld1q_s32(kIndex), vdupq_n_s32(count))));
  }
  static OCTAVO_INLINE F probe(F x, F sum) { return vfmaq_f32(sum, x, vdupq_n_f32(0.0f)); }
  static OCTAVO_INLINE F to_float(I x) { return vcvtq_f32_s32(x); }
  static OCTAVO_INLINE I round(F x) { return vcvtnq_s32_f32(x); }  // half to even
  // Sums and products wrap. GCC's arm_neon.h spells them with C operators: unsigned ones.
  static OCTAVO_INLINE I add_i(I a, I b) { return from_u(vaddq_u32(to_u(a), to_u(b))); }
  static OCTAVO_INLINE I sub_i(I a, I b) { return from_u(vsubq_u32(to_u(a), to_u(b))); }
  static OCTAVO_INLINE I mul_i(I a, I b) { return from_u(vmulq_u32(to_u(a), to_u(b))); }
  static OCTAVO_INLINE uint32x4_t to_u(I x) { return vreinterpretq_u32_s32(x); }
  static OCTAVO_INLINE I from_u(uint32x4_t x) { return vreinterpretq_s32_u32(x); }

  static OCTAVO_INLINE float reduce_min(F x) { return vminvq_f32(x); }
  static OCTAVO_INLINE float reduce_max(F x) { return vmaxvq_f32(x); }
  // By halves: lane i + lane i + 2, then 1.
  static OCTAVO_INLINE float reduce_add(F x) {
    const float32x2_t y = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(y, 0) + vget_lane_f32(y, 1);
  }

  template <bool kSigned>
  static OCTAVO_INLINE I load_codes(const uint8_t* p) {
    uint32_t x;
    __builtin_memcpy(&x, p, 4);
    return widen<kSigned>(x);
  }
  template <bool kSigned>
  static OCTAVO_INLINE I load_codes_part(const uint8_t* p, int64_t n) {
    uint32_t x = 0;
    for (int64_t i = 0; i < n; ++i) x |= static_cast<uint32_t>(p[i]) << (8 * i);
    return widen<kSigned>(x);
  }
  template <bool kSigned>
  static OCTAVO_INLINE I widen(uint32_t four_bytes) {
    const uint8x8_t x = vreinterpret_u8_u32(vdup_n_u32(four_bytes));
    if (kSigned) return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(x))));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(x))));
  }

  // N vectors to bytes: each value saturated to int16, plus `offset`, saturated to int8, xor
  // `flip`.
  template <int N>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const I (&x)[N], int32_t offset, uint8_t flip) {
    int i = 0;
    OCTAVO_UNROLL
    for (; i + 4 <= N; i += 4)
      vst1q_u8(p + 4 * i, pack4(x[i], x[i + 1], x[i + 2], x[i + 3], offset, flip));
    OCTAVO_UNROLL
    for (; i < N; ++i) {
      const uint32_t bytes = pack1(x[i], offset, flip);
      __builtin_memcpy(p + 4 * i, &bytes, 4);
    }
  }
  template <int N>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const I (&x)[N], int32_t offset,
                                             uint8_t flip, int64_t n) {
    uint8_t bytes[4 * N];
    store_codes<N>(bytes, x, offset, flip);
    for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
  }
  static OCTAVO_INLINE uint32_t pack1(I x, int32_t offset, uint8_t flip) {
    const int16x4_t words = vqadd_s16(vqmovn_s32(x), vdup_n_s16(static_cast<int16_t>(offset)));
    const uint8x8_t bytes = vreinterpret_u8_s8(vqmovn_s16(vcombine_s16(words, words)));
    return vget_lane_u32(vreinterpret_u32_u8(veor_u8(bytes, vdup_n_u8(flip))), 0);
  }
  static OCTAVO_INLINE uint8x16_t pack4(I a, I b, I c, I d, int32_t offset, uint8_t flip) {
    const int16x8_t add = vdupq_n_s16(static_cast<int16_t>(offset));
    const int16x8_t ab = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), add);
    const int16x8_t cd = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(c), d), add);
    const int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(ab), cd);
    return veorq_u8(vreinterpretq_u8_s8(bytes), vdupq_n_u8(flip));
  }

  // Sums of bytes, each xor `flip`, as unsigned values, modulo 2^32.
  static constexpr int kSumBytes = 16;
  using Sum = uint32x4_t;
  static OCTAVO_INLINE Sum sum_zero() { return vdupq_n_u32(0); }
  static OCTAVO_INLINE Sum sum_bytes(Sum sum, const uint8_t* p, uint8_t flip) {
    return vpadalq_u16(sum, vpaddlq_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(flip))));
  }
  static OCTAVO_INLINE int64_t sum_total(Sum sum) { return vaddvq_u32(sum); }
};

// What the tiles of ARM share: A and B are both int8.
struct Tile128 : RowAccumulators<Vector128> {
  static constexpr bool kASigned = true;
  static constexpr bool kFlips = true;
  static constexpr int kExpandedBytes = 1;
  static constexpr int kMc = 96;
  using AValue = uint8_t;
  template <bool kStored>
  using BValue = int8_t;

  // An empty asm that claims to change x, as x86_vec256.h has it.
  template <class X>
  static OCTAVO_INLINE void keep(X& x) {
    asm("" : "+w"(x));
  }
  // As keep(), and x counts as used: for loops that only burn time.
  template <class X>
  static OCTAVO_INLINE void opaque(X& x) {
    asm volatile("" : "+w"(x));
  }
  template <class X>
  static OCTAVO_INLINE void in_order(X&) {}
  template <class P>
  static OCTAVO_INLINE void keep_pointer(P& p) {
    asm("" : "+r"(p));
  }
  static OCTAVO_INLINE void prefetch_write(const char* p) { __builtin_prefetch(p, 1, 3); }
  static OCTAVO_INLINE void prefetch_read(const char* p) { __builtin_prefetch(p, 0, 3); }

  static constexpr int kPackColumns = 16;
  static OCTAVO_INLINE uint8x16_t load16(const uint8_t* p, uint8_t flip) {
    return veorq_u8(vld1q_u8(p), vdupq_n_u8(flip));
  }
  static OCTAVO_INLINE void store16(int8_t* p, uint8x16_t x) {
    vst1q_s8(p, vreinterpretq_s8_u8(x));
  }
  // 4 rows of 16 bytes to 4 x (4 columns of 4 bytes).
  static OCTAVO_INLINE uint16x8x2_t zip_pairs(uint8x16_t a, uint8x16_t b) {
    return {{vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b))}};
  }
  static OCTAVO_INLINE void interleave4(const uint8_t* b, int64_t rs, uint8_t flip,
                                        uint32x4_t (&out)[4]) {
    const uint16x8x2_t r01 = zip_pairs(load16(b, flip), load16(b + rs, flip));
    const uint16x8x2_t r23 = zip_pairs(load16(b + 2 * rs, flip), load16(b + 3 * rs, flip));
    out[0] = vreinterpretq_u32_u16(vzip1q_u16(r01.val[0], r23.val[0]));
    out[1] = vreinterpretq_u32_u16(vzip2q_u16(r01.val[0], r23.val[0]));
    out[2] = vreinterpretq_u32_u16(vzip1q_u16(r01.val[1], r23.val[1]));
    out[3] = vreinterpretq_u32_u16(vzip2q_u16(r01.val[1], r23.val[1]));
  }
};

}  // namespace
}  // namespace octavo
