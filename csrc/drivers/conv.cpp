#include "drivers/conv.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "drivers/copy_bytes.h"
#include "drivers/sizes.h"
#include "drivers/winograd.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Bytes of input that a chunk of output rows may read: with a panel of weights it stays in L2.
constexpr int64_t kWindowBytes = 192 << 10;
// A row of output that is longer is cut into blocks.
constexpr int64_t kBlockColumns = 512;
// Rows of a column of output from which running down it pays.
constexpr int64_t kLeastRows = 3;
// Output pixels of which all taps are gathered at once, for weights with zero points.
constexpr int64_t kGatheredPixels = 64;
// Taps of the largest kernel whose columns may be dilated without gathering.
constexpr int64_t kMostTaps = 128;
// More columns than any panel has.
constexpr int64_t kMostColumns = 128;
// The micro-kernel reads whole k-groups of a window: this far beyond its end.
constexpr int64_t kSlack = 64;
// Integer dot products do more in the time of a fused multiply-add.
constexpr int64_t kMacsPerFloatMac = 4;
// Float weights of more than this are taken a few kernel rows at a time.
constexpr int64_t kPartBytes = 256 << 10;

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
int64_t ceil_of(int64_t a, int64_t b) { return floor_div(a + b - 1, b); }  // of any sign

// The taps [from, to) of `count` that fall inside [0, size) when the first reads `at`.
struct Taps {
  int64_t from, to;
};
Taps taps_inside(int64_t at, int64_t dilation, int64_t count, int64_t size) {
  const int64_t from = std::clamp<int64_t>(ceil_of(-at, dilation), 0, count);
  const int64_t to = std::clamp<int64_t>(ceil_of(size - at, dilation), from, count);
  return {from, to};
}

// Packed weights of either kind, as the loops see them.
struct Panels {
  const KernelTable* table;
  const char* data;
  int64_t stride;       // bytes from panel to panel
  int64_t value_bytes;  // as stored
  int64_t n, padded_n, channels;
  int64_t kr;
  bool is_float;
  const ConvWeights* integers;  // null: no zero point to account for

  explicit Panels(const ConvWeights& w)
      : table(w.packed().table),
        data(reinterpret_cast<const char*>(w.packed().panels)),
        stride(w.packed().panel_stride),
        value_bytes(1),
        n(w.packed().n),
        padded_n(w.packed().padded_n),
        channels(w.channels()),
        kr(table->info->kr),
        is_float(false),
        integers(&w) {}
  explicit Panels(const ConvFloatWeights& w)
      : table(w.packed().table),
        data(w.packed().panel(0, 0)),
        stride(w.packed().panel_stride * (w.packed().is_half ? 2 : 4)),
        value_bytes(w.packed().is_half ? 2 : 4),
        n(w.packed().n),
        padded_n(w.packed().padded_n),
        channels(w.channels()),
        kr(1),
        is_float(true),
        integers(nullptr) {}

  int64_t count() const { return ceil_div(n, table->info->nr); }
  int64_t width(int64_t panel) const {
    return std::min<int64_t>(table->info->nr, padded_n - panel * table->info->nr);
  }
  int64_t bytes() const { return stride / table->info->nr * padded_n; }
};

class Conv {
 public:
  Conv(const Panels& b, const ConvGeometry& g, const ConvX& x, const ConvY& y,
       const int32_t* col_start, int64_t columns)
      : b_(b),
        g_(g),
        x_(x),
        y_(y),
        col_start_(col_start),
        kernels_(*b_.table),
        info_(*b_.table->info) {
    const int64_t channels = b.channels;
    segment_ = round_up(g.kernel_w * channels, b.kr);
    x_bytes_ = b.is_float ? 4 : 1;
    a_bytes_ = b.is_float ? 4 : info_.a_bytes;
    widens_ = !b.is_float && info_.a_bytes == 2;
    flip_ = !b.is_float && !widens_ && x.is_signed != info_.a_signed ? 0x80 : 0;
    if (!info_.flips) std::swap(flip_, copy_flip_);
    const Taps left = taps_inside(-g.pad_left, g.dilation_w, g.kernel_w, g.in_w);
    const Taps right =
        taps_inside((g.out_w - 1) * g.stride_w - g.pad_left, g.dilation_w, g.kernel_w, g.in_w);
    const Taps top = taps_inside(-g.pad_top, g.dilation_h, g.kernel_h, g.in_h);
    const Taps bottom =
        taps_inside((g.out_h - 1) * g.stride_h - g.pad_top, g.dilation_h, g.kernel_h, g.in_h);
    const auto all = [](const Taps& t, int64_t count) { return t.from == 0 && t.to == count; };
    const bool has_padding = !all(left, g.kernel_w) || !all(right, g.kernel_w) ||
                             !all(top, g.kernel_h) || !all(bottom, g.kernel_h);
    // Dilated columns: each tap a segment of its own, where it begins a k-group.
    splits_ = g.dilation_w > 1 && g.kernel_w > 1 && channels % b.kr == 0 &&
              g.kernel_h * g.kernel_w <= kMostTaps;
    const bool is_run =
        g.kernel_w == 1 || splits_ || (g.dilation_w == 1 && x.pixel_stride == channels * x_bytes_);
    copies_ = has_padding || widens_ || copy_flip_ || !is_run;
    // Of a kernel one wide (high), a window holds the columns (rows) that are read, no others.
    gathers_ = copies_ && !splits_ && (g.kernel_w == 1 ? g.stride_w > 1 : g.dilation_w > 1);
    picks_rows_ = copies_ && g.kernel_h == 1;
    if (copies_) {
      window_w_ = window_columns(columns);
      pixel_ = (gathers_ ? g.kernel_w : g.stride_w) * channels;
      pitch_ = round_up(window_w_ * channels, 64);
      // Rows a multiple of 4 kB apart would share a set of L1.
      if (pitch_ * a_bytes_ % 4096 == 0) pitch_ += 64;
      segment_length_ = segment_;
    } else {
      pixel_ = g.stride_w * x.pixel_stride / x_bytes_;
      pitch_ = x.row_stride / x_bytes_;
      segment_length_ = g.kernel_w * channels;
    }
    row_ = (picks_rows_ ? 1 : g.stride_h) * pitch_;
    if (splits_) {
      segment_length_ = channels;
      const int64_t step = g.dilation_w * (copies_ ? channels : x.pixel_stride / x_bytes_);
      for (int64_t tap = 0; tap < g.kernel_h * g.kernel_w; ++tap)
        offsets_[tap] = tap / g.kernel_w * g.dilation_h * pitch_ + tap % g.kernel_w * step;
    }
    zero_ = b.is_float ? 0 : stored_a_zero_point(kernels_, x.is_signed, x.zero_point);
    clips_columns_ = copies_ && !gathers_ && !splits_ && channels % b.kr == 0 &&
                     (!all(left, g.kernel_w) || !all(right, g.kernel_w));
    // Columns of output all of whose taps lie inside.
    inner_from_ = 0;
    inner_to_ = g.out_w;
    if (clips_columns_) {
      inner_from_ = std::clamp<int64_t>(ceil_of(g.pad_left, g.stride_w), 0, g.out_w);
      inner_to_ = std::clamp<int64_t>(
          floor_div(g.in_w - 1 + g.pad_left - (g.kernel_w - 1) * g.dilation_w, g.stride_w) + 1,
          inner_from_, g.out_w);
    }
  }

  int64_t window_columns(int64_t columns) const {
    return gathers_ ? columns * g_.kernel_w
                    : (columns - 1) * g_.stride_w + (g_.kernel_w - 1) * g_.dilation_w + 1;
  }
  int64_t window_rows(int64_t rows) const {
    return picks_rows_ ? rows : (rows - 1) * g_.stride_h + (g_.kernel_h - 1) * g_.dilation_h + 1;
  }
  int64_t window_bytes(int64_t rows) const {
    return (window_rows(rows) * pitch_ + kSlack) * a_bytes_;
  }
  bool copies() const { return copies_; }

  // Output rows that read about kWindowBytes.
  int64_t chunk_rows() const {
    const int64_t row_bytes = std::max<int64_t>(row_ * a_bytes_, 1);
    const int64_t halo = window_bytes(1) - row_bytes;
    return std::clamp<int64_t>((kWindowBytes - halo) / row_bytes, 1, g_.out_h);
  }

  // A block of output pixels: rows [from, to), columns [left, right).
  struct Block {
    int64_t from, to, left, right;
  };

  // One block of one image, panels [p0, p1).
  void compute(int64_t image, const Block& block, int64_t p0, int64_t p1) const {
    const int64_t from = block.from, to = block.to;
    const char* window = nullptr;  // the first tap of the first output pixel
    if (copies_) {
      auto* memory = static_cast<char*>(
          scratch(ScratchSlot::kWindow, static_cast<size_t>(window_bytes(to - from))));
      fill(image, block, memory);
      window = memory;
    } else {
      window = reinterpret_cast<const char*>(x_.data) + image * x_.image_stride +
               (from * g_.stride_h - g_.pad_top) * x_.row_stride +
               (block.left * g_.stride_w - g_.pad_left) * x_.pixel_stride;
    }

    const float one = 1.0f;
    const int64_t value_bytes = type_bytes(y_.c.type);
    char* const y = static_cast<char*>(y_.c.data) +
                    (image * y_.image_stride + from * y_.row_stride) * value_bytes;
    GemmArgs g{};
    g.a_flip = flip_;
    g.row_scale = &one;
    g.lo = y_.c.lo;
    g.hi = y_.c.hi;
    g.zero_point = y_.c.zero_point;
    g.output = output_of(y_.c.type);
    g.pitch = g_.dilation_h * pitch_;
    const bool streams = b_.bytes() > l2_bytes();
    const int64_t rows = to - from, nr = info_.nr;
    // Kernel rows of one part: float sums of a large panel pass through C, so that it stays in L2.
    const int64_t part_rows =
        b_.is_float ? std::max<int64_t>(1, kPartBytes / std::max<int64_t>(1, segment_ * nr * 4))
                    : std::max<int64_t>(1, g_.kernel_h);
    // Widening what several tiles read once pays, where it then fits.
    const bool many = rows * (block.right - block.left) > 4 * info_.mr;
    const bool expands = b_.is_float ? b_.value_bytes == 2 && many
                                     : info_.b_bytes == 2 && many && b_.stride <= kExpandedPanel;
    const int64_t b_bytes = !expands ? b_.value_bytes : b_.is_float ? 4 : 2;
    char* expanded = nullptr;
    if (expands) {
      const int64_t values =
          std::min(part_rows, std::max<int64_t>(1, g_.kernel_h)) * segment_ * nr + kSlack;
      expanded = static_cast<char*>(
          scratch(ScratchSlot::kExpanded, static_cast<size_t>(values * b_bytes)));
    }
    const auto kernel = !b_.is_float   ? kernels_.gemm->run
                        : b_bytes == 2 ? kernels_.gemm_f32->run_half
                                       : kernels_.gemm_f32->run;
    // Down the columns: those whose kernels are cut, or all where rows are shorter than they.
    const bool down = rows >= kLeastRows;
    int64_t inner_from = block.left, inner_to = block.right;
    if (down) {
      inner_from = std::clamp(inner_from_, block.left, block.right);
      inner_to = std::clamp(inner_to_, inner_from, block.right);
    }
    if (down && inner_to - inner_from < kLeastRows && rows > inner_to - inner_from)
      inner_to = inner_from;

    const int64_t parts = std::max<int64_t>(1, ceil_div(g_.kernel_h, part_rows));
    for (int64_t step = p0 * parts; step < p1 * parts; ++step) {
      const int64_t p = step / parts, column = p * nr;
      const Taps part{step % parts * part_rows,
                      std::min(g_.kernel_h, (step % parts + 1) * part_rows)};
      const bool is_last = part.to == g_.kernel_h;
      g.accumulate = part.from > 0;
      g.activate = is_last && y_.c.activate;
      g.width = b_.width(p);
      g.n = std::min(nr, b_.n - column);
      const int64_t segment_values = segment_ * g.width;
      const char* weights = b_.data + p * b_.stride + part.from * segment_values * b_.value_bytes;
      if (expands) {
        expand(weights, (part.to - part.from) * segment_values, expanded);
        weights = expanded;
      }
      g.b_expanded = expands;
      g.multiplier = y_.c.multiplier ? y_.c.multiplier + column : nullptr;
      g.bias = is_last && y_.c.bias_f32 ? y_.c.bias_f32 + column : nullptr;
      g.b_prefetch = streams ? 16384 : 0;
      alignas(64) int32_t start[kMostColumns];
      // One run of the micro-kernel: `m` output pixels from (row, ox) on, these taps.
      const auto run = [&](int64_t row, int64_t ox, int64_t m, Taps ky, Taps kx) {
        ky = {std::clamp(ky.from, part.from, part.to), std::clamp(ky.to, part.from, part.to)};
        g.m = m;
        g.segments = (ky.to - ky.from) * (splits_ ? g_.kernel_w : 1);
        g.offsets = splits_ ? offsets_ + ky.from * g_.kernel_w : nullptr;
        const int64_t first = splits_ ? 0 : ky.from * g.pitch;
        const int64_t skipped = kx.from * b_.channels;
        g.a = window + (row * row_ + (ox - block.left) * pixel_ + first + skipped) * a_bytes_;
        g.b = weights + ((ky.from - part.from) * segment_values + skipped * g.width) * b_bytes;
        g.c = y + (row * y_.row_stride + ox * y_.pixel_stride + column) * value_bytes;
        kernel(g);
        g.b_prefetch = 0;
      };

      const Taps every_row{0, g_.kernel_h}, every_column{0, g_.kernel_w};
      Taps last = {-1, -1};
      g.lda = pixel_;
      g.ldc = y_.pixel_stride;
      g.segment_length = segment_length_;
      g.b_skip = 0;
      for (int64_t row = 0; row < rows && inner_from < inner_to; ++row) {
        const Taps ky = taps_inside((from + row) * g_.stride_h - g_.pad_top, g_.dilation_h,
                                    g_.kernel_h, g_.in_h);
        if (ky.from != last.from || ky.to != last.to)
          g.col_init = column_start(ky, every_column, column, start);
        last = ky;
        run(row, inner_from, inner_to - inner_from, ky, every_column);
      }
      g.lda = row_;
      g.ldc = y_.row_stride;
      for (int64_t ox = block.left; ox < block.right; ++ox) {
        if (ox == inner_from && inner_from < inner_to) ox = inner_to;
        if (ox == block.right) break;
        Taps kx = every_column;
        if (clips_columns_) {
          kx = taps_inside(ox * g_.stride_w - g_.pad_left, g_.dilation_w, g_.kernel_w, g_.in_w);
          g.segment_length = (kx.to - kx.from) * b_.channels;
          g.b_skip = segment_values - g.segment_length * g.width;
        }
        g.col_init = column_start(every_row, kx, column, start);
        run(0, ox, rows, every_row, kx);
      }
    }
    if (y_.finish) {
      const int64_t first = p0 * nr, end = std::min(b_.n, p1 * nr);
      y_.finish->run(y_.finish->context, image, from, to, first, end);
    }
  }

 private:
  void expand(const char* stored, int64_t values, char* out) const {
    if (b_.is_float)
      kernels_.gemm_f32->widen(reinterpret_cast<const uint16_t*>(stored), values,
                               reinterpret_cast<float*>(out));
    else
      kernels_.gemm->expand_b(reinterpret_cast<const int8_t*>(stored), values, out);
  }

  // Where the accumulators of one panel start if these taps alone are summed.
  const int32_t* column_start(Taps ky, Taps kx, int64_t column, int32_t* out) const {
    if (b_.is_float) return nullptr;
    const int32_t* all = col_start_ + column;
    const bool is_all =
        ky.from == 0 && ky.to == g_.kernel_h && kx.from == 0 && kx.to == g_.kernel_w;
    if (is_all || zero_ == 0) return all;
    const int64_t width = std::min<int64_t>(info_.nr, b_.padded_n - column);
    std::memcpy(out, all, static_cast<size_t>(width) * sizeof(int32_t));
    const auto zero = static_cast<uint32_t>(zero_);
    for (int64_t i = 0; i < g_.kernel_h; ++i) {
      for (int64_t j = 0; j < g_.kernel_w; ++j) {
        if (i >= ky.from && i < ky.to && j >= kx.from && j < kx.to) continue;
        const int32_t* sum = b_.integers->tap_sum(i * g_.kernel_w + j) + column;
        for (int64_t n = 0; n < width; ++n)
          out[n] = static_cast<int32_t>(static_cast<uint32_t>(out[n]) +
                                        zero * static_cast<uint32_t>(sum[n]));
      }
    }
    return out;
  }

  // The window of a block.
  void fill(int64_t image, const Block& block, char* memory) const {
    const int64_t from = block.from, rows = window_rows(block.to - from);
    const int64_t width = window_columns(block.right - block.left);
    const int64_t padding = g_.pad_left - block.left * g_.stride_w;  // columns on the left
    const uint8_t* source = x_.data + image * x_.image_stride;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t iy =
          picks_rows_ ? (from + r) * g_.stride_h - g_.pad_top : from * g_.stride_h - g_.pad_top + r;
      const bool inside = iy >= 0 && iy < g_.in_h;
      const uint8_t* row = inside ? source + iy * x_.row_stride : nullptr;
      char* out = memory + r * pitch_ * a_bytes_;
      if (gathers_) {
        for (int64_t ox = 0; ox < block.right - block.left; ++ox) {
          for (int64_t j = 0; j < g_.kernel_w; ++j) {
            const int64_t ix = ox * g_.stride_w - padding + j * g_.dilation_w;
            char* at = out + (ox * g_.kernel_w + j) * b_.channels * a_bytes_;
            if (inside && ix >= 0 && ix < g_.in_w)
              copy_pixels(at, row + ix * x_.pixel_stride, 1);
            else
              pad_pixels(at, 1);
          }
        }
        continue;
      }
      const int64_t first = std::clamp<int64_t>(padding, 0, width);
      const int64_t last = inside ? std::clamp<int64_t>(g_.in_w + padding, first, width) : first;
      const int64_t bytes = b_.channels * a_bytes_;
      if (inside && last > first)
        copy_pixels(out + first * bytes, row + (first - padding) * x_.pixel_stride, last - first);
      pad_pixels(out, first);
      pad_pixels(out + last * bytes, width - last);
    }
  }

  // May write zeros up to a k-group beyond.
  void copy_pixels(char* out, const uint8_t* in, int64_t pixels) const {
    int64_t length = b_.channels * x_bytes_;
    int64_t stride = x_.pixel_stride;
    if (stride == length) {
      length *= pixels;
      stride = length;
      pixels = 1;
    }
    if (widens_) {
      kernels_.gemm->prepare_a(in, stride, pixels, length, x_.is_signed, out, length);
      return;
    }
    auto* bytes = reinterpret_cast<uint8_t*>(out);
    if (copy_flip_) {
      for (int64_t i = 0; i < pixels; ++i) {
        for (int64_t c = 0; c < length; ++c)
          bytes[i * length + c] = in[i * stride + c] ^ copy_flip_;
      }
    } else if (pixels == 1) {
      std::memcpy(bytes, in, static_cast<size_t>(length));
    } else {
      for (int64_t i = 0; i < pixels; ++i) copy_bytes(bytes + i * length, in + i * stride, length);
    }
  }

  void pad_pixels(char* out, int64_t pixels) const {
    const int64_t values = pixels * b_.channels;
    if (values <= 0) return;
    if (b_.is_float)
      std::memset(out, 0, static_cast<size_t>(values) * sizeof(float));
    else if (widens_)
      std::fill_n(reinterpret_cast<int16_t*>(out), values, static_cast<int16_t>(x_.zero_point));
    else
      std::memset(out, static_cast<uint8_t>(x_.zero_point) ^ copy_flip_,
                  static_cast<size_t>(values));
  }

  const Panels& b_;
  const ConvGeometry& g_;
  const ConvX& x_;
  const ConvY& y_;
  const int32_t* col_start_;
  const KernelTable& kernels_;
  const InfoKernels& info_;
  int64_t x_bytes_, a_bytes_;   // of a value of x; of one of a window
  int64_t offsets_[kMostTaps];  // splits_: of each tap, from the first one
  bool splits_, widens_, copies_, gathers_, picks_rows_, clips_columns_;
  uint8_t flip_, copy_flip_ = 0;
  // In values: between output pixels, between output rows, between rows of the window.
  int64_t pixel_, row_, pitch_;
  int64_t segment_;  // one kernel row of packed weights
  int64_t window_w_ = 0, segment_length_;
  int64_t inner_from_, inner_to_;
  int32_t zero_;
};

// All taps of a few output pixels as rows of a matrix, for the matrix product.
bool conv_gathered(const ConvWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
                   const int32_t* col_start, int threads) {
  const PackedB& b = w.packed();
  const int64_t row_bytes = round_up(b.k, 64);
  const int64_t value_bytes = type_bytes(y.c.type);
  std::atomic<bool> fits{true};
  parallel_for(static_cast<int>(g.batch * g.out_h), threads, [&](int task) {
    const int64_t image = task / g.out_h, oy = task % g.out_h;
    auto* rows = static_cast<uint8_t*>(
        scratch(ScratchSlot::kWindow, static_cast<size_t>(kGatheredPixels * row_bytes)));
    for (int64_t first = 0; first < g.out_w; first += kGatheredPixels) {
      const int64_t m = std::min(kGatheredPixels, g.out_w - first);
      std::memset(rows, static_cast<uint8_t>(x.zero_point), static_cast<size_t>(m * row_bytes));
      for (int64_t i = 0; i < g.kernel_h; ++i) {
        const int64_t iy = oy * g.stride_h - g.pad_top + i * g.dilation_h;
        for (int64_t j = 0; j < g.kernel_w && iy >= 0 && iy < g.in_h; ++j) {
          for (int64_t r = 0; r < m; ++r) {
            const int64_t ix = (first + r) * g.stride_w - g.pad_left + j * g.dilation_w;
            if (ix < 0 || ix >= g.in_w) continue;
            copy_bytes(rows + r * row_bytes + i * w.segment_length() + j * w.channels(),
                       x.data + image * x.image_stride + iy * x.row_stride + ix * x.pixel_stride,
                       w.channels());
          }
        }
      }
      GemmA a{};
      a.kind = GemmA::Kind::kBytes;
      a.data = rows;
      a.m = m;
      a.row_stride = row_bytes;
      a.k_stride = 1;
      a.is_signed = x.is_signed;
      a.zero_point = &x.zero_point;
      GemmC c = y.c;
      c.ldc = y.pixel_stride;
      c.data = static_cast<char*>(y.c.data) +
               (image * y.image_stride + oy * y.row_stride + first * y.pixel_stride) * value_bytes;
      if (!gemm(a, b, c, col_start, 1)) fits.store(false, std::memory_order_relaxed);
    }
    if (y.finish) y.finish->run(y.finish->context, image, oy, oy + 1, 0, b.n);
  });
  return fits.load();
}

// Images and blocks of rows are shared out (of columns, where rows are long and few); panels too,
// where weights outweigh the images.
void share_out(const Panels& b, const ConvGeometry& g, const ConvX& x, const ConvY& y,
               const int32_t* col_start, int threads) {
  const int64_t across = y.finish ? 1 : ceil_div(g.out_w, kBlockColumns);
  const Conv conv(b, g, x, y, col_start, ceil_div(g.out_w, across));
  int64_t chunks = ceil_div(g.out_h, conv.chunk_rows());
  int64_t parts = 1;
  const int64_t panels = b.count();
  if (g.batch * chunks * across < int64_t{2} * threads && threads > 1) {
    const bool heavy = b.bytes() > conv.window_bytes(g.out_h);
    if (panels >= threads && (heavy || g.out_h < int64_t{4} * threads))
      parts = std::min<int64_t>(panels, ceil_div(int64_t{2} * threads, g.batch * chunks * across));
    else
      chunks = std::min(g.out_h, round_up(std::max<int64_t>(chunks, threads), threads));
  }
  note_kernel(*b.table,
              !b.is_float          ? "gemm_u8s8s32"
              : b.value_bytes == 2 ? "gemm_f16f32"
                                   : "gemm_f32",
              conv.copies() ? "windows of padded rows" : "rows in place",
              g.batch * g.out_h * g.out_w, b.n, g.kernel_h * g.kernel_w * b.channels, threads);
  parallel_for(static_cast<int>(g.batch * chunks * across * parts), threads, [&](int task) {
    int64_t at = task;
    const auto next = [&at](int64_t count) {
      const int64_t i = at % count;
      at /= count;
      return i;
    };
    const int64_t part = next(parts), column = next(across), chunk = next(chunks), image = at;
    const Conv::Block block = {g.out_h * chunk / chunks, g.out_h * (chunk + 1) / chunks,
                               g.out_w * column / across, g.out_w * (column + 1) / across};
    conv.compute(image, block, panels * part / parts, panels * (part + 1) / parts);
  });
}

// True if every pixel is one row of a plain product, all of them one stride apart.
bool is_product(const ConvGeometry& g, const ConvX& x, const ConvY& y) {
  return g.kernel_h == 1 && g.kernel_w == 1 && g.stride_h == 1 && g.stride_w == 1 &&
         g.pad_top == 0 && g.pad_left == 0 && g.in_h == g.out_h && g.in_w == g.out_w && !y.finish &&
         x.row_stride == g.in_w * x.pixel_stride && y.row_stride == g.out_w * y.pixel_stride &&
         (g.batch == 1 ||
          (x.image_stride == g.in_h * x.row_stride && y.image_stride == g.out_h * y.row_stride));
}

struct KernelShape {
  int64_t out_c, channels, kernel_h, kernel_w, groups;
  int64_t segment_length;  // rows of the matrix that one kernel row takes
};

// body(at, in_matrix) for each weight: its place by `strides`, and in a matrix of out_c columns.
template <class Body>
void for_each_weight(const KernelShape& s, const int64_t (&strides)[4], const Body& body) {
  const int64_t group_c = s.channels / s.groups, group_n = s.out_c / s.groups;
  for (int64_t n = 0; n < s.out_c; ++n) {
    for (int64_t c = 0; c < group_c; ++c) {
      for (int64_t i = 0; i < s.kernel_h; ++i) {
        for (int64_t j = 0; j < s.kernel_w; ++j) {
          const int64_t k = i * s.segment_length + j * s.channels + n / group_n * group_c + c;
          body(n * strides[0] + c * strides[1] + i * strides[2] + j * strides[3], k * s.out_c + n);
        }
      }
    }
  }
}

// Dilated kernels one high run down a column instead of along a row, each tap a segment of its own:
// nothing is gathered then.
void turn(ConvGeometry& g, int64_t kr, ConvX& x, ConvY& y) {
  const bool rows_alone = g.kernel_h == 1 && g.stride_h == 1 && g.pad_top == 0 && g.in_h == g.out_h;
  const bool is_whole = g.in_c % kr == 0;  // each tap begins a k-group
  if (g.dilation_w > 1 && g.kernel_w > 1 && rows_alone && is_whole && !y.finish &&
      (g.in_h == 1 || (g.batch == 1 || (x.image_stride == g.in_h * x.row_stride &&
                                        y.image_stride == g.out_h * y.row_stride)))) {
    if (g.in_h > 1) {
      g.batch *= g.in_h;
      x.image_stride = x.row_stride;
      y.image_stride = y.row_stride;
    }
    x.row_stride = x.pixel_stride;
    y.row_stride = y.pixel_stride;
    g.in_h = g.in_w;
    g.out_h = g.out_w;
    g.in_w = g.out_w = 1;
    std::swap(g.kernel_h, g.kernel_w);
    std::swap(g.stride_h, g.stride_w);
    std::swap(g.pad_top, g.pad_left);
    std::swap(g.dilation_h, g.dilation_w);
  }
}

}  // namespace

ConvWeights::ConvWeights(const KernelTable& table, const KernelValues& w, int64_t out_c,
                         int64_t channels, int64_t kernel_h, int64_t kernel_w, int64_t groups,
                         int threads)
    : channels_(channels),
      kernel_h_(kernel_h),
      kernel_w_(kernel_w),
      segment_length_(round_up(kernel_w * channels, table.info->kr)),
      packed_([&] {
        const uint8_t zero = w.is_signed ? 0 : 128;
        const int64_t k = kernel_h * segment_length_;
        std::vector<uint8_t> matrix(static_cast<size_t>(k * out_c + 1), zero);  // never null
        const KernelShape shape{out_c, channels, kernel_h, kernel_w, groups, segment_length_};
        for_each_weight(shape, w.strides, [&](int64_t at, int64_t in_matrix) {
          matrix[static_cast<size_t>(in_matrix)] = static_cast<const uint8_t*>(w.data)[at];
        });
        return OwnedPackedB(table, ByteMatrix{matrix.data(), k, out_c, out_c, 1, w.is_signed},
                            threads);
      }()) {
  const PackedB& b = packed();
  tap_sums_.assign(static_cast<size_t>(kernel_h * kernel_w * b.padded_n), 0);
  std::vector<uint8_t> matrix(static_cast<size_t>(b.k * b.n + 1));
  octavo::unpack(b, matrix.data(), b.n, 1);
  const uint8_t flip = b.flip();
  for (int64_t i = 0; i < kernel_h; ++i) {
    for (int64_t j = 0; j < kernel_w; ++j) {
      int32_t* sums = tap_sums_.data() + (i * kernel_w + j) * b.padded_n;
      for (int64_t c = 0; c < channels; ++c) {
        const uint8_t* row = matrix.data() + (i * segment_length_ + j * channels + c) * b.n;
        for (int64_t n = 0; n < b.n; ++n) sums[n] += static_cast<int8_t>(row[n] ^ flip);
      }
    }
  }
}

void ConvWeights::unpack(const KernelValues& w, int64_t groups) const {
  const PackedB& b = packed();
  std::vector<uint8_t> matrix(static_cast<size_t>(b.k * b.n + 1));
  octavo::unpack(b, matrix.data(), b.n, 1);
  const KernelShape shape{b.n, channels_, kernel_h_, kernel_w_, groups, segment_length_};
  auto* out = static_cast<uint8_t*>(const_cast<void*>(w.data));
  for_each_weight(shape, w.strides, [&](int64_t at, int64_t in_matrix) {
    out[at] = matrix[static_cast<size_t>(in_matrix)];
  });
}

bool conv(const ConvWeights& w, const ConvGeometry& geometry, const ConvX& input,
          const ConvY& output, const int32_t* col_start, int threads) {
  ConvX x = input;
  ConvY y = output;
  const PackedB& b = w.packed();
  ConvGeometry g = geometry;
  const int64_t pixels = g.batch * g.out_h * g.out_w;
  if (pixels <= 0 || b.n <= 0) return true;
  threads = threads_worth(*b.table, pixels * std::max<int64_t>(b.k, 1) * b.n, threads);

  if (y.c.b_zero_point || b.k == 0 || !fits_int32(b.k, y.c.max_abs_bias)) {
    note_kernel(*b.table, "gemm_u8s8s32", "all taps gathered", pixels, b.n, b.k, threads);
    return conv_gathered(w, g, x, y, col_start, threads);
  }
  if (winograd_applies(w, g, y) && winograd_pays(w, g)) {
    winograd(w, g, x, y, threads);
    return true;
  }
  turn(g, b.table->info->kr, x, y);
  if (b.k == w.channels() && is_product(g, x, y)) {
    GemmA a{};
    a.kind = GemmA::Kind::kBytes;
    a.data = x.data;
    a.m = pixels;
    a.row_stride = x.pixel_stride;
    a.k_stride = 1;
    a.is_signed = x.is_signed;
    a.zero_point = &x.zero_point;
    GemmC c = y.c;
    c.ldc = y.pixel_stride;
    return gemm(a, b, c, col_start, threads);
  }
  if (!col_start) {
    auto* start = static_cast<int32_t*>(
        scratch(ScratchSlot::kColumns, static_cast<size_t>(b.padded_n) * sizeof(int32_t)));
    column_start(b, stored_a_zero_point(*b.table, x.is_signed, x.zero_point), y.c.bias_s32, start);
    col_start = start;
  }

  share_out(Panels(w), g, x, y, col_start, threads);
  return true;
}

ConvFloatWeights::ConvFloatWeights(const KernelTable& table, const KernelValues& w, int64_t out_c,
                                   int64_t channels, int64_t kernel_h, int64_t kernel_w,
                                   int64_t groups)
    : channels_(channels), kernel_h_(kernel_h), kernel_w_(kernel_w), packed_([&] {
        const int64_t k = kernel_h * kernel_w * channels, bytes = w.is_half ? 2 : 4;
        std::vector<char> matrix(static_cast<size_t>(k * out_c * bytes + 1));  // zeros, never null
        const KernelShape shape{out_c, channels, kernel_h, kernel_w, groups, kernel_w * channels};
        for_each_weight(shape, w.strides, [&](int64_t at, int64_t in_matrix) {
          std::memcpy(matrix.data() + in_matrix * bytes,
                      static_cast<const char*>(w.data) + at * bytes, static_cast<size_t>(bytes));
        });
        return PackedFloats(table, FloatMatrix{matrix.data(), k, out_c, out_c, 1, w.is_half});
      }()) {}

void ConvFloatWeights::unpack(const KernelValues& w, int64_t groups) const {
  const int64_t bytes = w.is_half ? 2 : 4;
  std::vector<char> matrix(static_cast<size_t>(packed_.k * packed_.n * bytes + 1));
  packed_.unpack(matrix.data(), packed_.n, 1);
  const KernelShape shape{packed_.n, channels_, kernel_h_,
                          kernel_w_, groups,    kernel_w_ * channels_};
  auto* out = static_cast<char*>(const_cast<void*>(w.data));
  for_each_weight(shape, w.strides, [&](int64_t at, int64_t in_matrix) {
    std::memcpy(out + at * bytes, matrix.data() + in_matrix * bytes, static_cast<size_t>(bytes));
  });
}

void conv_f32(const ConvFloatWeights& w, const ConvGeometry& geometry, const ConvX& input,
              const ConvY& output, int threads) {
  ConvX x = input;
  ConvY y = output;
  ConvGeometry g = geometry;
  const int64_t pixels = g.batch * g.out_h * g.out_w;
  const PackedFloats& b = w.packed();
  if (pixels <= 0 || b.n <= 0) return;
  threads =
      threads_worth(*b.table, pixels * std::max<int64_t>(b.k, 1) * b.n * kMacsPerFloatMac, threads);
  if (b.k == 0) {  // nothing is read: no padding either
    g.kernel_h = 0;
    g.kernel_w = g.stride_w = g.dilation_w = 1;
    g.pad_left = 0;
    g.in_w = g.out_w;
  }
  turn(g, 1, x, y);
  if (is_product(g, x, y)) {
    const FloatGemm product = {reinterpret_cast<const float*>(x.data),
                               pixels,
                               x.pixel_stride / static_cast<int64_t>(sizeof(float)),
                               static_cast<float*>(y.c.data),
                               y.pixel_stride,
                               y.c.bias_f32,
                               y.c.activate,
                               y.c.lo,
                               y.c.hi};
    gemm_f32(product, b, threads);
    return;
  }
  share_out(Panels(w), g, x, y, nullptr, threads);
}

}  // namespace octavo
