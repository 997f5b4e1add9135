#include "reference/conv.h"

#include <cstddef>
#include <vector>

#include "reference/quantize.h"

namespace octavo {
namespace {

int64_t sum_at(const ReferenceConv& v, int64_t image, int64_t row, int64_t column, int64_t o) {
  const int64_t za = v.x_zero_point ? v.x_zero_point[image * v.x_zero_point_step] : 0;
  const int64_t zb = v.w_zero_point ? v.w_zero_point[o * v.w_zero_point_step] : 0;
  const int64_t group_in = v.in_c / v.groups, group_out = v.out_c / v.groups;
  int64_t sum = v.bias ? v.bias[o] : 0;
  for (int64_t c = 0; c < group_in; ++c) {
    const int64_t channel = o / group_out * group_in + c;
    for (int64_t i = 0; i < v.kernel_h; ++i) {
      const int64_t y = row * v.stride_h - v.pad_top + i * v.dilation_h;
      for (int64_t j = 0; j < v.kernel_w; ++j) {
        const int64_t x = column * v.stride_w - v.pad_left + j * v.dilation_w;
        if (y < 0 || y >= v.in_h || x < 0 || x >= v.in_w) continue;
        const uint8_t a =
            v.x[image * v.x_image_stride + y * v.x_row_stride + x * v.x_pixel_stride + channel];
        const uint8_t b = v.w[((o * group_in + c) * v.kernel_h + i) * v.kernel_w + j];
        sum += (code_value(a, v.x_signed) - za) * (code_value(b, v.w_signed) - zb);
      }
    }
  }
  return sum;
}

}  // namespace

void reference_conv_sums(const ReferenceConv& v, int64_t* sums) {
  for (int64_t image = 0; image < v.batch; ++image) {
    for (int64_t row = 0; row < v.out_h; ++row) {
      for (int64_t column = 0; column < v.out_w; ++column) {
        for (int64_t o = 0; o < v.out_c; ++o) *sums++ = sum_at(v, image, row, column, o);
      }
    }
  }
}

void reference_conv(const ReferenceConv& v, const ReferenceEpilogue& epilogue, void* y,
                    int64_t y_image_stride, int64_t y_row_stride, int64_t y_pixel_stride) {
  std::vector<int64_t> sums(static_cast<size_t>(v.batch * v.out_h * v.out_w * v.out_c));
  reference_conv_sums(v, sums.data());
  for (int64_t& sum : sums) sum = wrap(sum);
  const bool is_wide = epilogue.output == GemmOutput::kS32 || epilogue.output == GemmOutput::kF32;
  const int64_t value_bytes = is_wide ? 4 : 1;
  for (int64_t image = 0; image < v.batch; ++image) {
    ReferenceEpilogue e = epilogue;
    if (e.row_scale) e.row_scale += image * e.row_scale_step;
    e.row_scale_step = 0;
    for (int64_t row = 0; row < v.out_h; ++row) {
      const int64_t at = image * y_image_stride + row * y_row_stride;
      reference_epilogue(e, sums.data() + (image * v.out_h + row) * v.out_w * v.out_c, v.out_w,
                         v.out_c, static_cast<char*>(y) + at * value_bytes, y_pixel_stride);
    }
  }
}

}  // namespace octavo
