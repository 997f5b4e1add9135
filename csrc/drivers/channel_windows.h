// Rows of an image with its channels in blocks, a window for each, so that a group of channels lies
// as an image of its own, padding included: [block][row][column][channel of the block].
#pragma once

#include <cstdint>

#include "drivers/conv_geometry.h"

namespace octavo {

struct ChannelWindows {
  int64_t first_row, first_column;  // of the image; what lies outside is padding
  int64_t rows, columns;
  int64_t blocks, channels;  // of a block

  int64_t row_bytes() const { return columns * channels; }
  int64_t block_bytes() const;  // from window to window
  int64_t bytes() const { return blocks * block_bytes(); }
};

// image: of x, its first channel that is copied; height x width pixels.
void fill_channel_windows(const ConvX& x, const uint8_t* image, int64_t height, int64_t width,
                          const ChannelWindows& windows, uint8_t* out);

}  // namespace octavo
