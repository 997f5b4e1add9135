// What the elementwise kernels of kernels/quantize.h must compute (DESIGN section 4, rules 1, 2, 4
// and 6), one value at a time. Same parameters, same meaning.
#pragma once

#include <cstdint>

namespace octavo {

// The integer that a byte stands for.
int64_t code_value(uint8_t code, bool is_signed);

// rint(clamp(v, lo, hi)) + zero_point; v is not NaN.
int32_t round_code(float v, float lo, float hi, int32_t zero_point);

void reference_quantize(const float* x, int64_t n, const float* scale, int64_t scale_step,
                        const int32_t* zero_point, int64_t zero_point_step, bool is_signed,
                        uint8_t* q);

void reference_dequantize(const uint8_t* q, int64_t n, bool is_signed, const float* scale,
                          int64_t scale_step, const int32_t* zero_point, int64_t zero_point_step,
                          float* x);

// acc + bias wraps modulo 2^32.
void reference_requantize(const int32_t* acc, int64_t n, const int32_t* bias, int64_t bias_step,
                          const float* multiplier, int64_t multiplier_step, float lo, float hi,
                          int32_t zero_point, bool is_signed, uint8_t* q);

// A zero comes out as +0: which of two zeros is less, no order says.
bool reference_minmax(const float* x, int64_t n, float* least, float* greatest);

// A row that holds NaN or infinity gets scale NaN; its codes and zero point are left alone.
void reference_quantize_rows(const float* x, int64_t ldx, int64_t m, int64_t k, uint8_t* q,
                             int64_t ldq, float* scale, int32_t* zero_point);

int32_t reference_row_sum(const uint8_t* a, int64_t n, bool is_signed);

}  // namespace octavo
