// Windows along the rows of images with channels last, whatever the values: how the operators that
// pool walk.
#pragma once

#include <cstdint>

#include "ops/pooling.h"

namespace octavo {

// Calls pool(args, row, column) for runs of outputs of one row whose windows have the same taps
// inside the image; `column` is the first one's. `args` has what all of them share.
template <class Args, class Block, class Pool>
void for_each_window(const Window& window, const Block& block, Args args, const Pool& pool) {
  const WindowAxis &h = window.height, &w = window.width;
  args.row_step = h.dilation * block.x_row;
  args.column_step = w.dilation * block.x_pixel;
  args.x_step = w.stride * block.x_pixel;
  args.y_step = block.y_pixel;
  const bool is_dense = args.x_step == block.channels && args.y_step == block.channels;
  const int64_t first_whole = w.first_whole(), last_whole = w.last_whole();
  for (int64_t row = block.first; row < block.last; ++row) {
    const int64_t first_row = h.first_tap(row);
    args.rows = h.last_tap(row) - first_row;
    const int64_t x_row = h.start(row) + first_row * h.dilation - block.x_first;
    int64_t outputs = 1;
    for (int64_t column = 0; column < w.out; column += outputs) {
      const int64_t first_column = w.first_tap(column);
      args.columns = w.last_tap(column) - first_column;
      outputs = column >= first_whole && column < last_whole ? last_whole - column : 1;
      // Outputs whose values and windows follow one another are one output of more channels.
      args.outputs = is_dense ? 1 : outputs;
      args.channels = is_dense ? outputs * block.channels : block.channels;
      args.x = block.x + x_row * block.x_row +
               (w.start(column) + first_column * w.dilation) * block.x_pixel;
      args.y = block.y + (row - block.first) * block.y_row + column * block.y_pixel;
      pool(args, row, column);
    }
  }
}

}  // namespace octavo
