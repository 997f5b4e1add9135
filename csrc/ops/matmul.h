// Products of 8-bit matrices, one or a batch of them (DESIGN section 4, rules 3 to 5).
#pragma once

#include <cstdint>

#include "drivers/gemm.h"

namespace octavo {

// One result matrix. Everything was validated; what can still fail are sums beyond int32, and
// memory.
struct MatmulItem {
  ByteMatrix a;  // m x k
  const int32_t* a_zero_point;
  int64_t a_zero_point_step;  // 0 or 1
  const PackedB* packed;      // or, if null, `b`, packed for this call
  ByteMatrix b;               // k x n
  const int32_t* b_zero_point;
  int64_t b_zero_point_step;  // 0 or 1
  void* c;
  int64_t ldc;
};

// What all matrices of a batch share. Arrays hold n values (step 1) or one (step 0).
struct MatmulEpilogue {
  GemmC::Type type;
  const int32_t* bias_s32;  // null: none
  const float* bias_f32;
  const float* multiplier;
  int64_t bias_step, multiplier_step;
  bool activate;
  float lo, hi;  // kF32: in real units; kU8, kS8: bounds of the code less zero_point
  int32_t zero_point;
};

// False if a result does not fit int32.
bool run_matmul(const MatmulItem* items, int64_t count, const MatmulEpilogue& epilogue,
                const KernelTable& table, int threads);

}  // namespace octavo
