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

// Loads and stores of N vectors, whole or (count < N * kLanes) in part.
template <class V, int N>
OCTAVO_INLINE void load_values(const float* x, int64_t count, typename V::F (&value)[N]) {
  OCTAVO_UNROLL
  for (int v = 0; v < N; ++v)
    value[v] = count == N * V::kLanes ? V::load(x + v * V::kLanes)
                                      : V::load_part(x + v * V::kLanes, count - v * V::kLanes);
}

template <class V, int N>
OCTAVO_INLINE void store_codes(uint8_t* q, const typename V::I (&x)[N], int32_t offset,
                               uint8_t flip, int64_t count) {
  if (count == N * V::kLanes)
    V::template store_codes<N>(q, x, offset, flip);
  else
    V::template store_codes_part<N>(q, x, offset, flip, count);
}

// x / scale for many x and one scale, rounded as a division rounds, in a third of its time. With
// y = RN(1 / scale) and y_low = RN(1 / scale - y),
//   q0 = RN(x y + RN(x y_low)) is within one unit in the last place of x / scale,
//   r = x - q0 scale is exact, and then RN(q0 + r y) = RN(x / scale):
// Markstein, "Computation of elementary functions on the IBM RISC System/6000" (1990). It holds
// where nothing over- or underflows: fits() bounds the scale, and the caller |x / scale|. A
// quotient so small that its parts underflow is still below 1/2, which is all that rint asks.
template <class V>
struct Quotient {
  typename V::F scale, y, y_low;

  static OCTAVO_INLINE bool fits(float scale) {
    return V::kHasFma && scale > 0x1p-60f && scale < 0x1p60f;
  }
  // Of one scale in each lane.
  static OCTAVO_INLINE Quotient of_scales(typename V::F scale) {
    const typename V::F one = V::set(1.0f), y = V::div(one, scale);
    return {scale, y, V::div(V::fnma(scale, y, one), scale)};
  }
  OCTAVO_INLINE typename V::F of(typename V::F x) const {
    const typename V::F q = V::fma(x, y, V::mul(x, y_low));
    return V::fma(V::fnma(q, scale, x), y, q);
  }
};

// One scale and zero point for all. store_codes saturates, so that codes need no bounds of their
// own; what exceeds int32 is brought below it. divide(x) is x / scale, or anything as far beyond
// the codes.
template <class V, class Divide>
OCTAVO_INLINE void quantize_divided(const float* x, int64_t n, const Divide& divide,
                                    int32_t zero_point, bool is_signed, uint8_t* q) {
  constexpr int N = 4;
  const uint8_t flip = is_signed ? 0 : 0x80;
  for_each_step<N * V::kLanes>(n, [&](int64_t at, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::F value[N];
    load_values<V, N>(x + at, count, value);
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) value[v] = divide(value[v]);
    if (V::any_nan(value[0], value[1]) | V::any_nan(value[2], value[3])) {
      OCTAVO_UNROLL
      for (int v = 0; v < N; ++v) value[v] = V::nan_to_zero(value[v]);
    }
    typename V::I codes[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) codes[v] = V::round(value[v]);
    store_codes<V, N>(q + at, codes, zero_point - flip, flip, count);
  });
}

template <class V>
void quantize_all(const float* x, int64_t n, float scale, int32_t zero_point, bool is_signed,
                  uint8_t* q) {
  const typename V::F divisor = V::set(scale);
  if (Quotient<V>::fits(scale) && n >= 8 * V::kLanes) {  // else two divisions more take longer
    const auto quotient = Quotient<V>::of_scales(divisor);
    const typename V::F least = V::set(-0x1p14f * scale), most = V::set(0x1p14f * scale);
    quantize_divided<V>(
        x, n,
        [&](typename V::F v) OCTAVO_INLINE_LAMBDA { return quotient.of(V::clip(v, least, most)); },
        zero_point, is_signed, q);
    return;
  }
  // What is below int32 comes out of the conversion as the least one.
  const typename V::F most = V::set(0x1p20f);
  quantize_divided<V>(
      x, n, [&](typename V::F v) OCTAVO_INLINE_LAMBDA { return V::min(most, V::div(v, divisor)); },
      zero_point, is_signed, q);
}

// uint8 codes of x with |x / scale| < 2^15. True if some x is NaN; its code means nothing then.
template <class V>
OCTAVO_INLINE bool quantize_bounded(const float* x, int64_t n, const Quotient<V>& quotient,
                                    int32_t zero_point, uint8_t* q) {
  constexpr int N = 4;
  bool any_nan = false;
  for_each_step<N * V::kLanes>(n, [&](int64_t at, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::F value[N];
    load_values<V, N>(x + at, count, value);
    any_nan |= V::any_nan(value[0], value[1]) | V::any_nan(value[2], value[3]);
    typename V::I codes[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) codes[v] = V::round(quotient.of(value[v]));
    store_codes<V, N>(q + at, codes, zero_point - 0x80, 0x80, count);
  });
  return any_nan;
}

// rint(clamp(x / scale)) + zero_point with a scale, a zero point or both for each element.
template <class V, bool kScaleStep, bool kZeroStep>
void quantize_each(const float* x, int64_t n, const float* scale, const int32_t* zero_point,
                   bool is_signed, uint8_t* q) {
  constexpr int N = 4;
  const uint8_t flip = is_signed ? 0 : 0x80;
  const typename V::F least = V::set(-1024.0f), most = V::set(1024.0f);  // beyond every code
  for_each_step<N * V::kLanes>(n, [&](int64_t at, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::F value[N];
    load_values<V, N>(x + at, count, value);
    typename V::I codes[N];
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) {
      const int64_t i = at + v * V::kLanes;
      int64_t left = count - v * V::kLanes;
      left = left < 0 ? 0 : left > V::kLanes ? V::kLanes : left;
      value[v] = V::nan_to_zero(V::div(value[v], load_stepped<V, kScaleStep>(scale, i, left)));
      codes[v] = V::add_i(V::round(V::min(V::max(value[v], least), most)),
                          load_stepped<V, kZeroStep>(zero_point, i, left));
    }
    store_codes<V, N>(q + at, codes, -static_cast<int32_t>(flip), flip, count);
  });
}

template <class Isa>
void quantize_quantize(const float* x, int64_t n, const float* scale, int64_t scale_step,
                       const int32_t* zero_point, int64_t zero_point_step, bool is_signed,
                       uint8_t* q) {
  using V = typename Isa::Vector;
  if (scale_step)
    zero_point_step ? quantize_each<V, true, true>(x, n, scale, zero_point, is_signed, q)
                    : quantize_each<V, true, false>(x, n, scale, zero_point, is_signed, q);
  else if (zero_point_step)
    quantize_each<V, false, true>(x, n, scale, zero_point, is_signed, q);
  else
    quantize_all<V>(x, n, *scale, *zero_point, is_signed, q);
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
      codes[v] = V::round(V::clip(value, least, most));
    }
    store_codes<V, N>(q + at, codes, zero_point - flip, flip, count);
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

// Least and greatest value of n > 0 values; kProbe: with a sum that is NaN if any is NaN or
// infinite (without it, NaN makes the range meaningless).
template <class V, bool kProbe>
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
    if (kProbe) probe[v] = V::probe(value, probe[v]);
  };
  int64_t i = 0;
  if (n >= 8 * N * V::kLanes) {
    // Loads that straddle two cache lines take twice as long: begin with one such vector.
    take(0, V::load(x));
    i = static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(x)) / sizeof(float)) &
        (V::kLanes - 1);
  }
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
    if (kProbe) probe[0] = V::add(probe[0], probe[v]);
  }
  *least = V::reduce_min(lo[0]);
  *greatest = V::reduce_max(hi[0]);
  if (kProbe) *not_finite = V::reduce_add(probe[0]);
  bool any_nan = false;  // a comparison would pass over it, where a vector's minimum keeps it
  for (; i < n; ++i) {
    *least = x[i] < *least ? x[i] : *least;
    *greatest = x[i] > *greatest ? x[i] : *greatest;
    any_nan |= x[i] != x[i];
    if (kProbe) *not_finite += x[i] * 0.0f;
  }
  if (any_nan) *least = __builtin_nanf("");
}

template <class Isa>
bool quantize_minmax(const float* x, int64_t n, float* least, float* greatest) {
  *least = *greatest = 0.0f;
  if (n <= 0) return true;
  float not_finite;
  range_of<typename Isa::Vector, true>(x, n, least, greatest, &not_finite);
  // -0 becomes +0: which of the two a minimum keeps depends on the number of lanes.
  *least += 0.0f;
  *greatest += 0.0f;
  return not_finite == 0.0f;
}

// rint(x) of x in [0, 2^22]: adding and taking 2^23 away rounds half to even.
OCTAVO_INLINE float round_small(float x) { return x + 0x1p23f - 0x1p23f; }

// One row by rule 6, whatever it holds.
template <class V>
void quantize_row(const float* x, int64_t k, uint8_t* q, float* scale, int32_t* zero_point) {
  float least = 0.0f, greatest = 0.0f, not_finite = 0.0f;
  if (k > 0) range_of<V, true>(x, k, &least, &greatest, &not_finite);
  least = least < 0.0f ? least : 0.0f;
  greatest = greatest > 0.0f ? greatest : 0.0f;
  *scale = 1.0f;
  *zero_point = 0;
  if (not_finite != 0.0f || least == greatest) {
    if (not_finite != 0.0f) *scale = __builtin_nanf("");
    for (int64_t j = 0; j < k; ++j) q[j] = 0;
    return;
  }
  const float range = greatest - least;
  float s = range > 3.4028234663852886e38f ? greatest / 255.0f - least / 255.0f : range / 255.0f;
  s = s > 0x1p-126f ? s : 0x1p-126f;
  const float zero = round_small(-least / s);
  *scale = s;
  *zero_point = zero < 255.0f ? static_cast<int32_t>(zero) : 255;
  quantize_all<V>(x, k, s, *zero_point, false, q);
}

// In three passes over a block of rows that stays in L1, so that the latency of one row's
// reductions and divisions hides behind its neighbours.
template <class Isa>
void quantize_quantize_rows(const float* x, int64_t ldx, int64_t m, int64_t k, uint8_t* q,
                            int64_t ldq, float* scale, int32_t* zero_point) {
  using V = typename Isa::Vector;
  using F = typename V::F;
  constexpr int kBlock = 64 / V::kLanes * V::kLanes;
  constexpr int64_t kBlockValues = 8192;
  int64_t step = k > 0 ? kBlockValues / k : kBlock;
  step = step < 1 ? 1 : step > kBlock ? kBlock : step;
  for (int64_t first = 0; first < m; first += step) {
    const int64_t rows = m - first < step ? m - first : step;
    alignas(64) float least[kBlock] = {}, greatest[kBlock] = {};
    for (int64_t i = 0; i < rows && k > 0 && V::kHasFma; ++i)
      range_of<V, false>(x + (first + i) * ldx, k, least + i, greatest + i, nullptr);
    alignas(64) float s[kBlock], y[kBlock], y_low[kBlock], zero[kBlock];
    for (int64_t i = 0; i < rows; i += V::kLanes) {
      const F none = V::set(0.0f);
      const F lo = V::min(V::load(least + i), none), hi = V::max(V::load(greatest + i), none);
      const auto quotient = Quotient<V>::of_scales(V::div(V::sub(hi, lo), V::set(255.0f)));
      V::store(s + i, quotient.scale);
      V::store(y + i, quotient.y);
      V::store(y_low + i, quotient.y_low);
      V::store(zero + i, V::div(V::sub(none, lo), quotient.scale));
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = x + (first + i) * ldx;
      uint8_t* codes = q + (first + i) * ldq;
      float* row_scale = scale + first + i;
      int32_t* row_zero = zero_point + first + i;
      if (Quotient<V>::fits(s[i]) && zero[i] < 256.0f) {
        const Quotient<V> quotient = {V::set(s[i]), V::set(y[i]), V::set(y_low[i])};
        const float rounded = round_small(zero[i]);
        *row_scale = s[i];
        *row_zero = rounded < 255.0f ? static_cast<int32_t>(rounded) : 255;
        if (!quantize_bounded<V>(row, k, quotient, *row_zero, codes)) continue;
      }
      quantize_row<V>(row, k, codes, row_scale, row_zero);
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
