// Depthwise convolution of 8-bit images: each output channel sees one input channel.
//
//   for each image, group of channels, chunk of output rows
//     list the addresses of all taps: rows of the image, or of padding where there is none
//     for each block of channels the kernel runs over all pixels of the chunk
//
// The image is read where it lies; columns at its edges are segments of their own, whose taps
// outside point at padding. Where that cannot be (a depth multiplier, wide padding, gaps), or where
// a copy is worth its price (short rows as one run, many taps off alignment), rows are copied into
// a padded window first, the columns of a stride in planes.
//
// Channels in whole blocks (or nearly, or with a stride) are taken pixel by pixel. Else an output
// row is one run of width * channels values, cut into blocks that begin at any channel: 24 channels
// waste nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "drivers/conv_geometry.h"
#include "kernels/table.h"
#include "runtime/aligned_buffer.h"

namespace octavo {

// Weights of a depthwise convolution, packed for one table. Output channel c reads input channel
// c / multiplier.
class DepthwiseWeights {
 public:
  // w: [channels][height][width] codes; per_input: output channels of each input channel.
  // zero_points: null (zeros), or a value for each channel, of the stored codes: int8 as they are,
  // uint8 less 128.
  DepthwiseWeights(const KernelTable& kernel_table, const uint8_t* w, bool w_signed,
                   int64_t channels, int64_t per_input, int64_t height, int64_t width,
                   const int32_t* zero_points);

  // The codes as they were given.
  void unpack(uint8_t* w) const;
  size_t nbytes() const;

  const KernelTable* table;
  bool is_signed;
  int64_t out_c, multiplier, kernel_h, kernel_w;

  // Packed as kernels/depthwise.h draws it.
  AlignedBuffer weights;
  int64_t groups;
  bool by_rows;
  std::vector<int64_t> taps;        // of each slot: kernel position, or -1
  std::vector<int32_t> sums;        // of each channel's weights
  std::vector<int32_t> zero_point;  // empty: zeros
};

// Geometry's in_c and out_c, kernel_h and kernel_w are those of the weights; no padding is
// negative. Of y.c, type is not kS64, arrays over channels hold out_c values, and b_zero_point is
// not read: the weights know it.
void depthwise(const DepthwiseWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
               int threads);

}  // namespace octavo
