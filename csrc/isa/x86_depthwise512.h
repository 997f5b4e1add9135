// Depthwise convolution in AVX512-VNNI: blocks of 64 channels, four taps a product. Unpacking works
// in 128-bit lanes: lane l of accumulator v holds channels 16 l + 4 v .. 16 l + 4 v + 3, which is
// the transpose of 4 x 4 lanes, and what two levels of packs turn into bytes in order.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace octavo {
namespace {

struct Depthwise512 {
  static constexpr int kTaps = 4;
  static constexpr int kVectors = 4;
  static constexpr int kParts = 1;
  static constexpr int kBlock = 64;
  static constexpr bool kHoldsRows = true;  // accumulators of several rows, in registers
  static constexpr int kWeightsHeld = 12;
  using Weight = int8_t;
  using Taps = __m512i;
  using Weights = __m512i;
  using Flip = __m512i;

  // First channel of row vector v once reordered.
  static constexpr int64_t channel(int, int v) { return 16 * v; }
  // Accumulators to row vectors of channels in order, and back.
  static OCTAVO_INLINE void reorder(__m512i (&x)[4]) {
    const __m512i a = _mm512_shuffle_i32x4(x[0], x[1], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(x[0], x[1], 0xEE);
    const __m512i c = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(x[2], x[3], 0xEE);
    x[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[1] = _mm512_shuffle_i32x4(a, c, 0xDD);
    x[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[3] = _mm512_shuffle_i32x4(b, d, 0xDD);
  }
  static OCTAVO_INLINE void reorder(__m512 (&x)[4]) {
    __m512i y[4];
    for (int v = 0; v < 4; ++v) y[v] = _mm512_castps_si512(x[v]);
    reorder(y);
    for (int v = 0; v < 4; ++v) x[v] = _mm512_castsi512_ps(y[v]);
  }

  template <int kPart>
  static OCTAVO_INLINE void order_weights(const int8_t* in, int8_t* out) {
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(in + 64 * v);
    reorder(x);
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(out + 64 * v, x[v]);
  }
  static OCTAVO_INLINE __m512i load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }

  static OCTAVO_INLINE __m512i load(const uint8_t* p, Flip flip) {
    return _mm512_xor_si512(_mm512_loadu_si512(p), flip);
  }
  // The first kCount of four runs of 64 bytes, interleaved; the others count as zeros.
  static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) {
    return _mm512_set1_epi8(static_cast<char>(flip));
  }
  template <int kPart, int kCount>
  static OCTAVO_INLINE void load_taps(const uint8_t* const (&p)[4], Flip flip, __m512i (&x)[4]) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i r0 = load(p[0], flip);
    const __m512i r1 = kCount > 1 ? load(p[1], flip) : zero;
    const __m512i r2 = kCount > 2 ? load(p[2], flip) : zero;
    const __m512i r3 = kCount > 3 ? load(p[3], flip) : zero;
    const __m512i t0 = _mm512_unpacklo_epi8(r0, r1), t1 = _mm512_unpackhi_epi8(r0, r1);
    const __m512i t2 = kCount > 2 ? _mm512_unpacklo_epi8(r2, r3) : zero;
    const __m512i t3 = kCount > 2 ? _mm512_unpackhi_epi8(r2, r3) : zero;
    x[0] = _mm512_unpacklo_epi16(t0, t2);
    x[1] = _mm512_unpackhi_epi16(t0, t2);
    x[2] = _mm512_unpacklo_epi16(t1, t3);
    x[3] = _mm512_unpackhi_epi16(t1, t3);
  }
  static OCTAVO_INLINE void dot(__m512i& acc, __m512i x, __m512i w) {
    acc = _mm512_dpbusd_epi32(acc, x, w);
  }

  // What turns values into codes: each saturated to int16, plus `offset`, saturated to int8,
  // clamped to [least, most], xor `flip`.
  struct Codes {
    __m512i offset, least, most, flip;
  };
  static OCTAVO_INLINE Codes codes(int32_t offset, int32_t least, int32_t most, uint8_t flip) {
    return {_mm512_set1_epi16(static_cast<int16_t>(offset)),
            _mm512_set1_epi8(static_cast<char>(least)), _mm512_set1_epi8(static_cast<char>(most)),
            _mm512_set1_epi8(static_cast<char>(flip))};
  }
  static OCTAVO_INLINE __m512i pack(const __m512i (&x)[4], const Codes& c) {
    const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(x[0], x[1]), c.offset);
    const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(x[2], x[3]), c.offset);
    return _mm512_xor_si512(
        _mm512_min_epi8(_mm512_max_epi8(_mm512_packs_epi16(low, high), c.least), c.most), c.flip);
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const __m512i (&x)[4], const Codes& c) {
    _mm512_storeu_si512(p, pack(x, c));
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const __m512i (&x)[4], const Codes& c,
                                             int64_t n) {
    const __mmask64 first = n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
    _mm512_mask_storeu_epi8(p, first, pack(x, c));
  }

  static constexpr int kCopyBytes = 64;
  static OCTAVO_INLINE void fill(uint8_t* out, uint8_t byte) {
    _mm512_storeu_si512(out, _mm512_set1_epi8(static_cast<char>(byte)));
  }
  static OCTAVO_INLINE void copy(const uint8_t* x, uint8_t* out) {
    _mm512_storeu_si512(out, _mm512_loadu_si512(x));
  }
};

}  // namespace
}  // namespace octavo
