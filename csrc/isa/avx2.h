// AVX2 without VNNI, exact: vpmaddwd on int16. vpmaddubsw, which others use here, saturates at
// int16: {255, 255} . {127, 127} = 64770 comes out as 32767. A is widened once a block, B as it is
// read or, where several tiles share a panel, once a panel.
#pragma once

#include "isa/x86_bytes256.h"
#include "isa/x86_depthwise256.h"
#include "isa/x86_grouped256.h"
#include "isa/x86_vec256.h"

namespace octavo {
namespace {

struct Isa {
  static constexpr const char* kName = "avx2";
  static constexpr uint32_t kRequired = kAvx2 | kFma | kF16c;
  static constexpr bool kTestOnly = false;
  using Vector = Vector256;
  using Words = Words256;
  using Bytes = Bytes256;
  using Depthwise = DepthwisePairs256;
  using Grouped = GroupedPairs256;

  struct U8S8 : Tile256 {
    static constexpr int kKr = 2;
    static constexpr int kMaxVectors = 2;
    static constexpr int kRows[] = {12, 6};  // by row vectors of the tile
    static constexpr int kChains = 4;
    static constexpr bool kASigned = false;
    static constexpr bool kFlips = false;
    static constexpr int kExpandedBytes = 2;
    static constexpr int kMc = 96;
    static constexpr int64_t kMacsPerDot = 16;
    static constexpr int kBVectorBytes = 32;
    using AValue = int16_t;
    template <bool kStored>
    using BValue = typename Select<kStored, int8_t, int16_t>::type;

    static OCTAVO_INLINE AVec load_a(const int16_t* p, int64_t, Flip) {
      int32_t x;
      __builtin_memcpy(&x, p, 4);
      return _mm256_set1_epi32(x);
    }
    static OCTAVO_INLINE AVec load_a_tail(const int16_t* p, int64_t, int, Flip) {
      return _mm256_set1_epi32(static_cast<uint16_t>(p[0]));
    }
    static OCTAVO_INLINE BVec load_b(const int8_t* p) {
      return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static OCTAVO_INLINE BVec load_b(const int16_t* p) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static OCTAVO_INLINE void store_b(int16_t* p, BVec b) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b);
    }
    static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) {
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
    }

    // k bytes to int16, zeros up to a multiple of kKr.
    static OCTAVO_INLINE void widen_a(const uint8_t* a, int64_t k, bool is_signed, int16_t* out) {
      int64_t i = 0;
      for (; i + 16 <= k; i += 16) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
        store_b(out + i, is_signed ? _mm256_cvtepi8_epi16(x) : _mm256_cvtepu8_epi16(x));
      }
      for (; i < k; ++i) out[i] = is_signed ? static_cast<int8_t>(a[i]) : a[i];
      if (i % kKr) out[i] = 0;
    }

    static constexpr int kPackColumns = 16;
    // kKr rows of kPackColumns bytes, rs apart, to one k-group of a panel.
    static OCTAVO_INLINE void interleave(const uint8_t* b, int64_t rs, uint8_t flip, int8_t* out) {
      const __m128i x = _mm_set1_epi8(static_cast<char>(flip));
      const __m128i r0 = load16(b, x), r1 = load16(b + rs, x);
      store16(out, _mm_unpacklo_epi8(r0, r1));
      store16(out + 16, _mm_unpackhi_epi8(r0, r1));
    }
  };
};

}  // namespace
}  // namespace octavo
