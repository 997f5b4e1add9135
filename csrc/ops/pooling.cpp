#include "ops/pooling.h"

#include <utility>

#include "ops/windows.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

constexpr int64_t kSmallPlane = 256;  // pixels

int64_t divide_up(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : 0; }

Images outputs_of(const Images& in, const Window& window) {
  return {in.batch, in.channels, window.height.out, window.width.out, in.channels_last};
}

template <class Pool>
void pool_images(const KernelTable& table, const uint8_t* x, const Images& in, bool is_signed,
                 const Window& window, uint8_t* y, int threads, const Pool& pool) {
  PoolArgs args{};
  args.is_signed = is_signed;
  const WindowAxis& h = window.height;
  const auto rows_read = [&](int64_t first, int64_t last) {
    return std::pair(std::max<int64_t>(0, h.start(first)),
                     std::min(h.in, h.start(last - 1) + (h.kernel - 1) * h.dilation + 1));
  };
  for_each_block(table, in, x, outputs_of(in, window), y, threads, rows_read,
                 [&](const ImageBlock& block) { for_each_window(window, block, args, pool); });
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
