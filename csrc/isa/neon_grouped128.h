// Weights in groups for the ISAs of ARM: weights of 4 bits are small enough to be signed as they
// are, those of 8 bits are stored signed.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace octavo {
namespace {

// With the dot product.
struct GroupedQuads128 {
  static constexpr int kKr = 4;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 3;
  static constexpr int kUnroll = 4;  // steps, of few rows
  static constexpr int kRegisters = 32;
  using A = int8x16_t;

  static OCTAVO_INLINE A load_a(const int8_t* p) {
    uint32_t x;
    __builtin_memcpy(&x, p, 4);
    return vreinterpretq_s8_u32(vdupq_n_u32(x));
  }

  template <class Dot>
  struct Products {
    static constexpr int kBurst = 0;  // sums never overflow
    static constexpr bool kScalesHigh = false;
    using Sum = int32x4_t;
    using Weights = int8x16_t;
    static OCTAVO_INLINE Sum zero() { return vdupq_n_s32(0); }
    static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) { Dot::dot(sum, a, w); }
  };

  template <class Dot>
  struct NibblesBy : Products<Dot> {
    static constexpr int kBits = 4;
    static constexpr bool kSigned = false;
    template <int kHalf>
    static OCTAVO_INLINE int8x16_t load(const uint8_t* p, int64_t) {
      const uint8x16_t x = vld1q_u8(p);
      return vreinterpretq_s8_u8(kHalf ? vshrq_n_u8(x, 4) : vandq_u8(x, vdupq_n_u8(15)));
    }
  };

  template <class Dot>
  struct BytesBy : Products<Dot> {
    static constexpr int kBits = 8;
    static constexpr bool kSigned = true;
    template <int kHalf>
    static OCTAVO_INLINE int8x16_t load(const uint8_t* p, int64_t pitch) {
      return vreinterpretq_s8_u8(vld1q_u8(p + kHalf * pitch));
    }
  };
};

// Without it: products in int16. Of 4 bits, 16 fit: 16 * 15 * 127 < 2^15.
struct GroupedPairs128 {
  static constexpr int kKr = 2;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 3;
  static constexpr int kUnroll = 4;  // steps, of few rows
  static constexpr int kRegisters = 32;
  using A = int8x8_t;

  static OCTAVO_INLINE A load_a(const int8_t* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return vreinterpret_s8_u16(vdup_n_u16(x));
  }

  struct Nibbles {
    static constexpr int kBits = 4;
    static constexpr int kBurst = 8;  // steps, of two products each
    static constexpr bool kScalesHigh = false;
    static constexpr bool kSigned = false;
    using Sum = int16x8_t;
    using Weights = int8x8_t;
    static OCTAVO_INLINE Sum zero() { return vdupq_n_s16(0); }
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t) {
      const uint8x8_t x = vld1_u8(p);
      return vreinterpret_s8_u8(kHalf ? vshr_n_u8(x, 4) : vand_u8(x, vdup_n_u8(15)));
    }
    static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) { sum = vmlal_s8(sum, a, w); }
    static OCTAVO_INLINE int32x4_t add(int32x4_t acc, Sum sum) { return vpadalq_s16(acc, sum); }
  };

  struct Bytes {
    static constexpr int kBits = 8;
    static constexpr int kBurst = 0;
    static constexpr bool kScalesHigh = false;
    static constexpr bool kSigned = true;
    using Sum = int32x4_t;
    using Weights = int8x8_t;
    static OCTAVO_INLINE Sum zero() { return vdupq_n_s32(0); }
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t pitch) {
      return vreinterpret_s8_u8(vld1_u8(p + kHalf * pitch));
    }
    static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) {
      sum = vpadalq_s16(sum, vmull_s8(a, w));
    }
  };
};

}  // namespace
}  // namespace octavo
