// Depthwise convolution in 256 bits: blocks of 32 channels in two parts, since 16 registers hold no
// more accumulators. Unpacking works in 128-bit lanes: of part h, lane l of accumulator v holds
// channels 16 l + 8 h + 4 v .. 16 l + 8 h + 4 v + 3.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace octavo {
namespace {

struct Depthwise256 {
  static constexpr int kVectors = 2;
  static constexpr int kParts = 2;
  static constexpr int kBlock = 32;
  static constexpr bool kHoldsRows = true;  // accumulators of several rows, in registers
  static constexpr int kWeightsHeld = 0;
  using Taps = __m256i;
  using Weights = __m256i;
  using Flip = __m256i;

  // First channel of row vector v once reordered.
  static constexpr int64_t channel(int part, int v) { return 16 * v + 8 * part; }
  // Accumulators to row vectors of channels in order, and back.
  static OCTAVO_INLINE void reorder(__m256i (&x)[2]) {
    const __m256i low = _mm256_permute2x128_si256(x[0], x[1], 0x20);
    x[1] = _mm256_permute2x128_si256(x[0], x[1], 0x31);
    x[0] = low;
  }
  static OCTAVO_INLINE void reorder(__m256 (&x)[2]) {
    const __m256 low = _mm256_permute2f128_ps(x[0], x[1], 0x20);
    x[1] = _mm256_permute2f128_ps(x[0], x[1], 0x31);
    x[0] = low;
  }

  // A channel's weights of one group are four bytes.
  template <int kPart, class Weight>
  static OCTAVO_INLINE void order_weights(const Weight* in, Weight* out) {
    const auto* from = reinterpret_cast<const char*>(in);
    __m256i x[2] = {load(from + 4 * channel(kPart, 0)), load(from + 4 * channel(kPart, 1))};
    reorder(x);
    store(out, x[0]);
    store(reinterpret_cast<char*>(out) + 32, x[1]);
  }
  static OCTAVO_INLINE __m256i load_weights(const void* p) { return load(p); }
  static OCTAVO_INLINE __m256i load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static OCTAVO_INLINE __m256i load(const uint8_t* p, Flip flip) {
    return _mm256_xor_si256(load(p), flip);
  }
  static OCTAVO_INLINE Flip broadcast_flip(uint8_t flip) {
    return _mm256_set1_epi8(static_cast<char>(flip));
  }
  static OCTAVO_INLINE void store(void* p, __m256i x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x);
  }
  template <int kPart>
  static OCTAVO_INLINE __m256i unpack8(__m256i a, __m256i b) {
    return kPart == 0 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b);
  }

  // What turns values into codes: each saturated to int16, plus `offset`, saturated to int8,
  // clamped to [least, most], xor `flip`.
  struct Codes {
    __m256i offset, least, most, flip;
  };
  static OCTAVO_INLINE Codes codes(int32_t offset, int32_t least, int32_t most, uint8_t flip) {
    return {_mm256_set1_epi16(static_cast<int16_t>(offset)),
            _mm256_set1_epi8(static_cast<char>(least)), _mm256_set1_epi8(static_cast<char>(most)),
            _mm256_set1_epi8(static_cast<char>(flip))};
  }
  // Eight bytes in the low half of each lane.
  static OCTAVO_INLINE __m256i pack(const __m256i (&x)[2], const Codes& c) {
    const __m256i words = _mm256_adds_epi16(_mm256_packs_epi32(x[0], x[1]), c.offset);
    return _mm256_xor_si256(
        _mm256_min_epi8(_mm256_max_epi8(_mm256_packs_epi16(words, words), c.least), c.most),
        c.flip);
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes(uint8_t* p, const __m256i (&x)[2], const Codes& c) {
    const __m256i bytes = pack(x, c);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p + channel(kPart, 0)),
                     _mm256_castsi256_si128(bytes));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p + channel(kPart, 1)),
                     _mm256_extracti128_si256(bytes, 1));
  }
  template <int kPart>
  static OCTAVO_INLINE void store_codes_part(uint8_t* p, const __m256i (&x)[2], const Codes& c,
                                             int64_t n) {
    const __m256i bytes = pack(x, c);
    store_half<kPart, 0>(p, _mm256_castsi256_si128(bytes), n);
    store_half<kPart, 1>(p, _mm256_extracti128_si256(bytes, 1), n);
  }
  template <int kPart, int kV>
  static OCTAVO_INLINE void store_half(uint8_t* p, __m128i bytes, int64_t n) {
    constexpr int64_t kFirst = channel(kPart, kV);
    if (n >= kFirst + 8) return _mm_storel_epi64(reinterpret_cast<__m128i*>(p + kFirst), bytes);
    uint8_t all[8];
    _mm_storel_epi64(reinterpret_cast<__m128i*>(all), bytes);
    for (int64_t i = kFirst; i < n; ++i) p[i] = all[i - kFirst];
  }

  static constexpr int kCopyBytes = 32;
  static OCTAVO_INLINE void fill(uint8_t* out, uint8_t byte) {
    store(out, _mm256_set1_epi8(static_cast<char>(byte)));
  }
  static OCTAVO_INLINE void copy(const uint8_t* x, uint8_t* out) { store(out, load(x)); }
};

// vpmaddwd: two taps a product, widened to int16 as they are interleaved.
struct DepthwisePairs256 : Depthwise256 {
  static constexpr int kTaps = 2;
  using Weight = int16_t;

  // The first kCount of two runs of 32 bytes, interleaved; the other counts as zeros.
  template <int kPart, int kCount>
  static OCTAVO_INLINE void load_taps(const uint8_t* const (&p)[2], Flip flip, __m256i (&x)[2]) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i t = unpack8<kPart>(load(p[0], flip), kCount > 1 ? load(p[1], flip) : zero);
    x[0] = _mm256_unpacklo_epi8(t, zero);
    x[1] = _mm256_unpackhi_epi8(t, zero);
  }
  static OCTAVO_INLINE void dot(__m256i& acc, __m256i x, __m256i w) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x, w));
  }
};

}  // namespace
}  // namespace octavo
