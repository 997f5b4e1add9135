// Products of float32 matrices, neither of them packed before: a batch of them. Each output is one
// chain of fused multiply-adds, as FloatLinear computes it.
#pragma once

#include <cstdint>

#include "drivers/gemm_f32.h"

namespace octavo {

struct FloatMatmulItem {
  const float* a;  // rows x inner, values of a row side by side
  const float* b;  // inner x columns
  float* c;        // rows x columns, in C order
};

// What all matrices of a batch share; strides in values.
struct FloatMatmulShape {
  int64_t rows, inner, columns;
  int64_t a_row, b_row, b_column;
};

void run_float_matmul(const FloatMatmulItem* items, int64_t count, const FloatMatmulShape& shape,
                      const KernelTable& table, int threads);

}  // namespace octavo
