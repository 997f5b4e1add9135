// Blocks of images: what operators on images with channels last run on, whatever the layout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/table.h"
#include "ops/runs.h"
#include "runtime/aligned_buffer.h"

namespace octavo {

// Images of 8-bit codes in C order: batch x height x width x channels, or, with !channels_last,
// batch x channels x height x width.
struct Images {
  int64_t batch, channels, height, width;
  bool channels_last;

  int64_t size() const { return batch * channels * height * width; }
};

// Rows of one image and what they are computed from; channels of a pixel lie side by side.
struct ImageBlock {
  int64_t channels;
  int64_t first, last;  // output rows
  const uint8_t* x;     // the row `x_first` of the input
  int64_t x_first, x_row, x_pixel;
  uint8_t* y;  // the row `first` of the output
  int64_t y_row, y_pixel;
};

// Calls body(block) until all of y is done. rows_read(first, last) is the range [from, to) of input
// rows that output rows [first, last) are computed from. Blocks of images with channels first are
// brought to channels last and back, some channels and rows at a time.
template <class RowsRead, class Body>
void for_each_block(const KernelTable& table, const Images& in, const uint8_t* x, const Images& out,
                    uint8_t* y, int threads, const RowsRead& rows_read, const Body& body) {
  constexpr int64_t kBlockBytes = 1 << 17;  // of input: stays in L2 with what comes of it
  if (out.size() == 0) return;
  // Bytes of a channel that one output row takes, at most: a row near the middle.
  const auto middle = rows_read(out.height / 2, out.height / 2 + 1);
  const int64_t rows_in = std::max<int64_t>(1, middle.second - middle.first);
  const int64_t row_bytes = std::max(rows_in * in.width, out.width);
  int64_t channels = std::min<int64_t>(out.channels, out.channels_last ? out.channels : 64);
  if (out.channels_last && out.batch * out.height < threads)
    channels = std::min<int64_t>(channels, 256);
  if (!out.channels_last) channels = std::clamp<int64_t>(2 * kBlockBytes / row_bytes, 1, channels);
  int64_t rows = 1;
  while (rows < out.height) {
    const auto read = rows_read(out.height / 2, std::min(out.height, out.height / 2 + 2 * rows));
    const int64_t bytes = std::max((read.second - read.first) * in.width, 2 * rows * out.width);
    if (bytes * channels > kBlockBytes) break;
    rows *= 2;
  }
  rows = std::min(rows, out.height);
  const int64_t row_blocks = (out.height + rows - 1) / rows;
  const int64_t channel_blocks = (out.channels + channels - 1) / channels;
  const int64_t tasks = out.batch * channel_blocks * row_blocks;
  parallel_for(static_cast<int>(tasks), threads, [&](int task) {
    ImageBlock block;
    block.first = task % row_blocks * rows;
    block.last = std::min(out.height, block.first + rows);
    const int64_t channel = task / row_blocks % channel_blocks * channels;
    block.channels = std::min(channels, out.channels - channel);
    const int64_t image = task / row_blocks / channel_blocks;
    const auto read = rows_read(block.first, block.last);
    block.x_first = read.first;
    block.x_pixel = in.channels_last ? in.channels : block.channels;
    block.x_row = in.width * block.x_pixel;
    block.y_pixel = in.channels_last ? in.channels : block.channels;
    block.y_row = out.width * block.y_pixel;
    if (in.channels_last) {
      block.x = x + (image * in.height + block.x_first) * block.x_row + channel;
      block.y = y + (image * out.height + block.first) * block.y_row + channel;
      return body(block);
    }
    const int64_t pixels_in = (read.second - read.first) * in.width;
    const int64_t pixels_out = (block.last - block.first) * out.width;
    const int64_t plane_in = in.height * in.width, plane_out = out.height * out.width;
    auto* x_block = static_cast<uint8_t*>(
        scratch(ScratchSlot::kWindow, static_cast<size_t>(pixels_in * block.channels)));
    block.y = static_cast<uint8_t*>(
        scratch(ScratchSlot::kOutput, static_cast<size_t>(pixels_out * block.channels)));
    const int64_t plane = image * out.channels + channel;
    table.pack->transpose(x + plane * plane_in + block.x_first * in.width, plane_in, block.channels,
                          pixels_in, x_block, block.channels);
    block.x = x_block;
    body(block);
    table.pack->transpose(block.y, block.channels, pixels_out, block.channels,
                          y + plane * plane_out + block.first * out.width, plane_out);
  });
}

}  // namespace octavo
