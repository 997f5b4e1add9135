#include "reference/float_rows.h"

#include <cmath>
#include <limits>
#include <vector>

namespace octavo {
namespace {

constexpr int kLanes = 64;

float by_halves(float (&lane)[kLanes]) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

}  // namespace

float reference_sum(const float* x, int64_t n) {
  float lane[kLanes] = {};
  for (int64_t k = 0; k < n; ++k) lane[k % kLanes] += x[k];
  return by_halves(lane);
}

float reference_exp(float x) {
  if (std::isnan(x)) return x;
  x = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  const float high = 0x1.715476p+0f, low = 0x1.4ae0cp-26f, whole = 0x1.8p23f;
  const float n = std::fma(x, high, whole) - whole;
  const float f = std::fma(-x, low, std::fma(-x, high, n));
  float p = -0.00015328245354f;
  for (const float c :
       {0.0013390997192f, -0.0096185021102f, 0.055503595620f, -0.24022647738f, 0.69314718246f})
    p = std::fma(p, f, c);
  return std::ldexp(std::fma(-f, p, 1.0f), static_cast<int>(n));
}

void reference_softmax(const float* x, int64_t n, const float* mask, const uint8_t* keep,
                       float* y) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float most = -kInfinity;
  bool any_nan = false;
  for (int64_t k = 0; k < n; ++k) {
    y[k] = keep && !keep[k] ? -kInfinity : mask ? x[k] + mask[k] : x[k];
    most = y[k] > most ? y[k] : most;
    any_nan |= std::isnan(y[k]);
  }
  for (int64_t k = 0; k < n; ++k)
    y[k] = any_nan ? std::numeric_limits<float>::quiet_NaN()
                   : reference_exp(most == -kInfinity ? y[k] : y[k] - most);
  const float sum = reference_sum(y, n);
  const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
  for (int64_t k = 0; k < n; ++k) y[k] *= factor;
}

void reference_norm(const float* x, int64_t n, bool centred, const float* weight, const float* bias,
                    int64_t run, float epsilon, float* y) {
  const float mean = centred ? reference_sum(x, n) / static_cast<float>(n) : 0.0f;
  float lane[kLanes] = {};
  for (int64_t k = 0; k < n; ++k) {
    const float d = centred ? x[k] - mean : x[k];
    lane[k % kLanes] = std::fma(d, d, lane[k % kLanes]);
  }
  const float squares = by_halves(lane);
  const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
  for (int64_t k = 0; k < n; ++k) {
    const float v = (centred ? x[k] - mean : x[k]) * factor;
    const float w = weight ? weight[k / run] : 1.0f;
    y[k] = weight && bias ? std::fma(v, w, bias[k / run]) : bias ? v + bias[k / run] : v * w;
  }
}

}  // namespace octavo
