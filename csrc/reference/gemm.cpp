#include "reference/gemm.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "reference/quantize.h"

namespace octavo {

int32_t wrap(int64_t sum) {
  const auto low = static_cast<uint32_t>(static_cast<uint64_t>(sum));
  int32_t value;
  std::memcpy(&value, &low, sizeof value);
  return value;
}

void reference_products(const ReferenceProduct& p, int64_t* sums) {
  for (int64_t row = 0; row < p.m; ++row) {
    const int64_t za = p.a_zero_point ? p.a_zero_point[row * p.a_zero_point_step] : 0;
    for (int64_t column = 0; column < p.n; ++column) {
      const int64_t zb = p.b_zero_point ? p.b_zero_point[column * p.b_zero_point_step] : 0;
      int64_t sum = p.bias ? p.bias[column] : 0;
      for (int64_t segment = 0; segment < p.segments; ++segment) {
        for (int64_t j = 0; j < p.segment_length; ++j) {
          const int64_t k = segment * p.segment_length + j;
          const uint8_t a = p.a[row * p.lda + segment * p.pitch + j];
          const uint8_t b = p.b[k * p.b_row_stride + column * p.b_column_stride];
          sum += (code_value(a, p.a_signed) - za) * (code_value(b, p.b_signed) - zb);
        }
      }
      sums[row * p.n + column] = sum;
    }
  }
}

void reference_epilogue(const ReferenceEpilogue& e, const int64_t* sums, int64_t m, int64_t n,
                        void* c, int64_t ldc) {
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      const int64_t sum = sums[row * n + column];
      const int64_t at = row * ldc + column;
      switch (e.output) {
        case GemmOutput::kS32:
          static_cast<int32_t*>(c)[at] = wrap(sum);
          break;
        case GemmOutput::kU8:
        case GemmOutput::kS8:
          static_cast<uint8_t*>(c)[at] = static_cast<uint8_t>(
              round_code(static_cast<float>(sum) * e.multiplier[column], e.lo, e.hi, e.zero_point));
          break;
        case GemmOutput::kF32: {
          const float scale = e.row_scale[row * e.row_scale_step] * e.multiplier[column];
          float x = static_cast<float>(sum) * scale;
          if (e.bias) x = x + e.bias[column];
          if (e.activate && !std::isnan(x)) {
            if (x < e.lo) x = e.lo;
            if (x > e.hi) x = e.hi;
            if (x == 0.0f) x = 0.0f;  // -0 too
          }
          static_cast<float*>(c)[at] = x;
          break;
        }
      }
    }
  }
}

void reference_gemm(const ReferenceProduct& product, const ReferenceEpilogue& epilogue, void* c,
                    int64_t ldc) {
  std::vector<int64_t> sums(static_cast<size_t>(product.m * product.n));
  reference_products(product, sums.data());
  for (int64_t& sum : sums) sum = wrap(sum);
  reference_epilogue(epilogue, sums.data(), product.m, product.n, c, ldc);
}

}  // namespace octavo
