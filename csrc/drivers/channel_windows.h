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

// What `blocks` convolutions read of one image for output rows [from, to); each is of geometry g
// and reads the g.in_c channels behind the former's.
ChannelWindows channel_windows(const ConvGeometry& g, int64_t from, int64_t to, int64_t blocks);

// How `pieces` such convolutions share windows: so many at once, for at most so many output rows.
// Less than two at once, or no row: they had better not.
struct WindowPlan {
  int64_t together, rows;
};
WindowPlan plan_channel_windows(const ConvGeometry& g, int64_t pieces);

// image: of x, its first channel that is copied; height x width pixels.
void fill_channel_windows(const ConvX& x, const uint8_t* image, int64_t height, int64_t width,
                          const ChannelWindows& windows, uint8_t* out);

}  // namespace octavo
