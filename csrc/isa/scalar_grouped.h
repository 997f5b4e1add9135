// Weights in groups in plain C++: kL lanes, kK values of K a k-group, kV vectors a panel; sums are
// taken over kSteps steps at a time (0: all).
#pragma once

#include <stdint.h>

#include "isa/scalar_lanes.h"

namespace octavo {
namespace {

template <int kL, int kK, int kV, int kR, int kSteps, bool kSigned8>
struct ScalarGrouped {
  static constexpr int kKr = kK;
  static constexpr int kVectors = kV;
  static constexpr int kRows = kR;
  static constexpr int kUnroll = 1;
  static constexpr int kRegisters = 16;
  using I = typename ScalarVector<kL>::I;
  struct A {
    int8_t v[kK];
  };
  static OCTAVO_INLINE A load_a(const int8_t* p) {
    A a;
    for (int i = 0; i < kK; ++i) a.v[i] = p[i];
    return a;
  }

  struct Products {
    static constexpr int kBurst = kSteps;
    using Sum = I;
    struct Weights {
      int16_t v[kL * kK];
    };
    static OCTAVO_INLINE Sum zero() { return ScalarVector<kL>::set_i(0); }
    static OCTAVO_INLINE I add(I acc, Sum sum) { return ScalarVector<kL>::add_i(acc, sum); }
    static OCTAVO_INLINE void dot(Sum& sum, const A& a, const Weights& w) {
      for (int c = 0; c < kL; ++c) {
        uint32_t x = static_cast<uint32_t>(sum.v[c]);
        for (int i = 0; i < kK; ++i) x += static_cast<uint32_t>(a.v[i] * w.v[c * kK + i]);
        sum.v[c] = static_cast<int32_t>(x);
      }
    }
  };

  struct Nibbles : Products {
    static constexpr int kBits = 4;
    static constexpr bool kScalesHigh = true;
    static constexpr bool kSigned = false;
    using typename Products::Weights;
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t) {
      Weights w;
      for (int i = 0; i < kL * kK; ++i) w.v[i] = kHalf ? p[i] >> 4 : p[i] & 15;
      return w;
    }
    template <int kHalf>
    static OCTAVO_INLINE Weights load_scaled(const uint8_t* p, int64_t) {
      Weights w;
      for (int i = 0; i < kL * kK; ++i) w.v[i] = p[i] & (kHalf ? 240 : 15);
      return w;
    }
    static OCTAVO_INLINE I unscale(I x) {
      return ScalarVector<kL>::map_i([&](int i) { return x.v[i] >> 4; });
    }
  };

  struct Bytes : Products {
    static constexpr int kBits = 8;
    static constexpr bool kScalesHigh = false;
    static constexpr bool kSigned = kSigned8;
    using typename Products::Weights;
    template <int kHalf>
    static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t pitch) {
      Weights w;
      for (int i = 0; i < kL * kK; ++i) {
        const uint8_t x = p[kHalf * pitch + i];
        w.v[i] = kSigned8 ? static_cast<int8_t>(x) : x;
      }
      return w;
    }
  };
};

}  // namespace
}  // namespace octavo
