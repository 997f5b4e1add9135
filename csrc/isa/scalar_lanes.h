// Plain C++ in the shape of a vector ISA: kL lanes, kK values of K a group. The scalar table is
// made of it, and so is scalar_odd, whose sizes divide nothing.
#pragma once

#include <stdint.h>

#include "isa/features.h"
#include "isa/row_accumulators.h"

namespace octavo {
namespace {

template <int kL>
struct ScalarVector {
  static constexpr int kLanes = kL;
  struct F {
    float v[kL];
  };
  struct I {
    int32_t v[kL];
  };

  template <class Body>
  static OCTAVO_INLINE F map(const Body& body) {
    F y;
    for (int i = 0; i < kL; ++i) y.v[i] = body(i);
    return y;
  }
  template <class Body>
  static OCTAVO_INLINE I map_i(const Body& body) {
    I y;
    for (int i = 0; i < kL; ++i) y.v[i] = body(i);
    return y;
  }

  static OCTAVO_INLINE F load(const float* p) {
    return map([&](int i) { return p[i]; });
  }
  static OCTAVO_INLINE I load_i(const int32_t* p) {
    return map_i([&](int i) { return p[i]; });
  }
  static OCTAVO_INLINE F load_part(const float* p, int64_t n) {
    return map([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static OCTAVO_INLINE I load_part_i(const int32_t* p, int64_t n) {
    return map_i([&](int i) { return i < n ? p[i] : 0; });
  }
  static OCTAVO_INLINE void store(float* p, F x) { store_part(p, x, kL); }
  static OCTAVO_INLINE void store(int32_t* p, I x) { store_part(p, x, kL); }
  static OCTAVO_INLINE void store_part(float* p, F x, int64_t n) {
    for (int i = 0; i < kL && i < n; ++i) p[i] = x.v[i];
  }
  static OCTAVO_INLINE void store_part(int32_t* p, I x, int64_t n) {
    for (int i = 0; i < kL && i < n; ++i) p[i] = x.v[i];
  }
  // IEEE binary16, widened.
  static OCTAVO_INLINE F load_half(const uint16_t* p) {
    return map([&](int i) {
      // The bits of a half, moved into place, are the value times 2^-112; NaN and infinity need
      // the greatest exponent, and NaN is made quiet.
      const uint32_t magnitude = static_cast<uint32_t>(p[i] & 0x7fff) << 13;
      float y;
      __builtin_memcpy(&y, &magnitude, 4);
      y *= 0x1p112f;
      uint32_t bits;
      __builtin_memcpy(&bits, &y, 4);
      if (magnitude >= 0x0f800000) bits = 0x7f800000 | magnitude | (magnitude > 0x0f800000) << 22;
      bits |= static_cast<uint32_t>(p[i] & 0x8000) << 16;
      __builtin_memcpy(&y, &bits, 4);
      return y;
    });
  }
  static OCTAVO_INLINE F set(float x) {
    return map([&](int) { return x; });
  }
  static OCTAVO_INLINE I set_i(int32_t x) {
    return map_i([&](int) { return x; });
  }

  static OCTAVO_INLINE F add(F a, F b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  static OCTAVO_INLINE F sub(F a, F b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  static OCTAVO_INLINE F mul(F a, F b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  static OCTAVO_INLINE F div(F a, F b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  // Without the instruction a fused multiply-add is a slow call: division is quicker.
  static constexpr bool kHasFma = false;
  static OCTAVO_INLINE F fma(F a, F b, F c) {
    return map([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  static OCTAVO_INLINE F fnma(F a, F b, F c) {
    return map([&](int i) { return __builtin_fmaf(-a.v[i], b.v[i], c.v[i]); });
  }
  static OCTAVO_INLINE F abs(F x) {
    return map([&](int i) { return __builtin_fabsf(x.v[i]); });
  }
  static OCTAVO_INLINE F copy_sign(F x, F sign) {  // x >= 0
    return map([&](int i) { return __builtin_copysignf(x.v[i], sign.v[i]); });
  }
  static OCTAVO_INLINE F select_less(F a, F b, F yes, F no) {  // a < b ? yes : no
    return map([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  // x 2^n rounded once; 1/2 < x < 2, n whole, n <= 129. In two factors: the first product is exact;
  // 0 below -150.
  static OCTAVO_INLINE F scale(F x, F n) {
    const I whole = round(n);
    return map([&](int i) {
      const int32_t n_i = whole.v[i] < -151 ? -151 : whole.v[i], half = n_i / 2;
      return x.v[i] * power(half) * power(n_i - half);
    });
  }
  static OCTAVO_INLINE float power(int32_t n) {  // 2^n
    const uint32_t bits = (static_cast<uint32_t>(n) + 127) << 23;
    float y;
    __builtin_memcpy(&y, &bits, 4);
    return y;
  }
  static OCTAVO_INLINE F first_lanes(F x, int64_t n) {
    return map([&](int i) { return i < n ? x.v[i] : 0.0f; });
  }
  static OCTAVO_INLINE F min(F a, F b) {
    return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static OCTAVO_INLINE F max(F a, F b) {
    return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static OCTAVO_INLINE F clip(F x, F lo, F hi) {
    return map([&](int i) {
      return x.v[i] < lo.v[i] ? lo.v[i] : x.v[i] > hi.v[i] ? hi.v[i] : x.v[i];
    });
  }
  static OCTAVO_INLINE bool any_nan(F a, F b) {
    bool any = false;
    for (int i = 0; i < kL; ++i) any |= a.v[i] != a.v[i] || b.v[i] != b.v[i];
    return any;
  }
  static OCTAVO_INLINE F nan_to_zero(F x) {
    return map([&](int i) { return x.v[i] == x.v[i] ? x.v[i] : 0.0f; });
  }
  static OCTAVO_INLINE F probe(F x, F sum) {
    return map([&](int i) { return sum.v[i] + x.v[i] * 0.0f; });
  }
  static OCTAVO_INLINE F to_float(I x) {
    return map([&](int i) { return static_cast<float>(x.v[i]); });
  }
  static OCTAVO_INLINE I round(F x) {
    return map_i([&](int i) {
      const float y = __builtin_rintf(x.v[i]);
      return y >= -0x1p31f && y < 0x1p31f ? static_cast<int32_t>(y) : -2147483647 - 1;
    });
  }
  // Sums and products wrap: unsigned arithmetic.
  static OCTAVO_INLINE I add_i(I a, I b) {
    return map_i([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]));
    });
  }
  static OCTAVO_INLINE I sub_i(I a, I b) {
    return map_i([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i]));
    });
  }
  static OCTAVO_INLINE I mul_i(I a, I b) {
    return map_i([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) * static_cast<uint32_t>(b.v[i]));
    });
  }

  static OCTAVO_INLINE float reduce_min(F x) {
    float y = x.v[0];
    for (int i = 1; i < kL; ++i) y = x.v[i] < y ? x.v[i] : y;
    return y;
  }
  static OCTAVO_INLINE float reduce_max(F x) {
    float y = x.v[0];
    for (int i = 1; i < kL; ++i) y = x.v[i] > y ? x.v[i] : y;
    return y;
  }
  static OCTAVO_INLINE float reduce_add(F x) {
    float y = x.v[0];
    for (int i = 1; i < kL; ++i) y += x.v[i];
    return y;
  }

  template <bool kSigned>
  static OCTAVO_INLINE I load_codes(const uint8_t* p) {
    return load_codes_part<kSigned>(p, kL);
  }
  template <bool kSigned>
  static OCTAVO_INLINE I load_codes_part(const uint8_t* p, int64_t n) {
    return map_i([&](int i) -> int32_t {
      if (i >= n) return 0;
      if (kSigned) return static_cast<int8_t>(p[i]);
      return p[i];
    });
  }
  static OCTAVO_INLINE int32_t bound(int32_t x, int32_t most) {
    return x > most ? most : x < -most - 1 ? -most - 1 : x;
  }
  // N vectors to bytes: each value saturated to int16, plus `offset`, saturated to int8, xor
  // `flip`.
  template <int N>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const I (&x)[N], int32_t offset, uint8_t flip) {
    store_codes_part<N>(p, x, offset, flip, N * kL);
  }
  template <int N>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const I (&x)[N], int32_t offset,
                                             uint8_t flip, int64_t n) {
    for (int i = 0; i < N * kL && i < n; ++i) {
      const int32_t code = bound(bound(x[i / kL].v[i % kL], 32767) + offset, 127);
      p[i] = static_cast<uint8_t>(static_cast<uint8_t>(code) ^ flip);
    }
  }

  static constexpr int kSumBytes = 1;
  using Sum = int64_t;
  static OCTAVO_INLINE Sum sum_zero() { return 0; }
  static OCTAVO_INLINE Sum sum_bytes(Sum sum, const uint8_t* p, uint8_t flip) {
    return sum + static_cast<uint8_t>(*p ^ flip);
  }
  static OCTAVO_INLINE int64_t sum_total(Sum sum) { return sum; }
};

template <int kL, int kK, bool kSignedA>
struct ScalarTile : RowAccumulators<ScalarVector<kL>> {
  using typename RowAccumulators<ScalarVector<kL>>::Acc;
  static constexpr int kKr = kK;
  static constexpr int kChains = 1;
  static constexpr bool kASigned = kSignedA;
  static constexpr bool kFlips = true;
  static constexpr int kExpandedBytes = 1;
  static constexpr int kMc = 64;
  static constexpr int64_t kMacsPerDot = kL * kK;
  static constexpr int kBVectorBytes = kL * kK;
  using AValue = uint8_t;
  template <bool kStored>
  using BValue = int8_t;
  struct AVec {
    int32_t v[kK];
  };
  struct BVec {
    int8_t v[kL * kK];
  };
  using Flip = uint8_t;

  static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) { return flip; }
  static OCTAVO_INLINE int32_t value_a(uint8_t x, Flip flip) {
    const uint8_t y = x ^ flip;
    if (kSignedA) return static_cast<int8_t>(y);
    return y;
  }
  static OCTAVO_INLINE AVec load_a(const uint8_t* p, int64_t, Flip flip) {
    AVec a;
    for (int i = 0; i < kK; ++i) a.v[i] = value_a(p[i], flip);
    return a;
  }
  static OCTAVO_INLINE AVec load_a_tail(const uint8_t* p, int64_t, int count, Flip flip) {
    AVec a = {};
    for (int i = 0; i < count; ++i) a.v[i] = value_a(p[i], flip);
    return a;
  }
  static OCTAVO_INLINE BVec load_b(const int8_t* p) {
    BVec b;
    for (int i = 0; i < kL * kK; ++i) b.v[i] = p[i];
    return b;
  }
  static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) {
    for (int c = 0; c < kL; ++c) {
      int32_t sum = 0;
      for (int i = 0; i < kK; ++i) sum += a.v[i] * b.v[c * kK + i];
      acc.v[c] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[c]) + static_cast<uint32_t>(sum));
    }
  }
  template <class X>
  static OCTAVO_INLINE void keep(X&) {}
  template <class X>
  static OCTAVO_INLINE void opaque(X& x) {
    asm volatile("" : "+m"(x));
  }
  template <class X>
  static OCTAVO_INLINE void in_order(X&) {}
  template <class P>
  static OCTAVO_INLINE void keep_pointer(P&) {}
  static OCTAVO_INLINE void prefetch_write(const char*) {}
  static OCTAVO_INLINE void prefetch_read(const char*) {}

  static constexpr int kPackColumns = kL;
  static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
    for (int c = 0; c < kL; ++c) {
      for (int i = 0; i < kK; ++i) out[c * kK + i] = static_cast<int8_t>(b[i * rs + c] ^ flip);
    }
  }
};

}  // namespace
}  // namespace octavo
