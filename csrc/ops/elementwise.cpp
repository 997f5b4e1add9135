#include "ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/runs.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Calls body(at, count, channel) for runs of elements: `at` is the run's first element. With
// inner == 1 a run lies along the channels (channel = its first), else within one channel.
template <class Body>
void for_each_channel_run(ChannelLayout layout, int threads, const Body& body) {
  const bool along_channels = layout.inner == 1 && layout.channels > 1;
  const int64_t rows = along_channels ? layout.outer : layout.outer * layout.channels;
  const int64_t length = along_channels ? layout.channels : layout.inner;
  for_each_run(rows, length, threads, [&](int64_t row, int64_t from, int64_t count) {
    body(row * length + from, count, along_channels ? from : row % layout.channels);
  });
}

int64_t total(ChannelLayout layout) { return layout.outer * layout.channels * layout.inner; }

}  // namespace

void run_quantize(const KernelTable& table, const float* x, ChannelLayout layout,
                  const float* scale, const int32_t* zero_point, bool is_signed, int32_t least,
                  int32_t most, uint8_t* q, int threads) {
  note_kernel(table, "quantize_f32u8", "elementwise", 1, total(layout), 1, threads);
  const int64_t step = layout.inner == 1 && layout.channels > 1 ? 1 : 0;
  const bool narrow = most - least < 255;
  for_each_channel_run(layout, threads, [&](int64_t at, int64_t count, int64_t channel) {
    table.quantize->quantize(x + at, count, scale + channel, step, zero_point + channel, step,
                             is_signed, q + at);
    // Integer bounds: clamping codes is clamping before rounding.
    for (int64_t i = at; narrow && i < at + count; ++i) {
      const int32_t code = is_signed ? static_cast<int8_t>(q[i]) : q[i];
      q[i] = static_cast<uint8_t>(std::clamp(code, least, most));
    }
  });
}

void run_dequantize(const KernelTable& table, const uint8_t* q, ChannelLayout layout,
                    bool is_signed, const float* scale, const int32_t* zero_point, float* x,
                    int threads) {
  note_kernel(table, "dequantize_u8f32", "elementwise", 1, total(layout), 1, threads);
  const int64_t step = layout.inner == 1 && layout.channels > 1 ? 1 : 0;
  for_each_channel_run(layout, threads, [&](int64_t at, int64_t count, int64_t channel) {
    table.quantize->dequantize(q + at, count, is_signed, scale + channel, step,
                               zero_point + channel, step, x + at);
  });
}

void run_requantize(const KernelTable& table, const int32_t* acc, ChannelLayout layout,
                    const int32_t* bias, int64_t bias_step, const float* multiplier,
                    int64_t multiplier_step, float lo, float hi, int32_t zero_point, bool is_signed,
                    uint8_t* q, int threads) {
  note_kernel(table, "requantize_s32u8", "elementwise", 1, total(layout), 1, threads);
  const int64_t step = layout.inner == 1 && layout.channels > 1 ? 1 : 0;
  for_each_channel_run(layout, threads, [&](int64_t at, int64_t count, int64_t channel) {
    table.quantize->requantize(acc + at, count, bias ? bias + channel * bias_step : nullptr,
                               step * bias_step, multiplier + channel * multiplier_step,
                               step * multiplier_step, lo, hi, zero_point, is_signed, q + at);
  });
}

bool run_minmax(const KernelTable& table, const float* x, ChannelLayout layout, float* least,
                float* greatest) {
  bool finite = true;
  for (int64_t c = 0; c < layout.channels; ++c) {
    least[c] = std::numeric_limits<float>::infinity();
    greatest[c] = -std::numeric_limits<float>::infinity();
  }
  for_each_channel_run(layout, 1, [&](int64_t at, int64_t count, int64_t channel) {
    if (layout.inner == 1 && layout.channels > 1) {
      for (int64_t i = 0; i < count; ++i) {
        const float value = x[at + i];
        finite &= std::isfinite(value);
        least[channel + i] = std::min(least[channel + i], value);
        greatest[channel + i] = std::max(greatest[channel + i], value);
      }
    } else {
      float lo, hi;
      finite &= table.quantize->minmax(x + at, count, &lo, &hi);
      least[channel] = std::min(least[channel], lo);
      greatest[channel] = std::max(greatest[channel], hi);
    }
  });
  for (int64_t c = 0; c < layout.channels; ++c) {
    if (least[c] > greatest[c]) least[c] = greatest[c] = 0.0f;  // no values
  }
  return finite;
}

void run_quantize_rows(const KernelTable& table, const float* x, int64_t rows, int64_t k,
                       uint8_t* q, float* scale, int32_t* zero_point, int threads) {
  note_kernel(table, "quantize_rows_f32u8", "elementwise", rows, 1, k, threads);
  const int64_t group = std::max<int64_t>(1, kTaskValues / std::max<int64_t>(1, k));
  parallel_for(static_cast<int>((rows + group - 1) / group), threads, [&](int task) {
    const int64_t first = task * group, count = std::min(group, rows - first);
    table.quantize->quantize_rows(x + first * k, k, count, k, q + first * k, k, scale + first,
                                  zero_point + first);
  });
}

void run_grouped_matmul(const KernelTable& table, const float* x, int64_t m, int64_t k,
                        const uint8_t* w, bool is_signed, int64_t n, const float* scale,
                        const int32_t* zero_point, int64_t group_size, float* y, int threads) {
  note_kernel(table, "gemm_s8u8f32", "plain loops", m, n, k, threads);
  const int64_t groups = (k + group_size - 1) / group_size;
  std::vector<int8_t> codes(static_cast<size_t>(m * k));
  std::vector<float> x_scale(static_cast<size_t>(m));
  for (int64_t i = 0; i < m; ++i) {
    float largest = 0.0f;
    bool finite = true;
    for (int64_t j = 0; j < k; ++j) {
      finite &= std::isfinite(x[i * k + j]);
      largest = std::max(largest, std::fabs(x[i * k + j]));
    }
    float s = largest > 0.0f ? std::max(largest / 127.0f, 0x1p-126f) : 1.0f;
    for (int64_t j = 0; finite && j < k; ++j)
      codes[static_cast<size_t>(i * k + j)] =
          static_cast<int8_t>(std::nearbyint(std::clamp(x[i * k + j] / s, -127.0f, 127.0f)));
    x_scale[static_cast<size_t>(i)] = finite ? s : std::numeric_limits<float>::quiet_NaN();
  }
  parallel_for(static_cast<int>(m), threads, [&](int row) {
    const int8_t* a = codes.data() + int64_t{row} * k;
    for (int64_t column = 0; column < n; ++column) {
      const uint8_t* b = w + column * k;
      float sum = 0.0f;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t end = std::min(k, (g + 1) * group_size);
        const int32_t zero = zero_point ? zero_point[column * groups + g] : 0;
        int64_t products = 0;
        for (int64_t j = g * group_size; j < end; ++j)
          products += a[j] * ((is_signed ? static_cast<int8_t>(b[j]) : b[j]) - zero);
        sum = std::fma(static_cast<float>(products), scale[column * groups + g], sum);
      }
      y[row * n + column] = sum * x_scale[static_cast<size_t>(row)];
    }
  });
}

}  // namespace octavo
