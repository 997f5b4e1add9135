#include "drivers/depthwise_f32.h"

#include <algorithm>
#include <cstring>

#include "drivers/gemm.h"
#include "drivers/sizes.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Integer dot products do more in the time of a fused multiply-add of one channel.
constexpr int64_t kMacsPerMac = 16;
// What the rows of a slab of channels that one row of outputs reads should take of L1; and channels
// below which a slab is not cut.
constexpr int64_t kSlabBytes = 24 << 10;
constexpr int64_t kLeastSlab = 64;

// Taps [from, to) of an axis that lie in an image of `size`, the first of all at `first`.
struct Taps {
  int64_t from, to;
  Taps(int64_t first, int64_t dilation, int64_t count, int64_t size)
      : from(first < 0 ? std::min(ceil_div(-first, dilation), count) : 0),
        to(first >= size ? from : std::clamp((size - 1 - first) / dilation + 1, from, count)) {}
  int64_t count() const { return to - from; }
};

}  // namespace

DepthwiseFloats::DepthwiseFloats(const KernelTable& kernel_table, const void* w, bool half,
                                 int64_t channels, int64_t height, int64_t width)
    : table(&kernel_table),
      is_half(half),
      channels(channels),
      taps(height * width),
      pitch(round_up(channels, 16)),
      weights(static_cast<size_t>((taps * pitch + kColumnPadding) * value_bytes())) {
  std::memset(weights.data(), 0, weights.size());
  const int64_t bytes = value_bytes();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < taps; ++t)
      std::memcpy(static_cast<char*>(weights.data()) + (t * pitch + c) * bytes,
                  static_cast<const char*>(w) + (c * taps + t) * bytes, static_cast<size_t>(bytes));
  }
}

void DepthwiseFloats::unpack(void* w) const {
  const int64_t bytes = value_bytes();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < taps; ++t)
      std::memcpy(static_cast<char*>(w) + (c * taps + t) * bytes,
                  static_cast<const char*>(weights.data()) + (t * pitch + c) * bytes,
                  static_cast<size_t>(bytes));
  }
}

void depthwise_f32(const DepthwiseFloats& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
                   int threads) {
  const int64_t rows = g.batch * g.out_h;
  if (rows * g.out_w * g.out_c <= 0) return;
  threads = threads_worth(*w.table, rows * g.out_w * g.out_c * w.taps * kMacsPerMac, threads);
  note_kernel(*w.table, "depthwise_f32", "in place", rows * g.out_w, g.out_c, w.taps, threads);
  constexpr int64_t kBytes = sizeof(float);
  const auto run = w.is_half ? w.table->depthwise_f32->run_half : w.table->depthwise_f32->run;
  const int64_t pixel = x.pixel_stride / kBytes, row = x.row_stride / kBytes;
  // Columns [first, last) have all taps in the image.
  const int64_t room = g.in_w - 1 - (g.kernel_w - 1) * g.dilation_w + g.pad_left;
  const int64_t first = std::min(ceil_div(std::max<int64_t>(g.pad_left, 0), g.stride_w), g.out_w);
  const int64_t last = std::clamp(room < 0 ? 0 : room / g.stride_w + 1, first, g.out_w);

  const int64_t fitting = kSlabBytes / (g.kernel_h * g.in_w * kBytes) / kLeastSlab * kLeastSlab;
  const int64_t slab = std::clamp(fitting, std::min(kLeastSlab, g.out_c), g.out_c);

  const auto run_row = [&](int64_t image, int64_t oy, int64_t channel) {
    const int64_t top = oy * g.stride_h - g.pad_top;
    const Taps h(top, g.dilation_h, g.kernel_h, g.in_h);
    const auto* in = reinterpret_cast<const float*>(x.data + image * x.image_stride) + channel;
    auto* out =
        static_cast<float*>(y.c.data) + image * y.image_stride + oy * y.row_stride + channel;
    DepthwiseF32Args a{};
    a.in_step = g.stride_w * pixel;
    a.tap_row = g.dilation_h * row;
    a.tap_column = g.dilation_w * pixel;
    a.taps_h = h.count();
    a.w_row = g.kernel_w * w.pitch;
    a.w_column = w.pitch;
    a.y_step = y.pixel_stride;
    a.channels = std::min(slab, g.out_c - channel);
    a.bias = y.c.bias_f32 ? y.c.bias_f32 + channel : nullptr;
    a.activate = y.c.activate;
    a.lo = y.c.lo;
    a.hi = y.c.hi;
    const auto run_columns = [&](int64_t from, int64_t to) {
      const int64_t left = from * g.stride_w - g.pad_left;
      const Taps v(left, g.dilation_w, g.kernel_w, g.in_w);
      a.taps_w = v.count();
      a.columns = to - from;
      a.y = out + from * y.pixel_stride;
      // No taps, no address: it might lie anywhere.
      const bool any = a.taps_h > 0 && a.taps_w > 0;
      if (!any) a.taps_h = 0;
      a.in = any ? in + (top + h.from * g.dilation_h) * row + (left + v.from * g.dilation_w) * pixel
                 : in;
      a.w = static_cast<const char*>(w.weights.data()) +
            ((any ? (h.from * g.kernel_w + v.from) * w.pitch : 0) + channel) * w.value_bytes();
      run(a);
      a.taps_h = h.count();
    };
    for (int64_t ox = 0; ox < first; ++ox) run_columns(ox, ox + 1);
    if (first < last) run_columns(first, last);
    for (int64_t ox = last; ox < g.out_w; ++ox) run_columns(ox, ox + 1);
    if (y.finish)
      y.finish->run(y.finish->context, image, oy, oy + 1, channel, channel + a.channels);
  };
  const int64_t tasks = threads > 1 ? std::min<int64_t>(rows, int64_t{4} * threads) : 1;
  parallel_for(static_cast<int>(tasks), threads, [&](int task) {
    for (int64_t channel = 0; channel < g.out_c; channel += slab) {
      for (int64_t r = rows * task / tasks; r < rows * (task + 1) / tasks; ++r)
        run_row(r / g.out_h, r % g.out_h, channel);
    }
  });
}

}  // namespace octavo
