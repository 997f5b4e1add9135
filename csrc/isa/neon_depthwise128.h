// Depthwise convolution in NEON: blocks of 16 channels, which zips leave in order.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace octavo {
namespace {

struct Depthwise128 {
  static constexpr int kVectors = 4;
  static constexpr int kParts = 1;
  static constexpr int kBlock = 16;
  using Flip = uint8x16_t;
  static constexpr bool kHoldsRows = true;  // accumulators of several rows, in registers
  static constexpr int kWeightsHeld = 12;

  // First channel of row vector v.
  static constexpr int64_t channel(int, int v) { return 4 * v; }
  // Accumulators are row vectors of channels in order.
  template <class X>
  static OCTAVO_INLINE void reorder(X&) {}

  static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) { return vdupq_n_u8(flip); }

  // What turns values into codes: each saturated to int16, plus `offset`, saturated to int8,
  // clamped to [least, most], xor `flip`.
  struct Codes {
    int16x8_t offset;
    int8x16_t least, most;
    uint8x16_t flip;
  };
  static OCTAVO_INLINE Codes codes(int32_t offset, int32_t least, int32_t most, uint8_t flip) {
    return {vdupq_n_s16(static_cast<int16_t>(offset)), vdupq_n_s8(static_cast<int8_t>(least)),
            vdupq_n_s8(static_cast<int8_t>(most)), vdupq_n_u8(flip)};
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const int32x4_t (&x)[4], const Codes& c) {
    const int16x8_t low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(x[0]), x[1]), c.offset);
    const int16x8_t high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(x[2]), x[3]), c.offset);
    const int8x16_t bytes =
        vminq_s8(vmaxq_s8(vqmovn_high_s16(vqmovn_s16(low), high), c.least), c.most);
    vst1q_u8(p, veorq_u8(vreinterpretq_u8_s8(bytes), c.flip));
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const int32x4_t (&x)[4], const Codes& c,
                                             int64_t n) {
    uint8_t bytes[kBlock];
    store_codes<kPart>(bytes, x, c);
    int64_t i = 0;
    if (n >= 8) vst1_u8(p, vld1_u8(bytes)), i = 8;
    for (; i < n; ++i) p[i] = bytes[i];
  }

  static constexpr int kCopyBytes = 16;
  static OCTAVO_INLINE void fill(uint8_t* out, uint8_t byte) { vst1q_u8(out, vdupq_n_u8(byte)); }
  static OCTAVO_INLINE void copy(const uint8_t* x, uint8_t* out) { vst1q_u8(out, vld1q_u8(x)); }
};

// Without the dot product: smlal, one tap at a time.
struct DepthwiseSingle128 : Depthwise128 {
  static constexpr int kTaps = 1;
  using Weight = int16_t;
  using Taps = int16x4_t;
  using Weights = int16x4_t;

  template <int kPart>
  static OCTAVO_INLINE void order_weights(const int16_t* in, int16_t* out) {
    vst1q_s16(out, vld1q_s16(in));
    vst1q_s16(out + 8, vld1q_s16(in + 8));
  }
  static OCTAVO_INLINE int16x4_t load_weights(const int16_t* p) { return vld1_s16(p); }
  template <int kPart, int kCount>
  static OCTAVO_INLINE void load_taps(const uint8_t* const (&p)[1], Flip flip, int16x4_t (&x)[4]) {
    const int8x16_t r = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p[0]), flip));
    const int16x8_t low = vmovl_s8(vget_low_s8(r)), high = vmovl_high_s8(r);
    x[0] = vget_low_s16(low);
    x[1] = vget_high_s16(low);
    x[2] = vget_low_s16(high);
    x[3] = vget_high_s16(high);
  }
  static OCTAVO_INLINE void dot(int32x4_t& acc, int16x4_t x, int16x4_t w) {
    acc = vmlal_s16(acc, x, w);
  }
};

// Four taps a product; a trait adds the dot product itself.
struct DepthwiseQuads128 : Depthwise128 {
  static constexpr int kTaps = 4;
  using Weight = int8_t;
  using Taps = int8x16_t;
  using Weights = int8x16_t;

  template <int kPart>
  static OCTAVO_INLINE void order_weights(const int8_t* in, int8_t* out) {
    for (int v = 0; v < 4; ++v) vst1q_s8(out + 16 * v, vld1q_s8(in + 16 * v));
  }
  static OCTAVO_INLINE int8x16_t load_weights(const int8_t* p) { return vld1q_s8(p); }
  // The first kCount of four runs of 16 bytes, interleaved; the others count as zeros.
  template <int kPart, int kCount>
  static OCTAVO_INLINE void load_taps(const uint8_t* const (&p)[4], Flip flip, int8x16_t (&x)[4]) {
    const uint8x16_t zero = vdupq_n_u8(0);
    const uint8x16_t r0 = veorq_u8(vld1q_u8(p[0]), flip);
    const uint8x16_t r1 = kCount > 1 ? veorq_u8(vld1q_u8(p[1]), flip) : zero;
    const uint8x16_t r2 = kCount > 2 ? veorq_u8(vld1q_u8(p[2]), flip) : zero;
    const uint8x16_t r3 = kCount > 3 ? veorq_u8(vld1q_u8(p[3]), flip) : zero;
    const uint16x8_t t0 = vreinterpretq_u16_u8(vzip1q_u8(r0, r1));
    const uint16x8_t t1 = vreinterpretq_u16_u8(vzip2q_u8(r0, r1));
    const uint16x8_t t2 = vreinterpretq_u16_u8(vzip1q_u8(r2, r3));
    const uint16x8_t t3 = vreinterpretq_u16_u8(vzip2q_u8(r2, r3));
    x[0] = vreinterpretq_s8_u16(vzip1q_u16(t0, t2));
    x[1] = vreinterpretq_s8_u16(vzip2q_u16(t0, t2));
    x[2] = vreinterpretq_s8_u16(vzip1q_u16(t1, t3));
    x[3] = vreinterpretq_s8_u16(vzip2q_u16(t1, t3));
  }
};

}  // namespace
}  // namespace octavo
