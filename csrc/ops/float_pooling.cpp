#include "ops/float_pooling.h"

#include <algorithm>

#include "ops/runs.h"
#include "ops/windows.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// As ImageBlock, of floats.
struct FloatBlock {
  int64_t channels, first, last;
  const float* x;
  int64_t x_first, x_row, x_pixel;
  float* y;
  int64_t y_row, y_pixel;
};

template <class Pool>
void pool_images(const float* x, const Images& in, const Window& window, float* y, int threads,
                 const Pool& pool) {
  const int64_t height = window.height.out;
  const int64_t y_row = window.width.out * in.channels;
  for_each_group(in.batch * height, y_row, threads, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t image = first / height, row = first % height;
      const int64_t rows = std::min(last - first, height - row);
      FloatBlock block{};
      block.channels = block.x_pixel = block.y_pixel = in.channels;
      block.x_row = in.width * in.channels;
      block.y_row = y_row;
      block.x = x + image * in.height * block.x_row;
      block.y = y + first * y_row;
      block.first = row;
      block.last = row + rows;
      for_each_window(window, block, FloatPoolArgs{}, pool);
      first += rows;
    }
  });
}

}  // namespace

void run_float_max_pool(const KernelTable& table, const float* x, const Images& in,
                        const Window& window, float* y, int threads) {
  note_kernel(table, "max_pool_f32", "windows", in.batch * window.height.out * window.width.out,
              in.channels, window.height.kernel * window.width.kernel, threads);
  pool_images(x, in, window, y, threads,
              [&](const FloatPoolArgs& args, int64_t, int64_t) { table.float_pool->max(args); });
}

void run_float_average_pool(const KernelTable& table, const float* x, const Images& in,
                            const Window& window, bool count_include_pad, float* y, int threads) {
  note_kernel(table, "average_pool_f32", "windows", in.batch * window.height.out * window.width.out,
              in.channels, window.height.kernel * window.width.kernel, threads);
  pool_images(
      x, in, window, y, threads, [&](const FloatPoolArgs& args, int64_t row, int64_t column) {
        const int64_t taps = count_include_pad
                                 ? window.height.padded_taps(row) * window.width.padded_taps(column)
                                 : args.rows * args.columns;
        table.float_pool->average(args, static_cast<float>(taps));
      });
}

void run_float_mean(const KernelTable& table, const float* x, const Images& in, float* y,
                    int threads) {
  const int64_t pixels = in.height * in.width;
  note_kernel(table, "mean_f32", "images", in.batch, in.channels, pixels, threads);
  for_each_group(in.batch, pixels * in.channels, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      table.float_pool->mean(x + i * pixels * in.channels, pixels, in.channels,
                             y + i * in.channels);
  });
}

}  // namespace octavo
