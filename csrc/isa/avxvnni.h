// AVX-VNNI: vpdpbusd on 8 columns at a time; 16 registers hold a tile of 6 x 16,
// and no flip: A comes as uint8.
#pragma once

#include "isa/x86_bytes256.h"
#include "isa/x86_depthwise256.h"
#include "isa/x86_grouped256.h"
#include "isa/x86_vec256.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "avxvnni";
  static constexpr uint32_t kRequired = kAvx2 | kFma | kF16c | kAvxVnni;
  static constexpr bool kTestOnly = false;
  using Vector = Vector256;
  using Bytes = Bytes256;

  struct Depthwise : Depthwise256 {
    static constexpr int kTaps = 4;
    using Weight = int8_t;

    // The first kCount of four runs of 32 bytes, interleaved; the others count as zeros.
    template <int kPart, int kCount>
    static OCTAVO_INLINE void load_taps(const uint8_t* const (&p)[4], Flip flip, __m256i (&x)[2]) {
      const __m256i zero = _mm256_setzero_si256();
      const __m256i t0 = unpack8<kPart>(load(p[0], flip), kCount > 1 ? load(p[1], flip) : zero);
      const __m256i t2 =
          kCount > 2 ? unpack8<kPart>(load(p[2], flip), kCount > 3 ? load(p[3], flip) : zero)
                     : zero;
      x[0] = _mm256_unpacklo_epi16(t0, t2);
      x[1] = _mm256_unpackhi_epi16(t0, t2);
    }
    static OCTAVO_INLINE void dot(__m256i& acc, __m256i x, __m256i w) {
      acc = _mm256_dpbusd_avx_epi32(acc, x, w);
    }
  };

  struct Grouped : Grouped256 {
    static OCTAVO_INLINE void dot_bytes(__m256i& sum, __m256i a, __m256i w) {
      sum = _mm256_dpbusd_avx_epi32(sum, w, a);
    }

    struct Nibbles : NibbleWeights {
      static constexpr int kBurst = 0;  // sums never overflow
      static constexpr bool kScalesHigh = true;
      // High nibbles where they are, 16 times too large: their sum is shifted instead.
      template <int kHalf>
      static OCTAVO_INLINE Weights load_scaled(const uint8_t* p, int64_t) {
        return _mm256_and_si256(load_bytes(p), _mm256_set1_epi8(kHalf ? -16 : 15));
      }
      static OCTAVO_INLINE Sum unscale(Sum x) { return _mm256_srai_epi32(x, 4); }
      static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) { dot_bytes(sum, a, w); }
    };

    struct Bytes {
      static constexpr int kBits = 8;
      static constexpr int kBurst = 0;
      static constexpr bool kScalesHigh = false;
      static constexpr bool kSigned = false;
      using Weights = __m256i;
      using Sum = __m256i;
      static OCTAVO_INLINE Sum zero() { return _mm256_setzero_si256(); }
      template <int kHalf>
      static OCTAVO_INLINE Weights load(const uint8_t* p, int64_t pitch) {
        return load_bytes(p + kHalf * pitch);
      }
      static OCTAVO_INLINE void dot(Sum& sum, A a, Weights w) { dot_bytes(sum, a, w); }
    };
  };

  struct U8S8 : Tile256 {
    static constexpr int kKr = 4;
    static constexpr int kMaxVectors = 2;
    static constexpr int kRows[] = {12, 6};  // by row vectors of the tile
    static constexpr int kChains = 8;
    static constexpr bool kASigned = false;
    static constexpr bool kFlips = false;
    static constexpr int kExpandedBytes = 1;
    static constexpr int kMc = 96;
    static constexpr int64_t kMacsPerDot = 32;
    static constexpr int kBVectorBytes = 32;
    using AValue = uint8_t;
    template <bool kStored>
    using BValue = int8_t;

    static OCTAVO_INLINE AVec load_a(const uint8_t* p, int64_t, Flip) {
      int32_t x;
      __builtin_memcpy(&x, p, 4);
      return _mm256_set1_epi32(x);
    }
    static OCTAVO_INLINE AVec load_a_tail(const uint8_t* p, int64_t, int count, Flip) {
      int32_t x = p[0];
      if (count > 1) x |= p[1] << 8;
      if (count > 2) x |= p[2] << 16;
      return _mm256_set1_epi32(x);
    }
    static OCTAVO_INLINE BVec load_b(const int8_t* p) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) {
      acc = _mm256_dpbusd_avx_epi32(acc, a, b);
    }

    static constexpr int kPackColumns = 16;
    // kKr rows of kPackColumns bytes, rs apart, to one k-group of a panel.
    static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
      const __m128i x = _mm_set1_epi8(static_cast<char>(flip));
      const __m128i r0 = load16(b, x), r1 = load16(b + rs, x);
      const __m128i r2 = load16(b + 2 * rs, x), r3 = load16(b + 3 * rs, x);
      const __m128i t0 = _mm_unpacklo_epi8(r0, r1), t1 = _mm_unpackhi_epi8(r0, r1);
      const __m128i t2 = _mm_unpacklo_epi8(r2, r3), t3 = _mm_unpackhi_epi8(r2, r3);
      store16(out, _mm_unpacklo_epi16(t0, t2));
      store16(out + 16, _mm_unpackhi_epi16(t0, t2));
      store16(out + 32, _mm_unpacklo_epi16(t1, t3));
      store16(out + 48, _mm_unpackhi_epi16(t1, t3));
    }
  };
};

}  // namespace
}  // namespace octavo
