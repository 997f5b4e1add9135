// Elementwise arithmetic of float32 arrays in C order, which broadcast.
#pragma once

#include <cstdint>

#include "kernels/table.h"
#include "ops/eltwise.h"

namespace octavo {

void run_float_pairs(const KernelTable& table, FloatPair pair, const float* a, const float* b,
                     float* y, const Broadcast& shapes, int threads);

void run_clip(const KernelTable& table, const float* x, int64_t count, float lo, float hi, float* y,
              int threads);

// IEEE's square root: exact everywhere, so there is no kernel for it.
void run_square_root(const KernelTable& table, const float* x, int64_t count, float* y,
                     int threads);

}  // namespace octavo
