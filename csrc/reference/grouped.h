// What a product with weights in groups must compute (DESIGN section 4, rule 7), in plain loops.
#pragma once

#include <cstdint>

namespace octavo {

// y (m x n) = clip(x (m x k) * w (n x k)^T + bias). scale and zero_point (null: 0) hold
// n x ceil(k / group_size) values; bias null: none.
struct ReferenceGrouped {
  const float* x;
  int64_t ldx, m, k;
  const uint8_t* w;
  bool is_signed;
  int64_t n, group_size;
  const float* scale;
  const int32_t* zero_point;
  const float* bias;
  bool activate;
  float lo, hi;
};
void reference_grouped(const ReferenceGrouped& g, float* y, int64_t ldy);

}  // namespace octavo
