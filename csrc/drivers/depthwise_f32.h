// Depthwise convolution of float32 images: each output channel sees the input channel of its
// number. The image is read where it lies; taps on padding are skipped:
//
//   for each slab of channels, image and row of outputs
//     the kernel rows that meet the image
//     columns with all taps in the image at once; those at its edges one by one
#pragma once

#include <cstdint>

#include "drivers/conv_geometry.h"
#include "kernels/table.h"
#include "runtime/aligned_buffer.h"

namespace octavo {

class DepthwiseFloats {
 public:
  // w: [channels][height][width], float32 or float16 (binary16).
  DepthwiseFloats(const KernelTable& kernel_table, const void* w, bool half, int64_t channels,
                  int64_t height, int64_t width);
  // The values as they were given.
  void unpack(void* w) const;
  size_t nbytes() const { return weights.size(); }
  int64_t value_bytes() const { return is_half ? 2 : 4; }

  const KernelTable* table;
  bool is_half;
  int64_t channels, taps;
  int64_t pitch;          // values from tap to tap
  AlignedBuffer weights;  // [tap][pitch]
};

// Geometry and x as for conv_f32(); in_c and out_c are the channels of the weights.
void depthwise_f32(const DepthwiseFloats& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
                   int threads);

}  // namespace octavo
