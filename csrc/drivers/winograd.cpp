#include "drivers/winograd.h"

#include <algorithm>
#include <cstring>

#include "drivers/sizes.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Transformed inputs and products of a block lie in L2, where that leaves enough tiles to share the
// transformed weights: those cost as much as the products of two tiles.
constexpr int64_t kBlockBytes = 256 << 10;
constexpr int64_t kEnoughTiles = 64;
constexpr int64_t kInputBytes = 512 << 10;
// More are left to other paths: so all of a block's scratch takes less than 1 MB.
constexpr int64_t kMostChannels = 768;
static_assert(4 * 255 * 128 * 9 * kMostChannels < int64_t{1} << 31, "four times a sum must fit");
// Panels that are not shared out.
constexpr int64_t kPanelsOfPart = 4;
// Tasks of a thread from which an unequal share does not matter.
constexpr int64_t kManyShares = 8;
constexpr int64_t kTaps = 3, kTile = 2, kPatch = 4;

// Bytes of a plane, an odd number of cache lines: 16 planes are written and read at once, and must
// not share a set of L1.
int64_t odd_lines(int64_t bytes) { return (ceil_div(bytes, 64) | 1) * 64; }

// Tiles of a block.
int64_t most_tiles(int64_t channels, const InfoKernels& info) {
  const int64_t in_bytes = kWinogradPlanes * channels * 2;
  const int64_t bytes = in_bytes + kWinogradPlanes * info.nr * 4;
  return std::max(kBlockBytes / bytes, std::min(kEnoughTiles, kInputBytes / in_bytes));
}

class Winograd {
 public:
  Winograd(const ConvWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y)
      : b_(w.packed()),
        g_(g),
        x_(x),
        y_(y),
        kernels_(*b_.table),
        channels_(w.channels()),
        row_(w.segment_length()),
        tile_rows_(ceil_div(g.out_h, kTile)),
        tile_columns_(ceil_div(g.out_w, kTile)) {
    const int64_t most = most_tiles(channels_, *kernels_.info);
    spans_ = ceil_div(tile_columns_, most);
    span_ = ceil_div(tile_columns_, spans_);
    rows_ = spans_ > 1 ? 1 : most / tile_columns_;
  }

  // Rows of tiles, of all images; as many as one block may have.
  int64_t rows() const { return g_.batch * tile_rows_; }
  int64_t most_rows() const { return rows_; }

  // Rows of tiles [from, to), panels [p0, p1).
  void compute(int64_t from, int64_t to, int64_t p0, int64_t p1) const {
    const int64_t nr = kernels_.info->nr;
    const int64_t tiles = (to - from) * span_;
    const int64_t in_plane = odd_lines(tiles * channels_ * 2);
    const int64_t patch_bytes = odd_lines(kPatch * kPatch * channels_);
    auto* memory = static_cast<char*>(scratch(
        ScratchSlot::kWindow, static_cast<size_t>(kWinogradPlanes * in_plane + patch_bytes)));
    auto* inputs = reinterpret_cast<int16_t*>(memory);
    auto* patch = reinterpret_cast<uint8_t*>(memory + kWinogradPlanes * in_plane);
    const int64_t weight_plane = odd_lines(channels_ * nr * 2);
    auto* weights = static_cast<int16_t*>(
        scratch(ScratchSlot::kExpanded, static_cast<size_t>(kWinogradPlanes * weight_plane)));
    const int64_t product_plane = odd_lines(tiles * nr * 4);
    auto* products = static_cast<int32_t*>(
        scratch(ScratchSlot::kAccumulators, static_cast<size_t>(kWinogradPlanes * product_plane)));

    for (int64_t s = 0; s < spans_; ++s) {
      const int64_t left = tile_columns_ * s / spans_, right = tile_columns_ * (s + 1) / spans_;
      const int64_t width = right - left;
      for (int64_t row = from; row < to; ++row)
        transform_inputs(row, left, right, inputs + (row - from) * width * channels_, in_plane / 2,
                         patch);
      for (int64_t p = p0; p < p1; ++p) {
        GemmArgs g{};
        const float one = 1.0f;
        g.width = b_.panel_width(p);
        WinogradWeights w{};
        w.panel = b_.panels + p * b_.panel_stride;
        w.row = row_ * g.width;
        w.tap = channels_ * g.width;
        w.values = channels_ * g.width;
        w.out = weights;
        w.plane = weight_plane / 2;
        kernels_.winograd->weights(w);

        g.m = (to - from) * width;
        g.lda = channels_;
        g.segments = 1;
        g.segment_length = channels_;
        g.b_expanded = true;
        g.n = g.ldc = g.width;
        g.output = GemmOutput::kS32;
        g.row_scale = &one;
        for (int64_t plane = 0; plane < kWinogradPlanes; ++plane) {
          g.a = inputs + plane * in_plane / 2;
          g.b = weights + plane * weight_plane / 2;
          g.c = products + plane * product_plane / 4;
          kernels_.gemm->run(g);
        }

        const int64_t column = p * nr;
        WinogradOutputs out{};
        out.plane = product_plane / 4;
        out.columns = std::min(g_.out_w - kTile * left, kTile * width);
        out.row_stride = y_.row_stride;
        out.out.width = g.width;
        out.out.n = std::min(nr, b_.n - column);
        out.out.col_init = y_.c.bias_s32 ? y_.c.bias_s32 + column : nullptr;
        out.out.output = output_of(y_.c.type);
        out.out.ldc = y_.pixel_stride;
        out.out.multiplier = y_.c.multiplier ? y_.c.multiplier + column : nullptr;
        out.out.row_scale = &one;
        out.out.bias = y_.c.bias_f32 ? y_.c.bias_f32 + column : nullptr;
        out.out.activate = y_.c.activate;
        out.out.lo = y_.c.lo;
        out.out.hi = y_.c.hi;
        out.out.zero_point = y_.c.zero_point;
        for (int64_t row = from; row < to; ++row) {
          const int64_t image = row / tile_rows_, oy = row % tile_rows_ * kTile;
          out.products = products + (row - from) * width * g.width;
          out.rows = std::min(kTile, g_.out_h - oy);
          out.out.c =
              static_cast<char*>(y_.c.data) + (image * y_.image_stride + oy * y_.row_stride +
                                               kTile * left * y_.pixel_stride + column) *
                                                  type_bytes(y_.c.type);
          kernels_.winograd->outputs(out);
        }
      }
    }
    if (!y_.finish) return;
    for (int64_t row = from; row < to;) {
      const int64_t image = row / tile_rows_, end = std::min(to, (image + 1) * tile_rows_);
      y_.finish->run(y_.finish->context, image, (row - image * tile_rows_) * kTile,
                     std::min(g_.out_h, (end - image * tile_rows_) * kTile), p0 * nr,
                     std::min(b_.n, p1 * nr));
      row = end;
    }
  }

 private:
  // Tiles [left, right) of one row of tiles. Those that lie in the image are read in place, for
  // others a patch is padded.
  void transform_inputs(int64_t row, int64_t left, int64_t right, int16_t* out, int64_t plane,
                        uint8_t* patch) const {
    const int64_t y = row % tile_rows_ * kTile - g_.pad_top;
    const uint8_t* image = x_.data + row / tile_rows_ * x_.image_stride;
    const bool rows_inside = y >= 0 && y + kPatch <= g_.in_h;
    WinogradInputs in{};
    in.channels = channels_;
    in.is_signed = x_.is_signed;
    in.zero_point = x_.zero_point;
    in.plane = plane;
    for (int64_t tile = left; tile < right; tile += in.tiles) {
      const int64_t x = tile * kTile - g_.pad_left;
      in.out = out + (tile - left) * channels_;
      if (rows_inside && x >= 0 && x + kPatch <= g_.in_w) {
        in.tiles = std::min(right - tile, (g_.in_w - kPatch - x) / kTile + 1);
        in.x = image + y * x_.row_stride + x * x_.pixel_stride;
        in.row_stride = x_.row_stride;
        in.pixel_stride = x_.pixel_stride;
      } else {
        in.tiles = 1;
        in.x = patch;
        in.row_stride = kPatch * channels_;
        in.pixel_stride = channels_;
        pad(image, y, x, patch);
      }
      kernels_.winograd->inputs(in);
    }
  }

  void pad(const uint8_t* image, int64_t y, int64_t x, uint8_t* patch) const {
    const auto channels = static_cast<size_t>(channels_);
    for (int64_t i = y; i < y + kPatch; ++i) {
      for (int64_t j = x; j < x + kPatch; ++j, patch += channels_) {
        if (i >= 0 && i < g_.in_h && j >= 0 && j < g_.in_w)
          std::memcpy(patch, image + i * x_.row_stride + j * x_.pixel_stride, channels);
        else
          std::memset(patch, static_cast<uint8_t>(x_.zero_point), channels);
      }
    }
  }

  const PackedB& b_;
  const ConvGeometry& g_;
  const ConvX& x_;
  const ConvY& y_;
  const KernelTable& kernels_;
  int64_t channels_;
  int64_t row_;  // of taps, in k
  int64_t tile_rows_, tile_columns_;
  int64_t rows_;          // of tiles, in a block
  int64_t spans_, span_;  // of columns; tiles in one
};

}  // namespace

bool winograd_applies(const ConvWeights& w, const ConvGeometry& g, const ConvY& y) {
  const KernelTable& table = *w.packed().table;
  const int64_t channels = w.channels();
  return table.winograd->outputs && g.kernel_h == kTaps && g.kernel_w == kTaps && g.stride_h == 1 &&
         g.stride_w == 1 && g.dilation_h == 1 && g.dilation_w == 1 && !y.c.b_zero_point &&
         channels >= table.winograd->least_channels && channels <= kMostChannels &&
         channels % table.info->kr == 0;  // each tap begins a k-group
}

// Costs in products of a pair of channels, fitted to times of both ways: what the micro-kernel
// loses with short sums, and what transforms take of each tile's inputs and outputs and of a
// block's weights.
bool winograd_pays(const ConvWeights& w, const ConvGeometry& g) {
  constexpr double kProducts = 18, kOfInput = 60, kOfOutput = 150, kOfWeight = 50, kMargin = 1.15;
  const int64_t tiles = g.batch * ceil_div(g.out_h, kTile) * ceil_div(g.out_w, kTile);
  const int64_t blocks = ceil_div(tiles, most_tiles(w.channels(), *w.packed().table->info));
  const double direct = static_cast<double>(g.batch * g.out_h * g.out_w * kTaps * kTaps);
  const double by_tiles =
      static_cast<double>(tiles) * (kProducts + kOfInput / static_cast<double>(w.packed().n) +
                                    kOfOutput / static_cast<double>(w.channels())) +
      static_cast<double>(blocks) * kOfWeight;
  return direct > kMargin * by_tiles;
}

void winograd(const ConvWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
              int threads) {
  const Winograd run(w, g, x, y);
  const PackedB& b = w.packed();
  const int64_t panels = b.panel_count();
  int64_t blocks = ceil_div(run.rows(), run.most_rows()), parts = 1;
  if (threads > 1) {
    // Parts transform the inputs each for itself: next to nothing, for several panels.
    parts = std::clamp<int64_t>(panels / kPanelsOfPart, 1, ceil_div(int64_t{2} * threads, blocks));
    const int64_t shares = ceil_div(std::max<int64_t>(blocks * parts, threads), threads);
    if (shares < kManyShares)
      blocks = std::min(run.rows(), ceil_div(shares * threads, parts));  // as many for each thread
  }
  note_kernel(*b.table, "gemm_u8s8s32", "Winograd F(2x2, 3x3)", g.batch * g.out_h * g.out_w, b.n,
              kTaps * kTaps * w.channels(), threads);
  parallel_for(static_cast<int>(blocks * parts), threads, [&](int task) {
    const int64_t part = task % parts, block = task / parts;
    // Larger ones first: they are made up for.
    run.compute(ceil_div(run.rows() * block, blocks), ceil_div(run.rows() * (block + 1), blocks),
                panels * part / parts, panels * (part + 1) / parts);
  });
}

}  // namespace octavo
