// What a convolution must compute, as naive loops over plain images and codes (any stride, padding,
// dilation, groups): int64 sums, then the epilogue of reference/gemm.h. Linked by the tests alone.
#pragma once

#include <cstdint>

#include "reference/gemm.h"

namespace octavo {

// Output pixel (y, x) of output channel o:
//   bias[o] + sum over i, j, c of (in(y * stride_h - pad_top + i * dilation_h,
//                                     x * stride_w - pad_left + j * dilation_w, channel) - za)
//                                 * (w[o][c][i][j] - zb)
// where the channels are those of o's group, and pixels outside the image contribute nothing.
struct ReferenceConv {
  int64_t batch = 1, in_h = 0, in_w = 0, in_c = 0, out_h = 0, out_w = 0, out_c = 0;
  int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, pad_top = 0, pad_left = 0;
  int64_t dilation_h = 1, dilation_w = 1, groups = 1;
  const uint8_t* x = nullptr;  // the channels of a pixel side by side
  int64_t x_image_stride = 0, x_row_stride = 0, x_pixel_stride = 0;
  bool x_signed = false;
  const int32_t* x_zero_point = nullptr;  // null: 0
  int64_t x_zero_point_step = 0;          // along images
  const uint8_t* w = nullptr;             // [out_c][in_c / groups][kernel_h][kernel_w]
  bool w_signed = true;
  const int32_t* w_zero_point = nullptr;  // null: 0
  int64_t w_zero_point_step = 0;          // along output channels
  const int32_t* bias = nullptr;          // null: none; else out_c values
};

// [batch][out_h][out_w][out_c] exact sums.
void reference_conv_sums(const ReferenceConv& conv, int64_t* sums);

// With sums that wrap modulo 2^32 in between. Strides of y are in values; the epilogue's rows are
// images: row_scale has one value each, or row_scale_step is 0.
void reference_conv(const ReferenceConv& conv, const ReferenceEpilogue& epilogue, void* y,
                    int64_t y_image_stride, int64_t y_row_stride, int64_t y_pixel_stride);

}  // namespace octavo
