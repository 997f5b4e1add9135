#include "ops/pooling.h"

#include <utility>

#include "runtime/trace.h"

namespace octavo {
namespace {

constexpr int64_t kSmallPlane = 256;  // pixels

int64_t divide_up(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : 0; }

Images outputs_of(const Images& in, const Window& window) {
  return {in.batch, in.channels, window.height.out, window.width.out, in.channels_last};
}

// Calls pool(args, row, column) for runs of outputs of one row whose windows have the same taps
// inside the image; `column` is the first one's.
template <class Pool>
void for_each_window(const Window& window, const ImageBlock& block, bool is_signed,
                     const Pool& pool) {
  const WindowAxis &h = window.height, &w = window.width;
  PoolArgs args{};
  args.row_step = h.dilation * block.x_row;
  args.column_step = w.dilation * block.x_pixel;
  args.x_step = w.stride * block.x_pixel;
  args.y_step = block.y_pixel;
  args.is_signed = is_signed;
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

template <class Pool>
void pool_images(const KernelTable& table, const uint8_t* x, const Images& in, bool is_signed,
                 const Window& window, uint8_t* y, int threads, const Pool& pool) {
  const WindowAxis& h = window.height;
  const auto rows_read = [&](int64_t first, int64_t last) {
    return std::pair(std::max<int64_t>(0, h.start(first)),
                     std::min(h.in, h.start(last - 1) + (h.kernel - 1) * h.dilation + 1));
  };
  for_each_block(table, in, x, outputs_of(in, window), y, threads, rows_read,
                 [&](const ImageBlock& block) { for_each_window(window, block, is_signed, pool); });
}

}  // namespace

int64_t WindowAxis::outputs(const WindowAxis& axis, bool ceil_mode) {
  const int64_t span = axis.dilation * (axis.kernel - 1) + 1;
  const int64_t room = axis.in + axis.pad_before + axis.pad_after - span;
  if (room < 0) return 0;
  int64_t out = room / axis.stride + 1;
  if (ceil_mode && room % axis.stride && out * axis.stride < axis.in + axis.pad_before) ++out;
  return out;
}

int64_t WindowAxis::first_tap(int64_t o) const { return divide_up(-start(o), dilation); }

int64_t WindowAxis::last_tap(int64_t o) const {
  return std::min(kernel, divide_up(in - start(o), dilation));
}

int64_t WindowAxis::first_whole() const { return std::min(out, divide_up(pad_before, stride)); }

int64_t WindowAxis::last_whole() const {
  const int64_t room = in + pad_before - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : std::min(out, room / stride + 1);
}

int64_t WindowAxis::padded_taps(int64_t o) const {
  return std::min(kernel, divide_up(in + pad_after - start(o), dilation));
}

bool has_no_empty_window(const WindowAxis& axis) {
  for (int64_t o = 0; o < axis.out; ++o) {
    if (axis.first_tap(o) >= axis.last_tap(o)) return false;
  }
  return true;
}

void run_max_pool(const KernelTable& table, const uint8_t* x, const Images& in, bool is_signed,
                  const Window& window, uint8_t* y, int threads) {
  note_kernel(table, "max_pool_u8", "windows", in.batch * window.height.out * window.width.out,
              in.channels, window.height.kernel * window.width.kernel, threads);
  pool_images(table, x, in, is_signed, window, y, threads,
              [&](const PoolArgs& args, int64_t, int64_t) { table.pool->max(args); });
}

void run_average_pool(const KernelTable& table, const uint8_t* x, const Images& in, bool is_signed,
                      const Window& window, bool count_include_pad, AverageArgs average, uint8_t* y,
                      int threads) {
  note_kernel(table, "average_pool_u8", "windows", in.batch * window.height.out * window.width.out,
              in.channels, window.height.kernel * window.width.kernel, threads);
  const int64_t plane = in.height * in.width;
  const auto covers = [](const WindowAxis& axis) {
    return axis.out == 1 && axis.last_whole() == 1 && axis.kernel == axis.in && axis.dilation == 1;
  };
  // Large planes are summed where they lie.
  if (!in.channels_last && covers(window.height) && covers(window.width) && plane > kSmallPlane) {
    average.count = static_cast<int32_t>(plane);
    return for_each_group(in.batch * in.channels, plane, threads, [&](int64_t first, int64_t last) {
      table.pool->average_rows(x + first * plane, last - first, plane, is_signed, average,
                               y + first);
    });
  }
  pool_images(table, x, in, is_signed, window, y, threads,
              [&](const PoolArgs& args, int64_t row, int64_t column) {
                AverageArgs with_count = average;
                with_count.count =
                    static_cast<int32_t>(count_include_pad ? window.height.padded_taps(row) *
                                                                 window.width.padded_taps(column)
                                                           : args.rows * args.columns);
                table.pool->average(args, with_count);
              });
}

}  // namespace octavo
