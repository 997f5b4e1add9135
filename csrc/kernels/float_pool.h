// Windows of float32 images with channels last: every channel by itself, in a fixed order, so that
// every CPU gives the same bits. Plain loops over channels: the compiler makes of them what an ISA
// has.
//
//   max       the greatest tap; NaN where one is
//   average   (+0 + taps from the first row on, each from its first column) / divisor
//   mean      over all pixels, in 64 lanes, lane = pixel mod 64, which are then added by halves
#pragma once

#include <stdint.h>

namespace octavo {

// Outputs side by side whose windows have the same taps; steps are in values.
struct FloatPoolArgs {
  const float* x;  // the first tap of the first output
  float* y;
  int64_t rows, columns;  // of taps, one of each at least
  int64_t row_step, column_step;
  int64_t outputs, x_step, y_step;
  int64_t channels;
};

struct FloatPoolKernels {
  void (*max)(const FloatPoolArgs& args);
  void (*average)(const FloatPoolArgs& args, float divisor);
  // x: pixels, one at least, each of `channels` values.
  void (*mean)(const float* x, int64_t pixels, int64_t channels, float* y);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// Calls begin(tap, y) and then add(tap, y) for the others, for each output.
template <class Begin, class Add>
OCTAVO_INLINE void pool_taps(const FloatPoolArgs& args, const Begin& begin, const Add& add) {
  for (int64_t o = 0; o < args.outputs; ++o) {
    const float* x = args.x + o * args.x_step;
    float* y = args.y + o * args.y_step;
    begin(x, y);
    for (int64_t i = 0; i < args.rows; ++i) {
      for (int64_t j = i == 0 ? 1 : 0; j < args.columns; ++j)
        add(x + i * args.row_step + j * args.column_step, y);
    }
  }
}

template <class Isa>
void float_pool_max(const FloatPoolArgs& args) {
  const int64_t channels = args.channels;
  pool_taps(
      args,
      [&](const float* x, float* __restrict__ y) OCTAVO_INLINE_LAMBDA {
        for (int64_t c = 0; c < channels; ++c) y[c] = x[c];
      },
      [&](const float* x, float* __restrict__ y) OCTAVO_INLINE_LAMBDA {
        for (int64_t c = 0; c < channels; ++c) {
          const float value = x[c], most = y[c];
          y[c] = value > most || value != value ? value : most;
        }
      });
}

template <class Isa>
void float_pool_average(const FloatPoolArgs& args, float divisor) {
  const int64_t channels = args.channels;
  pool_taps(
      args,
      [&](const float* x, float* __restrict__ y) OCTAVO_INLINE_LAMBDA {
        for (int64_t c = 0; c < channels; ++c) y[c] = 0.0f + x[c];
      },
      [&](const float* x, float* __restrict__ y) OCTAVO_INLINE_LAMBDA {
        for (int64_t c = 0; c < channels; ++c) y[c] = y[c] + x[c];
      });
  for (int64_t o = 0; o < args.outputs; ++o) {
    float* y = args.y + o * args.y_step;
    for (int64_t c = 0; c < channels; ++c) y[c] = y[c] / divisor;
  }
}

template <class Isa>
void float_pool_mean(const float* x, int64_t pixels, int64_t channels, float* y) {
  constexpr int64_t kLanes = 64, kChannels = 32;
  alignas(64) float lane[kLanes * kChannels];
  for (int64_t first = 0; first < channels; first += kChannels) {
    const int64_t n = channels - first < kChannels ? channels - first : kChannels;
    for (int64_t k = 0; k < pixels; ++k) {
      const float* values = x + k * channels + first;
      float* sum = lane + k % kLanes * kChannels;
      if (k < kLanes) {
        for (int64_t c = 0; c < n; ++c) sum[c] = 0.0f + values[c];
      } else {
        for (int64_t c = 0; c < n; ++c) sum[c] = sum[c] + values[c];
      }
    }
    // Lanes that no pixel went to would add nothing.
    int64_t lanes = pixels < kLanes ? pixels : kLanes;
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i + width < lanes; ++i) {
        float* low = lane + i * kChannels;
        const float* high = low + width * kChannels;
        for (int64_t c = 0; c < n; ++c) low[c] = low[c] + high[c];
      }
      lanes = lanes < width ? lanes : width;
    }
    for (int64_t c = 0; c < n; ++c) y[first + c] = lane[c] / static_cast<float>(pixels);
  }
}

template <class Isa>
constexpr FloatPoolKernels float_pool_kernels() {
  return {float_pool_max<Isa>, float_pool_average<Isa>, float_pool_mean<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
