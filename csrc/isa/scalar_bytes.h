// 4 kL bytes in plain C++.
#pragma once

#include <stdint.h>

#include "isa/scalar_lanes.h"

namespace octavo {
namespace {

template <int kL>
struct ScalarBytes {
  static constexpr int kCount = 4 * kL;
  static constexpr bool kHasMasks = false;  // a part costs no more than the whole
  using F = typename ScalarVector<kL>::F;
  using I = typename ScalarVector<kL>::I;
  struct B {
    uint8_t v[kCount];
  };

  template <class Body>
  static OCTAVO_INLINE B map(const Body& body) {
    B y;
    for (int i = 0; i < kCount; ++i) y.v[i] = static_cast<uint8_t>(body(i));
    return y;
  }
  static OCTAVO_INLINE B load(const uint8_t* p) {
    return map([&](int i) { return p[i]; });
  }
  static OCTAVO_INLINE B load_part(const uint8_t* p, int64_t n) {
    return map([&](int i) { return i < n ? p[i] : 0; });
  }
  static OCTAVO_INLINE void store(uint8_t* p, B x) { store_part(p, x, kCount); }
  static OCTAVO_INLINE void store_part(uint8_t* p, B x, int64_t n) {
    for (int i = 0; i < kCount && i < n; ++i) p[i] = x.v[i];
  }
  static OCTAVO_INLINE B set(uint8_t x) {
    return map([&](int) { return x; });
  }
  static OCTAVO_INLINE B exclusive_or(B a, B b) {
    return map([&](int i) { return a.v[i] ^ b.v[i]; });
  }
  template <bool kSigned>
  static OCTAVO_INLINE int32_t value(uint8_t x) {
    return kSigned ? static_cast<int8_t>(x) : static_cast<int32_t>(x);
  }
  template <bool kSigned>
  static OCTAVO_INLINE B min(B a, B b) {
    return map(
        [&](int i) { return value<kSigned>(a.v[i]) < value<kSigned>(b.v[i]) ? a.v[i] : b.v[i]; });
  }
  template <bool kSigned>
  static OCTAVO_INLINE B max(B a, B b) {
    return map(
        [&](int i) { return value<kSigned>(a.v[i]) > value<kSigned>(b.v[i]) ? a.v[i] : b.v[i]; });
  }

  struct Lookup {
    const uint8_t* table;
    OCTAVO_INLINE explicit Lookup(const uint8_t* given) : table(given) {}
    OCTAVO_INLINE B of(B x) const {
      return map([&](int i) { return table[x.v[i]]; });
    }
  };

  // Bytes as floats less a zero point, in an order that narrow() undoes.
  static OCTAVO_INLINE F center(int32_t zero_point) {
    return ScalarVector<kL>::set(static_cast<float>(zero_point));
  }
  static OCTAVO_INLINE void centered(B x, F center, F (&y)[4]) {
    for (int i = 0; i < kCount; ++i)
      y[i / kL].v[i % kL] = static_cast<float>(x.v[i]) - center.v[i % kL];
  }
  // Each value saturated to int16, plus `offset`, saturated to int8.
  static OCTAVO_INLINE B narrow(const I (&x)[4], int32_t offset) {
    B y;
    ScalarVector<kL>::template store_codes<4>(y.v, x, offset, 0);
    return y;
  }

  // Sums of bytes in 16 bits, then in 32: in narrow()'s order.
  struct W {
    uint16_t v[kCount / 2];
  };
  static OCTAVO_INLINE void add_words(W (&sum)[2], B x) {
    for (int i = 0; i < kCount; ++i) {
      uint16_t& word = sum[i / (kCount / 2)].v[i % (kCount / 2)];
      word = static_cast<uint16_t>(word + x.v[i]);
    }
  }
  static OCTAVO_INLINE void widen_words(const W (&sum)[2], I (&total)[4]) {
    for (int i = 0; i < kCount; ++i)
      total[i / kL].v[i % kL] += sum[i / (kCount / 2)].v[i % (kCount / 2)];
  }
  static OCTAVO_INLINE W no_words() { return {}; }

  static constexpr int kLanes16 = 0;  // a plain loop transposes as well

  // 16 bytes, and those that `index` names.
  struct Lane {
    uint8_t v[16];
  };
  static OCTAVO_INLINE Lane load_lane(const uint8_t* p) {
    Lane x;
    __builtin_memcpy(x.v, p, 16);
    return x;
  }
  static OCTAVO_INLINE void store_lane(uint8_t* p, Lane x) { __builtin_memcpy(p, x.v, 16); }
  static OCTAVO_INLINE Lane pick(Lane x, Lane index) {
    Lane y;
    for (int i = 0; i < 16; ++i) y.v[i] = x.v[index.v[i]];
    return y;
  }
};

}  // namespace
}  // namespace octavo
