// Maximum and average of float32 images with channels last, under a sliding window or as a whole.
#pragma once

#include "ops/images.h"
#include "ops/pooling.h"

namespace octavo {

// `in` with channels last; each window has a tap inside the image.
void run_float_max_pool(const KernelTable& table, const float* x, const Images& in,
                        const Window& window, float* y, int threads);

// By the number of taps inside the image or, with `count_include_pad`, inside its padding too.
void run_float_average_pool(const KernelTable& table, const float* x, const Images& in,
                            const Window& window, bool count_include_pad, float* y, int threads);

// Of all pixels of each image, which has one, summed in 64 lanes (docs/floats.md).
void run_float_mean(const KernelTable& table, const float* x, const Images& in, float* y,
                    int threads);

}  // namespace octavo
