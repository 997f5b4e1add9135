// What every driver that slides a window over images is told: sizes, and where pixels lie.
#pragma once

#include <cstdint>

#include "drivers/gemm.h"

namespace octavo {

// Output pixel (y, x) reads input pixels (y * stride_h - pad_top + i * dilation_h,
// x * stride_w - pad_left + j * dilation_w) for 0 <= i < kernel_h, 0 <= j < kernel_w; those
// outside the image are padding. Padding below and to the right follows from out_h and out_w.
struct ConvGeometry {
  int64_t batch;
  int64_t in_h, in_w, in_c;
  int64_t out_h, out_w, out_c;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t pad_top, pad_left;
  int64_t dilation_h, dilation_w;
};

// Images of 8-bit codes, the channels of a pixel side by side.
struct ConvX {
  const uint8_t* data;
  int64_t image_stride, row_stride, pixel_stride;  // bytes
  bool is_signed;
  int32_t zero_point;  // of the codes; padding holds it
};

// Called with outputs [first_row, last_row) x all columns x [first_channel, last_channel) of an
// image, once they are written and while they are still in cache.
struct ConvFinish {
  void (*run)(const void* context, int64_t image, int64_t first_row, int64_t last_row,
              int64_t first_channel, int64_t last_channel);
  const void* context;
};

struct ConvY {
  GemmC c;                                         // epilogue; c.ldc is not read
  int64_t image_stride, row_stride, pixel_stride;  // values
  const ConvFinish* finish;                        // null: none
};

}  // namespace octavo
