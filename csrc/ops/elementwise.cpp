#include "ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

}  // namespace octavo
