// 16 bytes in NEON.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace octavo {
namespace {

struct Bytes128 {
  static constexpr int kCount = 16;
  static constexpr bool kHasMasks = false;  // a part costs no more than the whole
  using B = uint8x16_t;
  using F = float32x4_t;
  using I = int32x4_t;

  static OCTAVO_INLINE B load(const uint8_t* p) { return vld1q_u8(p); }
  static OCTAVO_INLINE B load_part(const uint8_t* p, int64_t n) {
    uint8_t bytes[16] = {};
    for (int64_t i = 0; i < n; ++i) bytes[i] = p[i];
    return load(bytes);
  }
  static OCTAVO_INLINE void store(uint8_t* p, B x) { vst1q_u8(p, x); }
  static OCTAVO_INLINE void store_part(uint8_t* p, B x, int64_t n) {
    uint8_t bytes[16];
    store(bytes, x);
    for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
  }
  static OCTAVO_INLINE B set(uint8_t x) { return vdupq_n_u8(x); }
  static OCTAVO_INLINE B exclusive_or(B a, B b) { return veorq_u8(a, b); }
  static OCTAVO_INLINE int8x16_t to_signed(B x) { return vreinterpretq_s8_u8(x); }
  template <bool kSigned>
  static OCTAVO_INLINE B min(B a, B b) {
    return kSigned ? vreinterpretq_u8_s8(vminq_s8(to_signed(a), to_signed(b))) : vminq_u8(a, b);
  }
  template <bool kSigned>
  static OCTAVO_INLINE B max(B a, B b) {
    return kSigned ? vreinterpretq_u8_s8(vmaxq_s8(to_signed(a), to_signed(b))) : vmaxq_u8(a, b);
  }

  // A table of 256 bytes in 16 registers: an index out of a quarter's range leaves the byte alone.
  struct Lookup {
    uint8x16x4_t quarter[4];
    OCTAVO_INLINE explicit Lookup(const uint8_t* table) {
      for (int i = 0; i < 4; ++i) quarter[i] = vld1q_u8_x4(table + 64 * i);
    }
    OCTAVO_INLINE B of(B x) const {
      B y = vqtbl4q_u8(quarter[0], x);
      OCTAVO_UNROLL
      for (int i = 1; i < 4; ++i)
        y = vqtbx4q_u8(y, quarter[i], vsubq_u8(x, vdupq_n_u8(static_cast<uint8_t>(64 * i))));
      return y;
    }
  };

  // Bytes as floats less a zero point, in an order that narrow() undoes.
  static OCTAVO_INLINE F center(int32_t zero_point) {
    return vdupq_n_f32(static_cast<float>(zero_point));
  }
  static OCTAVO_INLINE void centered(B x, F center, F (&y)[4]) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(x)), high = vmovl_high_u8(x);
    y[0] = vsubq_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), center);
    y[1] = vsubq_f32(vcvtq_f32_u32(vmovl_high_u16(low)), center);
    y[2] = vsubq_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), center);
    y[3] = vsubq_f32(vcvtq_f32_u32(vmovl_high_u16(high)), center);
  }
  // Each value saturated to int16, plus `offset`, saturated to int8.
  static OCTAVO_INLINE B narrow(const I (&x)[4], int32_t offset) {
    const int16x8_t add = vdupq_n_s16(static_cast<int16_t>(offset));
    const int16x8_t low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(x[0]), x[1]), add);
    const int16x8_t high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(x[2]), x[3]), add);
    return vreinterpretq_u8_s8(vqmovn_high_s16(vqmovn_s16(low), high));
  }

  // Sums of bytes in 16 bits, then in 32: in narrow()'s order.
  using W = uint16x8_t;
  static OCTAVO_INLINE void add_words(W (&sum)[2], B x) {
    sum[0] = vaddw_u8(sum[0], vget_low_u8(x));
    sum[1] = vaddw_high_u8(sum[1], x);
  }
  static OCTAVO_INLINE I add_wide(I total, uint16x4_t words) {
    return vreinterpretq_s32_u32(vaddw_u16(vreinterpretq_u32_s32(total), words));
  }
  static OCTAVO_INLINE void widen_words(const W (&sum)[2], I (&total)[4]) {
    total[0] = add_wide(total[0], vget_low_u16(sum[0]));
    total[1] = add_wide(total[1], vget_high_u16(sum[0]));
    total[2] = add_wide(total[2], vget_low_u16(sum[1]));
    total[3] = add_wide(total[3], vget_high_u16(sum[1]));
  }
  static OCTAVO_INLINE W no_words() { return vdupq_n_u16(0); }

  // Bytes of a and b in turn, from their lower or upper halves.
  static constexpr int kLanes16 = 1;
  static OCTAVO_INLINE B interleave_low(B a, B b) { return vzip1q_u8(a, b); }
  static OCTAVO_INLINE B interleave_high(B a, B b) { return vzip2q_u8(a, b); }
  // The same of words of 32 bits.
  static OCTAVO_INLINE B interleave_words_low(B a, B b) {
    return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
  }
  static OCTAVO_INLINE B interleave_words_high(B a, B b) {
    return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
  }
  static OCTAVO_INLINE void store_lanes(uint8_t* p, int64_t, B x, int64_t) { store(p, x); }

  // 16 bytes, and those that `index` names.
  using Lane = B;
  static OCTAVO_INLINE Lane load_lane(const uint8_t* p) { return load(p); }
  static OCTAVO_INLINE void store_lane(uint8_t* p, Lane x) { store(p, x); }
  static OCTAVO_INLINE Lane pick(Lane x, Lane index) { return vqtbl1q_u8(x, index); }
};

}  // namespace
}  // namespace octavo
