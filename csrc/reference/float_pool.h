// What windows of float32 images must give, to the bit: one channel at a time.
#pragma once

#include "kernels/float_pool.h"

namespace octavo {

// Channel `c` of output `o`.
float reference_max(const FloatPoolArgs& args, int64_t o, int64_t c);
float reference_average(const FloatPoolArgs& args, float divisor, int64_t o, int64_t c);
float reference_pixel_mean(const float* x, int64_t pixels, int64_t channels, int64_t c);

}  // namespace octavo
