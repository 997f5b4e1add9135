#include "reference/quantize.h"

#include <cmath>
#include <limits>

#include "reference/gemm.h"

namespace octavo {

int64_t code_value(uint8_t code, bool is_signed) {
  return is_signed && code >= 128 ? int64_t{code} - 256 : int64_t{code};
}

int32_t round_code(float v, float lo, float hi, int32_t zero_point) {
  if (v < lo) v = lo;
  if (v > hi) v = hi;
  return static_cast<int32_t>(std::nearbyint(v)) + zero_point;
}

void reference_quantize(const float* x, int64_t n, const float* scale, int64_t scale_step,
                        const int32_t* zero_point, int64_t zero_point_step, bool is_signed,
                        uint8_t* q) {
  const int32_t least = is_signed ? -128 : 0;
  const int32_t greatest = is_signed ? 127 : 255;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t zp = zero_point[i * zero_point_step];
    float v = x[i] / scale[i * scale_step];
    if (std::isnan(v)) v = 0.0f;
    q[i] = static_cast<uint8_t>(
        round_code(v, static_cast<float>(least - zp), static_cast<float>(greatest - zp), zp));
  }
}

void reference_dequantize(const uint8_t* q, int64_t n, bool is_signed, const float* scale,
                          int64_t scale_step, const int32_t* zero_point, int64_t zero_point_step,
                          float* x) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t value = code_value(q[i], is_signed) - zero_point[i * zero_point_step];
    x[i] = static_cast<float>(value) * scale[i * scale_step];
  }
}

void reference_requantize(const int32_t* acc, int64_t n, const int32_t* bias, int64_t bias_step,
                          const float* multiplier, int64_t multiplier_step, float lo, float hi,
                          int32_t zero_point, bool /*is_signed*/, uint8_t* q) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t sum = int64_t{acc[i]} + (bias ? bias[i * bias_step] : 0);
    const float v = static_cast<float>(wrap(sum)) * multiplier[i * multiplier_step];
    q[i] = static_cast<uint8_t>(round_code(v, lo, hi, zero_point));
  }
}

bool reference_minmax(const float* x, int64_t n, float* least, float* greatest) {
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return false;
  }
  *least = *greatest = n > 0 ? x[0] : 0.0f;
  for (int64_t i = 1; i < n; ++i) {
    if (x[i] < *least) *least = x[i];
    if (x[i] > *greatest) *greatest = x[i];
  }
  if (*least == 0.0f) *least = 0.0f;  // -0 too
  if (*greatest == 0.0f) *greatest = 0.0f;
  return true;
}

void reference_quantize_rows(const float* x, int64_t ldx, int64_t m, int64_t k, uint8_t* q,
                             int64_t ldq, float* scale, int32_t* zero_point) {
  for (int64_t row = 0; row < m; ++row) {
    float least = 0, greatest = 0;
    if (!reference_minmax(x + row * ldx, k, &least, &greatest)) {
      scale[row] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    if (!(least < 0.0f)) least = 0.0f;
    if (!(greatest > 0.0f)) greatest = 0.0f;
    if (least == greatest) {
      scale[row] = 1.0f;
      zero_point[row] = 0;
    } else {
      const float range = greatest - least;
      float s = std::isinf(range) ? greatest / 255.0f - least / 255.0f : range / 255.0f;
      if (s < 0x1p-126f) s = 0x1p-126f;
      scale[row] = s;
      zero_point[row] = round_code(-least / s, 0.0f, 255.0f, 0);
    }
    reference_quantize(x + row * ldx, k, &scale[row], 0, &zero_point[row], 0, false, q + row * ldq);
  }
}

int32_t reference_row_sum(const uint8_t* a, int64_t n, bool is_signed) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += code_value(a[i], is_signed);
  return wrap(sum);
}

}  // namespace octavo
