// The kernels of one ISA as plain data. Drivers call through it; runtime/dispatch picks one.
#pragma once

#include "kernels/attention.h"
#include "kernels/depthwise.h"
#include "kernels/depthwise_f32.h"
#include "kernels/eltwise.h"
#include "kernels/float_pairs.h"
#include "kernels/float_pool.h"
#include "kernels/float_rows.h"
#include "kernels/gemm.h"
#include "kernels/gemm_f32.h"
#include "kernels/gemm_grouped.h"
#include "kernels/info.h"
#include "kernels/pack.h"
#include "kernels/pool.h"
#include "kernels/quantize.h"
#include "kernels/resize.h"
#include "kernels/winograd.h"

namespace octavo {

struct KernelTable {
#define OCTAVO_KERNEL(family, type) const type* family;
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL
};

}  // namespace octavo
