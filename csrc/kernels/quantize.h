// Elementwise kernels over n contiguous values (DESIGN section 4, rules 1, 2, 4, 6).
//
//   quantize_f32u8     q = rint(clamp(x / scale, qmin - zp, qmax - zp)) + zp; NaN gives zp
//   dequantize_u8f32   x = float32(q - zp) * scale
//   requantize_s32u8   q = rint(clamp(float32(acc + bias) * multiplier, lo, hi)) + zp
//   minmax_f32         least and greatest value; false if any is NaN or infinite
//   quantize_rows_f32u8  each row by its own range (rule 6); scale NaN if a value is not finite
//   row_sum_u8s32      sum of n values, wrapping
//
// A step of 0 means one value for all, 1 a value for each element. Codes are uint8, or int8 where
// `is_signed`.
#pragma once

#include <stdint.h>

namespace octavo {

struct QuantizeKernels {
  void (*quantize)(const float* x, int64_t n, const float* scale, int64_t scale_step,
                   const int32_t* zero_point, int64_t zero_point_step, bool is_signed, uint8_t* q);
  void (*dequantize)(const uint8_t* q, int64_t n, bool is_signed, const float* scale,
                     int64_t scale_step, const int32_t* zero_point, int64_t zero_point_step,
                     float* x);
  void (*requantize)(const int32_t* acc, int64_t n, const int32_t* bias, int64_t bias_step,
                     const float* multiplier, int64_t multiplier_step, float lo, float hi,
                     int32_t zero_point, bool is_signed, uint8_t* q);
  bool (*minmax)(const float* x, int64_t n, float* least, float* greatest);
  // m rows of k values, ldx apart, to uint8 rows ldq apart.
  void (*quantize_rows)(const float* x, int64_t ldx, int64_t m, int64_t k, uint8_t* q, int64_t ldq,
                        float* scale, int32_t* zero_point);
  int32_t (*row_sum)(const uint8_t* a, int64_t n, bool is_signed);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// Calls body(i, count) until all n values are done, in steps of kStep; the rest is done by a step
// that ends at n and repeats some values, or, where n < kStep, by one short call.
template <int kStep, class Body>
OCTAVO_INLINE void for_each_step(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) body(i, static_cast<int64_t>(kStep));
  if (i == n) return;
  if (n >= kStep)
    body(n - kStep, static_cast<int64_t>(kStep));
  else
    body(i, n - i);
}

template <class V, bool kStep>
OCTAVO_INLINE typename V::F load_stepped(const float* p, int64_t i, int64_t n) {
  if constexpr (kStep)
    return n == V::kLanes ? V::load(p + i) : V::load_part(p + i, n);
  else
    return V::set(*p);
}

template <class V, bool kStep>
OCTAVO_INLINE typename V::I load_stepped(const int32_t* p, int64_t i, int64_t n) {
  if constexpr (kStep)
    return n == V::kLanes ? V::load_i(p + i) : V::load_part_i(p + i, n);
  else
    return V::set_i(*p);
}

// The bounds of codes: [least, least + 255].
OCTAVO_INLINE int32_t least_code(bool is_signed) { return is_signed ? -128 : 0; }

template <class V, int N>
OCTAVO_INLINE void store_codes(uint8_t* q, const typename V::I (&x)[N], uint8_t flip, int64_t n) {
  if (n == N * V::kLanes)
    V::template store_codes<N>(q, x, flip);
  else
    V::template store_codes_part<N>(q, x, flip, n);
}

// Codes, less than `flip` bits, of up to N vectors: rint(clamp(x / scale)) + zero_point.
template <class V, bool kScaleStep, bool kZeroStep>
void quantize_loop(const float* x, int64_t n, const float* scale, const int32_t* zero_point,
                   bool is_signed, uint8_t* q) {
  constexpr int N = 4;
  const uint8_t flip = is_signed ? 0 : 0x80;
  const typename V::F least = V::set(static_cast<float>(least_code(is_signed)));
  const typename V::F most = V::set(static_cast<float>(least_code(is_signed) + 255));
  const typename V::I to_int8 = V::set_i(is_signed ? 0 : -128);
  for_each_step<N * V::kLanes>(n, [&](int64_t at, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::I codes[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) {
      const int64_t i = at + v * V::kLanes;
      int64_t left = count - v * V::kLanes;
      left = left < 0 ? 0 : left > V::kLanes ? V::kLanes : left;
      typename V::F value = left == V::kLanes ? V::load(x + i) : V::load_part(x + i, left);
      typename V::I zero = load_stepped<V, kZeroStep>(zero_point, i, left);
      typename V::F zero_f = V::to_float(zero);
      value = V::nan_to_zero(V::div(value, load_stepped<V, kScaleStep>(scale, i, left)));
      value = V::min(V::max(value, V::sub(least, zero_f)), V::sub(most, zero_f));
      codes[v] = V::add_i(V::round(value), V::add_i(zero, to_int8));
    }
    store_codes<V, N>(q + at, codes, flip, count);
  });
}

template <class Isa>
void quantize_quantize(const float* x, int64_t n, const float* scale, int64_t scale_step,
                       const int32_t* zero_point, int64_t zero_point_step, bool is_signed,
                       uint8_t* q) {
  using V = typename Isa::Vector;
  if (scale_step)
    zero_point_step ? quantize_loop<V, true, true>(x, n, scale, zero_point, is_signed, q)
                    : quantize_loop<V, true, false>(x, n, scale, zero_point, is_signed, q);
  else
    zero_point_step ? quantize_loop<V, false, true>(x, n, scale, zero_point, is_signed, q)
                    : quantize_loop<V, false, false>(x, n, scale, zero_point, is_signed, q);
}

template <class V, bool kSigned, bool kScaleStep, bool kZeroStep>
void dequantize_loop(const uint8_t* q, int64_t n, const float* scale, const int32_t* zero_point,
                     float* x) {
  for_each_step<V::kLanes>(n, [&](int64_t i, int64_t count) OCTAVO_INLINE_LAMBDA {
    const bool full = count == V::kLanes;
    typename V::I code = full ? V::template load_codes<kSigned>(q + i)
                              : V::template load_codes_part<kSigned>(q + i, count);
    code = V::sub_i(code, load_stepped<V, kZeroStep>(zero_point, i, count));
    typename V::F value = V::mul(V::to_float(code), load_stepped<V, kScaleStep>(scale, i, count));
    if (full)
      V::store(x + i, value);
    else
      V::store_part(x + i, value, count);
  });
}

template <class V, bool kSigned>
OCTAVO_INLINE void dequantize_signed(const uint8_t* q, int64_t n, const float* scale,
                                     int64_t scale_step, const int32_t* zero_point,
                                     int64_t zero_point_step, float* x) {
  if (scale_step)
    zero_point_step ? dequantize_loop<V, kSigned, true, true>(q, n, scale, zero_point, x)
                    : dequantize_loop<V, kSigned, true, false>(q, n, scale, zero_point, x);
  else
    zero_point_step ? dequantize_loop<V, kSigned, false, true>(q, n, scale, zero_point, x)
                    : dequantize_loop<V, kSigned, false, false>(q, n, scale, zero_point, x);
}

template <class Isa>
void quantize_dequantize(const uint8_t* q, int64_t n, bool is_signed, const float* scale,
                         int64_t scale_step, const int32_t* zero_point, int64_t zero_point_step,
                         float* x) {
  using V = typename Isa::Vector;
  if (is_signed)
    dequantize_signed<V, true>(q, n, scale, scale_step, zero_point, zero_point_step, x);
  else
    dequantize_signed<V, false>(q, n, scale, scale_step, zero_point, zero_point_step, x);
}

template <class V, bool kMultiplierStep>
void requantize_loop(const int32_t* acc, int64_t n, const int32_t* bias, int64_t bias_step,
                     const float* multiplier, float lo, float hi, int32_t zero_point,
                     bool is_signed, uint8_t* q) {
  constexpr int N = 4;
  const uint8_t flip = is_signed ? 0 : 0x80;
  const typename V::F least = V::set(lo), most = V::set(hi);
  const typename V::I zero = V::set_i(zero_point - flip);
  const typename V::I bias_all = V::set_i(bias && !bias_step ? *bias : 0);
  for_each_step<N * V::kLanes>(n, [&](int64_t at, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::I codes[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) {
      const int64_t i = at + v * V::kLanes;
      int64_t left = count - v * V::kLanes;
      left = left < 0 ? 0 : left > V::kLanes ? V::kLanes : left;
      typename V::I sum = load_stepped<V, true>(acc, i, left);
      sum = V::add_i(sum, bias && bias_step ? load_stepped<V, true>(bias, i, left) : bias_all);
      typename V::F value =
          V::mul(V::to_float(sum), load_stepped<V, kMultiplierStep>(multiplier, i, left));
      codes[v] = V::add_i(V::round(V::clip(value, least, most)), zero);
    }
    store_codes<V, N>(q + at, codes, flip, count);
  });
}

template <class Isa>
void quantize_requantize(const int32_t* acc, int64_t n, const int32_t* bias, int64_t bias_step,
                         const float* multiplier, int64_t multiplier_step, float lo, float hi,
                         int32_t zero_point, bool is_signed, uint8_t* q) {
  using V = typename Isa::Vector;
  if (multiplier_step)
    requantize_loop<V, true>(acc, n, bias, bias_step, multiplier, lo, hi, zero_point, is_signed, q);
  else
    requantize_loop<V, false>(acc, n, bias, bias_step, multiplier, lo, hi, zero_point, is_signed,
                              q);
}

// Least and greatest value of n > 0 values, with a sum that is NaN if any is NaN or infinite.
template <class V>
OCTAVO_INLINE void range_of(const float* x, int64_t n, float* least, float* greatest,
                            float* not_finite) {
  constexpr int N = 4;
  typename V::F lo[N], hi[N], probe[N];
  OCTAVO_UNROLL
  for (int v = 0; v < N; ++v) {
    lo[v] = hi[v] = V::set(x[0]);
    probe[v] = V::set(0.0f);
  }
  auto take = [&](int v, typename V::F value) OCTAVO_INLINE_LAMBDA {
    lo[v] = V::min(lo[v], value);
    hi[v] = V::max(hi[v], value);
    probe[v] = V::probe(value, probe[v]);
  };
  int64_t i = 0;
  for (; i + N * V::kLanes <= n; i += N * V::kLanes) {
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) take(v, V::load(x + i + v * V::kLanes));
  }
  for (; i + V::kLanes <= n; i += V::kLanes) take(0, V::load(x + i));
  if (i < n && n >= V::kLanes) {
    take(0, V::load(x + n - V::kLanes));  // some values twice: no matter
    i = n;
  }
  OCTAVO_UNROLL
  for (int v = 1; v < N; ++v) {
    lo[0] = V::min(lo[0], lo[v]);
    hi[0] = V::max(hi[0], hi[v]);
    probe[0] = V::add(probe[0], probe[v]);
  }
  *least = V::reduce_min(lo[0]);
  *greatest = V::reduce_max(hi[0]);
  *not_finite = V::reduce_add(probe[0]);
  for (; i < n; ++i) {
    *least = x[i] < *least ? x[i] : *least;
    *greatest = x[i] > *greatest ? x[i] : *greatest;
    *not_finite += x[i] * 0.0f;
  }
}

template <class Isa>
bool quantize_minmax(const float* x, int64_t n, float* least, float* greatest) {
  *least = *greatest = 0.0f;
  if (n <= 0) return true;
  float not_finite;
  range_of<typename Isa::Vector>(x, n, least, greatest, &not_finite);
  // -0 becomes +0: which of the two a minimum keeps depends on the number of lanes.
  *least += 0.0f;
  *greatest += 0.0f;
  return not_finite == 0.0f;
}

// Rule 6 for up to kBlock rows: scale and zero point from least <= 0 and greatest >= 0.
template <class V, int kBlock>
OCTAVO_INLINE void row_parameters(const float* least, const float* greatest,
                                  const float* not_finite, int64_t m, float* scale,
                                  int32_t* zero_point) {
  static_assert(kBlock % V::kLanes == 0, "whole vectors of rows");
  alignas(64) float s[kBlock], ratio[kBlock];
  for (int64_t i = 0; i < m; i += V::kLanes) {
    const typename V::F lo = V::load(least + i);
    const typename V::F range = V::sub(V::load(greatest + i), lo);
    const typename V::F step = V::max(V::div(range, V::set(255.0f)), V::set(0x1p-126f));
    V::store(s + i, step);
    V::store(ratio + i, V::div(V::sub(V::set(0.0f), lo), step));
  }
  for (int64_t i = 0; i < m; ++i) {
    const float range = greatest[i] - least[i];
    if (range > 3.4028234663852886e38f) {
      s[i] = greatest[i] / 255.0f - least[i] / 255.0f;
      ratio[i] = -least[i] / s[i];
    }
    // A value in [0, 255.5): adding and taking 2^23 away rounds half to even.
    const float rounded = ratio[i] + 0x1p23f - 0x1p23f;
    scale[i] = range == 0.0f ? 1.0f : s[i];
    zero_point[i] = rounded <= 255.0f ? static_cast<int32_t>(rounded) : 255;
    if (not_finite[i] != 0.0f) {
      scale[i] = __builtin_nanf("");
      zero_point[i] = 0;
    }
  }
}

// In three passes over a block of rows that stays in L1, so that the latency of one row's
// reductions and divisions hides behind its neighbours.
template <class Isa>
void quantize_quantize_rows(const float* x, int64_t ldx, int64_t m, int64_t k, uint8_t* q,
                            int64_t ldq, float* scale, int32_t* zero_point) {
  using V = typename Isa::Vector;
  constexpr int kBlock = 16 * V::kLanes > 64 ? 64 / V::kLanes * V::kLanes : 16 * V::kLanes;
  constexpr int64_t kBlockValues = 8192;
  int64_t step = k > 0 ? kBlockValues / k : kBlock;
  step = step < 1 ? 1 : step > kBlock ? kBlock : step;
  for (int64_t first = 0; first < m; first += step) {
    const int64_t rows = m - first < step ? m - first : step;
    alignas(64) float least[kBlock] = {}, greatest[kBlock] = {}, not_finite[kBlock] = {};
    for (int64_t i = 0; i < rows && k > 0; ++i) {
      float lo, hi;
      range_of<V>(x + (first + i) * ldx, k, &lo, &hi, not_finite + i);
      least[i] = lo < 0.0f ? lo : 0.0f;
      greatest[i] = hi > 0.0f ? hi : 0.0f;
    }
    row_parameters<V, kBlock>(least, greatest, not_finite, rows, scale + first, zero_point + first);
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = x + (first + i) * ldx;
      uint8_t* codes = q + (first + i) * ldq;
      if (not_finite[i] != 0.0f) {
        for (int64_t j = 0; j < k; ++j) codes[j] = 0;
      } else {
        quantize_loop<V, false, false>(row, k, scale + first + i, zero_point + first + i, false,
                                       codes);
      }
    }
  }
}

template <class Isa>
int32_t quantize_row_sum(const uint8_t* a, int64_t n, bool is_signed) {
  using V = typename Isa::Vector;
  const uint8_t flip = is_signed ? 0x80 : 0;
  typename V::Sum sum = V::sum_zero();
  int64_t i = 0;
  for (; i + V::kSumBytes <= n; i += V::kSumBytes) sum = V::sum_bytes(sum, a + i, flip);
  int64_t total = V::sum_total(sum);
  for (; i < n; ++i) total += a[i] ^ flip;
  return static_cast<int32_t>(static_cast<uint32_t>(total - (is_signed ? 128 * n : 0)));
}

template <class Isa>
constexpr QuantizeKernels quantize_kernels() {
  return {quantize_quantize<Isa>, quantize_dequantize<Isa>,    quantize_requantize<Isa>,
          quantize_minmax<Isa>,   quantize_quantize_rows<Isa>, quantize_row_sum<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
