// quantize, dequantize, requantize over whole arrays: contiguous, seen as outer x channels x inner,
// with one parameter a channel (channels = 1: one for all). DESIGN section 4, rules 1, 2, 4, 6.
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace octavo {

struct ChannelLayout {
  int64_t outer, channels, inner;
};

// Codes between least and most (an int4 has fewer values than the byte that holds it).
void run_quantize(const KernelTable& table, const float* x, ChannelLayout layout,
                  const float* scale, const int32_t* zero_point, bool is_signed, int32_t least,
                  int32_t most, uint8_t* q, int threads);

void run_dequantize(const KernelTable& table, const uint8_t* q, ChannelLayout layout,
                    bool is_signed, const float* scale, const int32_t* zero_point, float* x,
                    int threads);

// bias: null, one value for all (bias_step 0) or one a channel.
void run_requantize(const KernelTable& table, const int32_t* acc, ChannelLayout layout,
                    const int32_t* bias, int64_t bias_step, const float* multiplier,
                    int64_t multiplier_step, float lo, float hi, int32_t zero_point, bool is_signed,
                    uint8_t* q, int threads);

// Least and greatest value of each channel; false if one is NaN or infinite.
bool run_minmax(const KernelTable& table, const float* x, ChannelLayout layout, float* least,
                float* greatest);

// Rows of k values, each by its own range.
void run_quantize_rows(const KernelTable& table, const float* x, int64_t rows, int64_t k,
                       uint8_t* q, float* scale, int32_t* zero_point, int threads);

}  // namespace octavo
