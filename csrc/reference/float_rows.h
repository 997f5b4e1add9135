// What softmax and the norms must compute, to the bit (docs/floats.md), one value after another.
#pragma once

#include <cstdint>

namespace octavo {

// In 64 lanes, lane = k mod 64, then by halves.
float reference_sum(const float* x, int64_t n);
float reference_exp(float x);

// One row. mask (null: none) is added; keep (null: all) is 0 where a value counts as -infinity.
void reference_softmax(const float* x, int64_t n, const float* mask, const uint8_t* keep, float* y);

// One row: centred for layer norm, not for RMS norm. weight and bias (null: 1, 0) hold n / run
// values.
void reference_norm(const float* x, int64_t n, bool centred, const float* weight, const float* bias,
                    int64_t run, float epsilon, float* y);

}  // namespace octavo
