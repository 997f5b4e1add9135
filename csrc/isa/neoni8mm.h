// NEON with the matrix product (ARMv8.6 and earlier cores that offer it): smmla multiplies 2 rows
// by 2 columns, 8 values of K each:
//
//   A vector   [row 0: k0 .. k7][row 1: k0 .. k7]
//   B vector   [col 0: k0 .. k7][col 1: k0 .. k7]
//   acc        r0c0 r0c1 r1c0 r1c1
//
// A row vector of 4 columns and its partner, the row below, are two accumulators: columns 0 and 1,
// columns 2 and 3. An A vector costs two vector operations, a B vector none: the tile of 4 x 16
// beats taller ones, and is the widest whose B vectors stay in registers.
#pragma once

#include "isa/neon_bytes128.h"
#include "isa/neon_depthwise128.h"
#include "isa/neon_grouped128.h"
#include "isa/neon_vec128.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "neoni8mm";
  static constexpr uint32_t kRequired = kNeon | kNeonDot | kNeonI8mm;
  static constexpr bool kTestOnly = false;
  using Vector = Vector128;
  using Bytes = Bytes128;

  struct Depthwise : DepthwiseQuads128 {
    static OCTAVO_INLINE void dot(int32x4_t& acc, int8x16_t x, int8x16_t w) {
      acc = vdotq_s32(acc, x, w);
    }
  };

  struct Grouped : GroupedQuads128 {
    using Nibbles = NibblesBy<Depthwise>;
    using Bytes = BytesBy<Depthwise>;
  };

  struct U8S8 : Tile128 {
    static constexpr int kKr = 8;
    static constexpr int kAccRows = 2;
    static constexpr int kMaxVectors = 4;
    static constexpr int kRows[] = {14, 10, 6, 4};  // by row vectors of the tile
    static constexpr int kChains = 8;
    static constexpr int64_t kMacsPerDot = 32;
    static constexpr int kBVectorBytes = 16;
    using AVec = int8x16_t;
    using BVec = int8x16_t;
    using Flip = uint8x16_t;

    static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) { return vdupq_n_u8(flip); }
    static OCTAVO_INLINE AVec load_a(const uint8_t* p, int64_t lda, Flip flip) {
      return vreinterpretq_s8_u8(veorq_u8(vcombine_u8(vld1_u8(p), vld1_u8(p + lda)), flip));
    }
    static OCTAVO_INLINE AVec load_a_tail(const uint8_t* p, int64_t lda, int count, Flip flip) {
      const uint64x2_t x = vcombine_u64(vcreate_u64(first_bytes(p, count)),
                                        vcreate_u64(first_bytes(p + lda, count)));
      return vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u64(x), flip));
    }
    // The first 1 .. 7 bytes at p; nothing is read behind them.
    static OCTAVO_INLINE uint64_t first_bytes(const uint8_t* p, int count) {
      uint64_t x = 0;
      int i = 0;
      if (count & 4) {
        uint32_t four;
        __builtin_memcpy(&four, p, 4);
        x = four;
        i = 4;
      }
      if (count & 2) {
        uint16_t two;
        __builtin_memcpy(&two, p + i, 2);
        x |= static_cast<uint64_t>(two) << (8 * i);
        i += 2;
      }
      if (count & 1) x |= static_cast<uint64_t>(p[i]) << (8 * i);
      return x;
    }
    static OCTAVO_INLINE BVec load_b(const int8_t* p) { return vld1q_s8(p); }
    static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) { acc = vmmlaq_s32(acc, a, b); }

    // Row vectors of block i, column w, to its accumulators, and back: both swap 2 x 2 pairs.
    template <int kW, int kRowsHeld>
    static OCTAVO_INLINE void split(const Row (&rows)[kRowsHeld][kW], int i, int w, Acc (&acc)[2]) {
      swap_pairs(rows[2 * i][w], rows[2 * i + 1][w], acc[0], acc[1]);
    }
    template <int kW, int kRowsHeld>
    static OCTAVO_INLINE void join(const Acc (&acc)[2], Row (&rows)[kRowsHeld][kW], int i, int w) {
      swap_pairs(acc[0], acc[1], rows[2 * i][w], rows[2 * i + 1][w]);
    }
    static OCTAVO_INLINE void swap_pairs(int32x4_t a, int32x4_t b, int32x4_t& low,
                                         int32x4_t& high) {
      const int64x2_t x = vreinterpretq_s64_s32(a), y = vreinterpretq_s64_s32(b);
      low = vreinterpretq_s32_s64(vzip1q_s64(x, y));
      high = vreinterpretq_s32_s64(vzip2q_s64(x, y));
    }

    // kKr rows of kPackColumns bytes, rs apart, to one k-group of a panel.
    static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
      uint32x4_t upper[4], lower[4];
      interleave4(b, rs, flip, upper);
      interleave4(b + 4 * rs, rs, flip, lower);
      OCTAVO_UNROLL
      for (int i = 0; i < 4; ++i) {
        store16(out + 32 * i, vreinterpretq_u8_u32(vzip1q_u32(upper[i], lower[i])));
        store16(out + 32 * i + 16, vreinterpretq_u8_u32(vzip2q_u32(upper[i], lower[i])));
      }
    }
  };
};

}  // namespace
}  // namespace octavo
