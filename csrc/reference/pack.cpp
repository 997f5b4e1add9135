#include "reference/pack.h"

namespace octavo {
namespace {

int64_t position(int64_t k, int64_t column, int64_t width, int64_t kr) {
  return (k / kr) * width * kr + column * kr + k % kr;
}

}  // namespace

int64_t panel_values(int64_t k, int64_t width, int64_t kr) {
  return (k + kr - 1) / kr * kr * width;
}

void reference_pack(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
                    int64_t kr, uint8_t flip, int8_t* panel, int32_t* col_sum) {
  for (int64_t i = 0; i < panel_values(k, width, kr); ++i) panel[i] = 0;
  for (int64_t column = 0; column < width; ++column) {
    int64_t sum = 0;
    for (int64_t i = 0; i < k && column < n; ++i) {
      const int stored = b[i * rs + column * cs] ^ flip;
      const int value = stored < 128 ? stored : stored - 256;
      panel[position(i, column, width, kr)] = static_cast<int8_t>(value);
      sum += value;
    }
    col_sum[column] = static_cast<int32_t>(sum);
  }
}

void reference_unpack(const int8_t* panel, int64_t k, int64_t n, int64_t width, int64_t kr,
                      uint8_t flip, uint8_t* b, int64_t rs, int64_t cs) {
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t column = 0; column < n; ++column) {
      const auto stored = static_cast<uint8_t>(panel[position(i, column, width, kr)]);
      b[i * rs + column * cs] = static_cast<uint8_t>(stored ^ flip);
    }
  }
}

}  // namespace octavo
