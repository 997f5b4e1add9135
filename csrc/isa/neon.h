// NEON without the dot product: every ARM of 64 bits. Exact: vmull_s8 holds one product in an
// int16, vpadalq_s16 adds pairs of them into int32. Two products would not fit: 2 * (-128 * -128)
// comes out as -32768. Products in flight take registers too: larger tiles than 4 x 16 spill.
#pragma once

#include "isa/neon_bytes128.h"
#include "isa/neon_depthwise128.h"
#include "isa/neon_grouped128.h"
#include "isa/neon_vec128.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "neon";
  static constexpr uint32_t kRequired = kNeon;
  static constexpr bool kTestOnly = false;
  using Vector = Vector128;
  using Bytes = Bytes128;
  using Depthwise = DepthwiseSingle128;
  using Grouped = GroupedPairs128;

  struct U8S8 : Tile128 {
    static constexpr int kKr = 2;
    static constexpr int kMaxVectors = 4;
    static constexpr int kRows[] = {14, 8, 5, 4};  // by row vectors of the tile
    static constexpr int kChains = 8;
    static constexpr int64_t kMacsPerDot = 8;
    static constexpr int kBVectorBytes = 8;
    using AVec = int8x8_t;
    using BVec = int8x8_t;
    using Flip = uint32_t;

    // A is flipped and broadcast from a general register: that keeps the vector pipes free.
    static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) { return flip * 0x0101u; }
    static OCTAVO_INLINE AVec load_a(const uint8_t* p, int64_t, Flip flip) {
      uint16_t x;
      __builtin_memcpy(&x, p, 2);
      return vreinterpret_s8_u16(vdup_n_u16(static_cast<uint16_t>(x ^ flip)));
    }
    static OCTAVO_INLINE AVec load_a_tail(const uint8_t* p, int64_t, int, Flip flip) {
      return vreinterpret_s8_u16(vdup_n_u16(static_cast<uint16_t>(p[0] ^ flip)));
    }
    static OCTAVO_INLINE BVec load_b(const int8_t* p) { return vld1_s8(p); }
    static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) {
      acc = vpadalq_s16(acc, vmull_s8(a, b));
    }

    // kKr rows of kPackColumns bytes, rs apart, to one k-group of a panel.
    static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
      const uint8x16_t r0 = load16(b, flip), r1 = load16(b + rs, flip);
      store16(out, vzip1q_u8(r0, r1));
      store16(out + 16, vzip2q_u8(r0, r1));
    }
  };
};

}  // namespace
}  // namespace octavo
