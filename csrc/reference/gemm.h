// What gemm_u8s8s32 must compute, as naive loops over the plain operands: int64 sums, then the
// epilogue in the order of DESIGN section 4 (kernels/gemm.h). Linked by the tests alone and
// written independently of the kernels: no packing, no sign flips, no zero-point algebra.
#pragma once

#include <cstdint>

#include "kernels/gemm.h"

namespace octavo {

// sum_k (a - za)(b - zb) + bias. A row of A is `segments` runs of `segment_length` values, `pitch`
// values apart; k counts through them. Strides are in values; a step of 0 is one value for all.
struct ReferenceProduct {
  int64_t m = 0, n = 0;
  int64_t segments = 1, segment_length = 0, pitch = 0;
  const uint8_t* a = nullptr;
  int64_t lda = 0;
  bool a_signed = false;
  const uint8_t* b = nullptr;
  int64_t b_row_stride = 0, b_column_stride = 1;
  bool b_signed = true;
  const int32_t* a_zero_point = nullptr;  // null: 0
  int64_t a_zero_point_step = 0;          // along m
  const int32_t* b_zero_point = nullptr;  // null: 0
  int64_t b_zero_point_step = 0;          // along n
  const int32_t* bias = nullptr;          // null: none; else n values
};

struct ReferenceEpilogue {
  GemmOutput output = GemmOutput::kS32;
  const float* multiplier = nullptr;  // n values
  const float* row_scale = nullptr;
  int64_t row_scale_step = 0;
  const float* bias = nullptr;  // null: none; else n values
  bool activate = false;
  float lo = 0, hi = 0;
  int32_t zero_point = 0;
};

// m * n exact sums, row-major.
void reference_products(const ReferenceProduct& product, int64_t* sums);

// Sums to outputs; kS32 keeps the low 32 bits of each sum, and so must the others' callers where
// accumulators wrap.
void reference_epilogue(const ReferenceEpilogue& epilogue, const int64_t* sums, int64_t m,
                        int64_t n, void* c, int64_t ldc);

// The low 32 bits of a sum, as accumulators that wrap hold it.
int32_t wrap(int64_t sum);

// Both, with sums that wrap modulo 2^32 in between.
void reference_gemm(const ReferenceProduct& product, const ReferenceEpilogue& epilogue, void* c,
                    int64_t ldc);

}  // namespace octavo
