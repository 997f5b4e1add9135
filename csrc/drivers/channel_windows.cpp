#include "drivers/channel_windows.h"

#include <algorithm>
#include <cstring>

#include "drivers/copy_bytes.h"
#include "drivers/sizes.h"

namespace octavo {
namespace {

// Few channels are taken side by side, as many as share a cache line of a pixel.
constexpr int64_t kLine = 64;
// The windows of one pass stay in L2.
constexpr int64_t kWindowsBytes = 192 << 10;

// Rows, or columns, that one output reads.
int64_t reach(int64_t kernel, int64_t dilation) { return (kernel - 1) * dilation + 1; }

// kChannels 0: any number. A constant one makes each copy a move or two.
template <int64_t kChannels>
struct Rows {
  // `pixels` pixels from `in` to each window, from `out` on.
  static void copy(const uint8_t* in, int64_t stride, int64_t pixels, const ChannelWindows& w,
                   uint8_t* out) {
    const int64_t channels = kChannels > 0 ? kChannels : w.channels, step = w.block_bytes();
    for (int64_t i = 0; i < pixels; ++i) {
      for (int64_t block = 0; block < w.blocks; ++block)
        copy_bytes(out + block * step + i * channels, in + i * stride + block * channels, channels);
    }
  }
  static void pad(uint8_t value, int64_t pixels, const ChannelWindows& w, uint8_t* out) {
    const int64_t channels = kChannels > 0 ? kChannels : w.channels, step = w.block_bytes();
    for (int64_t i = 0; i < pixels; ++i) {
      for (int64_t block = 0; block < w.blocks; ++block)
        std::memset(out + block * step + i * channels, value, static_cast<size_t>(channels));
    }
  }
};

template <class R>
void fill(const ConvX& x, const uint8_t* image, int64_t height, int64_t width,
          const ChannelWindows& w, uint8_t* out) {
  const auto padding = static_cast<uint8_t>(x.zero_point);
  const int64_t left = std::clamp<int64_t>(-w.first_column, 0, w.columns);
  for (int64_t r = 0; r < w.rows; ++r, out += w.row_bytes()) {
    const int64_t row = w.first_row + r;
    const int64_t right = row >= 0 && row < height
                              ? std::clamp<int64_t>(width - w.first_column, left, w.columns)
                              : left;
    R::pad(padding, left, w, out);
    if (left < right)
      R::copy(image + row * x.row_stride + (w.first_column + left) * x.pixel_stride, x.pixel_stride,
              right - left, w, out + left * w.channels);
    R::pad(padding, w.columns - right, w, out + right * w.channels);
  }
}

}  // namespace

int64_t ChannelWindows::block_bytes() const { return round_up(rows * row_bytes(), 64); }

ChannelWindows channel_windows(const ConvGeometry& g, int64_t from, int64_t to, int64_t blocks) {
  ChannelWindows w{};
  w.first_row = from * g.stride_h - g.pad_top;
  w.first_column = -g.pad_left;
  w.rows = (to - from - 1) * g.stride_h + reach(g.kernel_h, g.dilation_h);
  w.columns = (g.out_w - 1) * g.stride_w + reach(g.kernel_w, g.dilation_w);
  w.blocks = blocks;
  w.channels = g.in_c;
  return w;
}

WindowPlan plan_channel_windows(const ConvGeometry& g, int64_t pieces) {
  WindowPlan plan{};
  if (g.in_c <= 0 || g.kernel_h <= 0 || g.kernel_w <= 0) return plan;
  plan.together = std::min(kLine / g.in_c, pieces);
  if (plan.together < 2) return plan;
  const ChannelWindows first = channel_windows(g, 0, 1, plan.together);
  const int64_t rows = kWindowsBytes / (plan.together * first.row_bytes());
  if (rows >= first.rows) plan.rows = (rows - first.rows) / g.stride_h + 1;
  return plan;
}

void fill_channel_windows(const ConvX& x, const uint8_t* image, int64_t height, int64_t width,
                          const ChannelWindows& windows, uint8_t* out) {
  const auto run = windows.channels == 8    ? fill<Rows<8>>
                   : windows.channels == 16 ? fill<Rows<16>>
                   : windows.channels == 32 ? fill<Rows<32>>
                                            : fill<Rows<0>>;
  run(x, image, height, width, windows, out);
}

}  // namespace octavo
