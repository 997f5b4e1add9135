// NEON with the dot product (ARMv8.2): sdot on 4 columns at a time. The tile of 5 x 16 keeps the
// vector pipes busy; GCC 12 spills at 6 x 16.
#pragma once

#include "isa/neon_bytes128.h"
#include "isa/neon_depthwise128.h"
#include "isa/neon_grouped128.h"
#include "isa/neon_vec128.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "neondot";
  static constexpr uint32_t kRequired = kNeon | kNeonDot;
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
    static constexpr int kKr = 4;
    static constexpr int kMaxVectors = 4;
    static constexpr int kRows[] = {14, 10, 7, 5};  // by row vectors of the tile
    static constexpr int kChains = 8;
    static constexpr int64_t kMacsPerDot = 16;
    static constexpr int kBVectorBytes = 16;
    using AVec = int8x16_t;
    using BVec = int8x16_t;
    using Flip = uint32_t;

    // A is flipped and broadcast from a general register: that keeps the vector pipes free.
    static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) { return flip * 0x01010101u; }
    static OCTAVO_INLINE AVec load_a(const uint8_t* p, int64_t, Flip flip) {
      uint32_t x;
      __builtin_memcpy(&x, p, 4);
      return vreinterpretq_s8_u32(vdupq_n_u32(x ^ flip));
    }
    static OCTAVO_INLINE AVec load_a_tail(const uint8_t* p, int64_t, int count, Flip flip) {
      uint32_t x = p[0];
      if (count > 1) x |= static_cast<uint32_t>(p[1]) << 8;
      if (count > 2) x |= static_cast<uint32_t>(p[2]) << 16;
      return vreinterpretq_s8_u32(vdupq_n_u32(x ^ flip));
    }
    static OCTAVO_INLINE BVec load_b(const int8_t* p) { return vld1q_s8(p); }
    static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) { acc = vdotq_s32(acc, a, b); }

    // kKr rows of kPackColumns bytes, rs apart, to one k-group of a panel.
    static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
      uint32x4_t x[4];
      interleave4(b, rs, flip, x);
      OCTAVO_UNROLL
      for (int i = 0; i < 4; ++i) store16(out + 16 * i, vreinterpretq_u8_u32(x[i]));
    }
  };
};

}  // namespace
}  // namespace octavo
