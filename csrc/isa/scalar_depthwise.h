// Depthwise convolution in plain C++: kL lanes, kT taps a product, kV vectors in each of kP parts.
#pragma once

#include <stdint.h>

#include "isa/scalar_lanes.h"

namespace octavo {
namespace {

template <int kL, int kT, int kV, int kP, bool kSigned>
struct ScalarDepthwise {
  static constexpr int kTaps = kT;
  static constexpr int kVectors = kV;
  static constexpr int kParts = kP;
  static constexpr int kBlock = kL * kV * kP;
  static constexpr bool kHoldsRows = kP > 1;  // accumulators of several rows, in registers
  static constexpr int kWeightsHeld = 0;
  using Weight = int8_t;
  using Flip = uint8_t;
  using I = typename ScalarVector<kL>::I;
  struct Taps {
    int32_t v[kL * kT];
  };
  struct Weights {
    int8_t v[kL * kT];
  };

  static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) { return flip; }
  static constexpr int64_t channel(int part, int v) { return kL * (part * kV + v); }
  template <class X>
  static OCTAVO_INLINE void reorder(X&) {}

  template <int kPart>
  static OCTAVO_INLINE void order_weights(const int8_t* in, int8_t* out) {
    for (int i = 0; i < kV * kL * kT; ++i) out[i] = in[channel(kPart, 0) * kT + i];
  }
  static OCTAVO_INLINE Weights load_weights(const int8_t* p) {
    Weights w;
    for (int i = 0; i < kL * kT; ++i) w.v[i] = p[i];
    return w;
  }
  template <int kPart, int kCount>
  static OCTAVO_INLINE void load_taps(const uint8_t* const (&p)[kT], Flip flip, Taps (&x)[kV]) {
    for (int v = 0; v < kV; ++v) {
      for (int i = 0; i < kL; ++i) {
        for (int t = 0; t < kT; ++t) {
          const uint8_t byte = t < kCount ? p[t][channel(kPart, v) + i] ^ flip : 0;
          x[v].v[i * kT + t] = kSigned ? static_cast<int8_t>(byte) : static_cast<int32_t>(byte);
        }
      }
    }
  }
  static OCTAVO_INLINE void dot(I& acc, const Taps& x, const Weights& w) {
    for (int i = 0; i < kL; ++i) {
      int32_t sum = 0;
      for (int t = 0; t < kT; ++t) sum += x.v[i * kT + t] * w.v[i * kT + t];
      acc.v[i] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[i]) + static_cast<uint32_t>(sum));
    }
  }

  // What turns values into codes: each saturated to int16, plus `offset`, saturated to int8,
  // clamped to [least, most], xor `flip`.
  struct Codes {
    int32_t offset, least, most;
    uint8_t flip;
  };
  static OCTAVO_INLINE Codes codes(int32_t offset, int32_t least, int32_t most, uint8_t flip) {
    return {offset, least, most, flip};
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const I (&x)[kV], const Codes& c) {
    store_codes_part<kPart>(p, x, c, kBlock);
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const I (&x)[kV], const Codes& c,
                                             int64_t n) {
    for (int i = 0; i < kV * kL; ++i) {
      const int64_t at = channel(kPart, 0) + i;
      if (at >= n) return;
      const int32_t word = ScalarVector<kL>::bound(x[i / kL].v[i % kL], 32767) + c.offset;
      const int32_t code = ScalarVector<kL>::bound(word, 127);
      p[at] = static_cast<uint8_t>(static_cast<uint8_t>(code < c.least  ? c.least
                                                        : code > c.most ? c.most
                                                                        : code) ^
                                   c.flip);
    }
  }

  static constexpr int kCopyBytes = 1;
  static OCTAVO_INLINE void fill(uint8_t* out, uint8_t byte) { *out = byte; }
  static OCTAVO_INLINE void copy(const uint8_t* x, uint8_t* out) { *out = *x; }
};

}  // namespace
}  // namespace octavo
