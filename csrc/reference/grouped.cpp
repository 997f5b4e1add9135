#include "reference/grouped.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace octavo {

void reference_grouped(const ReferenceGrouped& g, float* y, int64_t ldy) {
  const int64_t groups = (g.k + g.group_size - 1) / g.group_size;
  std::vector<int64_t> codes(static_cast<size_t>(g.k));
  for (int64_t i = 0; i < g.m; ++i) {
    const float* x = g.x + i * g.ldx;
    float top = 0.0f;
    bool finite = true;
    for (int64_t j = 0; j < g.k; ++j) {
      finite &= std::isfinite(x[j]);
      top = std::max(top, std::fabs(x[j]));
    }
    const float x_scale = !finite       ? std::numeric_limits<float>::quiet_NaN()
                          : top == 0.0f ? 1.0f
                                        : std::max(top / 127.0f, 0x1p-126f);
    for (int64_t j = 0; j < g.k; ++j)
      codes[static_cast<size_t>(j)] =
          finite ? static_cast<int64_t>(std::nearbyint(std::clamp(x[j] / x_scale, -127.0f, 127.0f)))
                 : 0;
    for (int64_t c = 0; c < g.n; ++c) {
      const uint8_t* w = g.w + c * g.k;
      float sum = 0.0f;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t zero = g.zero_point ? g.zero_point[c * groups + group] : 0;
        int64_t products = 0;
        for (int64_t j = group * g.group_size; j < std::min(g.k, (group + 1) * g.group_size); ++j)
          products +=
              codes[static_cast<size_t>(j)] *
              ((g.is_signed ? static_cast<int8_t>(w[j]) : static_cast<int64_t>(w[j])) - zero);
        sum = std::fma(static_cast<float>(products), g.scale[c * groups + group], sum);
      }
      float value = sum * x_scale;
      if (g.bias) value += g.bias[c];
      if (g.activate) value = (value < g.lo ? g.lo : value > g.hi ? g.hi : value) + 0.0f;
      y[i * ldy + c] = value;
    }
  }
}

}  // namespace octavo
