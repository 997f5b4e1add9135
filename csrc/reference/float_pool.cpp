#include "reference/float_pool.h"

#include <cmath>
#include <vector>

#include "reference/float_rows.h"

namespace octavo {
namespace {

std::vector<float> taps_of(const FloatPoolArgs& args, int64_t o, int64_t c) {
  std::vector<float> taps;
  for (int64_t i = 0; i < args.rows; ++i)
    for (int64_t j = 0; j < args.columns; ++j)
      taps.push_back(args.x[o * args.x_step + i * args.row_step + j * args.column_step + c]);
  return taps;
}

}  // namespace

float reference_max(const FloatPoolArgs& args, int64_t o, int64_t c) {
  const std::vector<float> taps = taps_of(args, o, c);
  float most = taps[0];
  for (const float value : taps) {
    if (std::isnan(value)) return value;
    if (value > most) most = value;
  }
  return most;
}

float reference_average(const FloatPoolArgs& args, float divisor, int64_t o, int64_t c) {
  float sum = 0.0f;
  for (const float value : taps_of(args, o, c)) sum += value;
  return sum / divisor;
}

float reference_pixel_mean(const float* x, int64_t pixels, int64_t channels, int64_t c) {
  std::vector<float> values;
  for (int64_t k = 0; k < pixels; ++k) values.push_back(x[k * channels + c]);
  return reference_sum(values.data(), pixels) / static_cast<float>(pixels);
}

}  // namespace octavo
