#include "drivers/depthwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// What a tile of a window should take of L1 and L2.
constexpr int64_t kWindowBytes = 48 << 10;
// Rows of outputs that a tile should have: the rows above and below it are copied twice.
constexpr int64_t kTileRows = 14;
// Columns below which a tile is not cut in two.
constexpr int64_t kTileColumns = 16;
// What an output row as one run may take, in a window, where it cannot be cut further.
constexpr int64_t kMaxFlatBytes = 512 << 10;

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }
int64_t divide_up(int64_t x, int64_t by) { return (x + by - 1) / by; }

template <class T>
T* carve(char*& memory, int64_t count) {
  T* array = reinterpret_cast<T*>(memory);
  memory += round_up(count * int64_t{sizeof(T)}, 64);
  return array;
}

GemmOutput output_of(GemmC::Type type) {
  switch (type) {
    case GemmC::Type::kF32:
      return GemmOutput::kF32;
    case GemmC::Type::kU8:
      return GemmOutput::kU8;
    case GemmC::Type::kS8:
      return GemmOutput::kS8;
    default:
      return GemmOutput::kS32;
  }
}

// One call: how it is cut into tasks and tiles, and what a task does.
class Depthwise {
 public:
  Depthwise(const DepthwiseWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
            int threads)
      : w_(w), g_(g), x_(x), y_(y), kernels_(*w.table->depthwise) {
    const InfoKernels& info = *w.table->info;
    flip_ = x.is_signed == info.a_signed ? 0 : 0x80;
    zero_point_ = x.zero_point + (flip_ == 0 ? 0 : x.is_signed ? 128 : -128);
    consecutive_ = g.dilation_h == 1 && g.stride_h <= g.kernel_h;
    const int64_t common = std::gcd(g.stride_h, g.dilation_h);
    twin_rows_ = g.dilation_h / common;
    twin_taps_ = g.stride_h / common;
    choose_tiles();
    if (threads > 1) share_out(threads);
    lay_out();
  }

  int tasks() const {
    return static_cast<int>(g_.batch * slabs_ * chunks_ * (shares_columns_ ? strips_ : 1));
  }
  bool shares_columns() const { return shares_columns_; }
  bool flat() const { return flat_; }

  void run(int task) const {
    const int64_t strips = shares_columns_ ? strips_ : 1;
    const int64_t strip = task % strips, chunk = task / strips % chunks_;
    const int64_t slab = task / strips / chunks_ % slabs_, image = task / strips / chunks_ / slabs_;
    const int64_t first = chunk * tile_rows_, last = std::min(first + tile_rows_, g_.out_h);
    const int64_t channel = slab * slab_channels_;
    const int64_t channels = std::min(slab_channels_, g_.out_c - channel);

    char* memory = static_cast<char*>(scratch(
        ScratchSlot::kWindow, static_cast<size_t>((slots(tile_rows_) + 1) * row_bytes_ +
                                                  round_up(row_pointers(tile_rows_) * 8, 64) +
                                                  depthwise_local_bytes(kernels_, w_.groups))));
    uint8_t* window = carve<uint8_t>(memory, slots(tile_rows_) * row_bytes_);
    uint8_t* padding = carve<uint8_t>(memory, row_bytes_);
    const uint8_t** rows = carve<const uint8_t*>(memory, row_pointers(tile_rows_));
    const int64_t top = first * g_.stride_h - g_.pad_top;
    const int64_t reach = (last - first - 1) * g_.stride_h + (g_.kernel_h - 1) * g_.dilation_h;
    if (top < 0 || top + reach >= g_.in_h)
      std::memset(padding, zero_point_ & 0xff, static_cast<size_t>(row_bytes_));

    DepthwiseArgs a{};
    a.rows = rows;
    a.out_rows = last - first;
    a.row_step = consecutive_ ? g_.stride_h : g_.kernel_h;
    a.kernel_h = g_.kernel_h;
    a.groups = w_.groups;
    a.by_rows = w_.by_rows;
    a.slot_row = slot_row_;
    a.slot_offset = slot_offset_;
    a.weights = w_.weights.data();
    a.sums = w_.sums.data();
    a.channels = g_.out_c;
    a.first_channel = channel;
    a.x_zero_point = zero_point_;
    a.flat = flat_;
    a.in_step = pitch_;
    a.out_step = y_.pixel_stride;
    a.out_row_step = y_.row_stride;
    a.local = memory;
    a.output = output_of(y_.c.type);
    a.bias_s32 = y_.c.bias_s32;
    a.multiplier = y_.c.multiplier;
    a.bias = y_.c.bias_f32;
    a.activate = y_.c.activate;
    a.lo = y_.c.lo;
    a.hi = y_.c.hi;
    a.zero_point = y_.c.zero_point;
    const bool is_byte = a.output == GemmOutput::kU8 || a.output == GemmOutput::kS8;

    for (int64_t s = shares_columns_ ? strip : 0; s < (shares_columns_ ? strip + 1 : strips_);
         ++s) {
      const int64_t column = s * tile_columns_;
      const int64_t columns = std::min(tile_columns_, g_.out_w - column);
      fill_window(image, channel, channels, first, last, column, columns, window, padding, rows);
      a.runs = flat_ ? 1 : columns;
      a.run_length = flat_ ? columns * g_.out_c : channels;
      a.y = static_cast<char*>(y_.c.data) +
            (image * y_.image_stride + first * y_.row_stride + column * y_.pixel_stride + channel) *
                (is_byte ? 1 : 4);
      kernels_.run(a);
    }
    if (y_.finish && !shares_columns_)
      y_.finish->run(y_.finish->context, image, first, last, channel, channel + channels);
  }

 private:
  // Rows of a window for `rows` rows of outputs, and pointers to them: consecutive rows, or
  // kernel_h of each output row, of which some are the same row.
  int64_t slots(int64_t rows) const {
    if (consecutive_) return (rows - 1) * g_.stride_h + g_.kernel_h;
    const int64_t twins =
        std::max<int64_t>(0, rows - twin_rows_) * std::max<int64_t>(0, g_.kernel_h - twin_taps_);
    return rows * g_.kernel_h - twins;
  }
  int64_t row_pointers(int64_t rows) const {
    return consecutive_ ? slots(rows) : rows * g_.kernel_h;
  }

  // Calls plane(first, count, taps so far) for each plane of a row: input columns first, first +
  // stride, ... that one or several kernel columns read. Columns between taps far apart are left
  // out.
  template <class Plane>
  void each_plane(int64_t columns, const Plane& plane) const {
    const int64_t stride = g_.stride_w;
    for (int64_t j = 0; j < g_.kernel_w; ++j) {
      const int64_t at = j * g_.dilation_w;
      // The plane that kernel column j begins: unless an earlier one of its phase reaches it.
      if (joins(j, columns)) continue;
      int64_t end = at;
      for (int64_t k = j + 1; k < g_.kernel_w; ++k) {
        const int64_t next = k * g_.dilation_w;
        if ((next - at) % stride) continue;
        if ((next - end) / stride > columns) break;
        end = next;
      }
      plane(at, (end - at) / stride + columns, end);
    }
  }
  // Whether kernel column j continues the plane of an earlier one.
  bool joins(int64_t j, int64_t columns) const {
    for (int64_t k = j - 1; k >= 0; --k) {
      const int64_t gap = (j - k) * g_.dilation_w;
      if (gap % g_.stride_w == 0) return gap / g_.stride_w <= columns;
    }
    return false;
  }
  int64_t plane_bytes(int64_t count) const { return round_up(count * pitch_ + kernels_.block, 64); }
  int64_t row_bytes(int64_t columns) const {
    int64_t bytes = 0;
    each_plane(columns, [&](int64_t, int64_t count, int64_t) { bytes += plane_bytes(count); });
    return bytes;
  }
  int64_t window_bytes() const { return slots(tile_rows_) * row_bytes(tile_columns_); }

  void choose_tiles() {
    const int64_t block = kernels_.block, c = g_.out_c;
    // A run of a whole row wastes no lanes, but its loads are not aligned.
    flat_ = y_.pixel_stride == c && (round_up(c, block) - c) * 8 > c;
    cut(flat_ ? block / std::gcd(block, c) : 1);
    if (flat_ && window_bytes() > kMaxFlatBytes) {
      flat_ = false;
      cut(1);
    }
  }

  // Tiles that fit, a multiple of `unit` columns wide.
  void cut(int64_t unit) {
    const int64_t block = kernels_.block;
    const int64_t blocks = divide_up(g_.out_c, block);
    slab_channels_ = flat_ ? g_.out_c : block;
    pitch_ = slab_channels_;
    tile_rows_ = g_.out_h;
    tile_columns_ = g_.out_w;
    if (window_bytes() > kWindowBytes) {
      tile_rows_ = divide_up(g_.out_h, divide_up(g_.out_h, kTileRows));
      for (int64_t strips = 2; window_bytes() > kWindowBytes; ++strips) {
        const int64_t columns = round_up(divide_up(g_.out_w, strips), unit);
        if (columns >= std::max(kTileColumns, unit) && columns < tile_columns_) {
          tile_columns_ = columns;
        } else if (columns >= tile_columns_ && tile_columns_ > std::max(kTileColumns, unit)) {
          continue;
        } else if (tile_rows_ > 1) {
          tile_rows_ = divide_up(tile_rows_, 2);
        } else {
          break;
        }
      }
    } else if (!flat_) {
      const int64_t fit = std::clamp<int64_t>(kWindowBytes / window_bytes(), 1, blocks);
      set_slab_blocks(fit);
    }
    count_tiles();
  }
  void set_slab_blocks(int64_t blocks) {
    const int64_t all = divide_up(g_.out_c, kernels_.block);
    slab_channels_ = divide_up(all, divide_up(all, blocks)) * kernels_.block;
    pitch_ = slab_channels_;
  }
  void count_tiles() {
    slabs_ = divide_up(g_.out_c, slab_channels_);
    chunks_ = divide_up(g_.out_h, tile_rows_);
    strips_ = divide_up(g_.out_w, tile_columns_);
  }

  // Smaller tiles, until each thread has two tasks or more.
  void share_out(int threads) {
    const auto enough = [&] { return g_.batch * slabs_ * chunks_ >= 2 * threads; };
    while (!enough() && !flat_ && slab_channels_ > kernels_.block) {
      set_slab_blocks(divide_up(slab_channels_ / kernels_.block, 2));
      count_tiles();
    }
    while (!enough() && tile_rows_ > 4) {
      tile_rows_ = divide_up(tile_rows_, 2);
      count_tiles();
    }
    if (!enough() && strips_ > 1) shares_columns_ = true;
  }

  // Where taps lie in a row of the window.
  void lay_out() {
    row_bytes_ = row_bytes(tile_columns_);
    const int64_t kernel_w = g_.kernel_w;
    const auto slots = static_cast<int64_t>(w_.taps.size());
    char* memory = static_cast<char*>(scratch(
        ScratchSlot::kColumns,
        static_cast<size_t>((4 * kernel_w + 2 * slots) * int64_t{sizeof(int64_t)} + 4 * 64)));
    planes_ = carve<Plane>(memory, kernel_w);
    int64_t* offset = carve<int64_t>(memory, kernel_w);
    slot_row_ = carve<int64_t>(memory, slots);
    slot_offset_ = carve<int64_t>(memory, slots);
    int64_t begin = 0;
    each_plane(tile_columns_, [&](int64_t first, int64_t count, int64_t last) {
      for (int64_t j = 0; j < kernel_w; ++j) {
        const int64_t at = j * g_.dilation_w - first;
        if (at >= 0 && j * g_.dilation_w <= last && at % g_.stride_w == 0)
          offset[j] = begin + at / g_.stride_w * pitch_;
      }
      begin += plane_bytes(count);
      planes_[plane_count_++] = {first, count, plane_bytes(count)};
    });
    for (int64_t s = 0; s < slots; ++s) {
      const int64_t tap = w_.taps[static_cast<size_t>(s)];
      slot_row_[s] = tap < 0 ? 0 : tap / kernel_w;
      slot_offset_[s] = tap < 0 ? 0 : offset[tap % kernel_w];
    }
  }

  void fill_window(int64_t image, int64_t channel, int64_t channels, int64_t first, int64_t last,
                   int64_t column, int64_t columns, uint8_t* window, const uint8_t* padding,
                   const uint8_t** rows) const {
    const auto row_of = [&](int64_t y) {
      if (y < 0 || y >= g_.in_h) return padding;
      uint8_t* row = window;
      window += row_bytes_;
      fill_row(x_.data + image * x_.image_stride + y * x_.row_stride, channel, channels, column,
               columns, row);
      return static_cast<const uint8_t*>(row);
    };
    const int64_t top = first * g_.stride_h - g_.pad_top;
    if (consecutive_) {
      const int64_t count = slots(last - first);
      for (int64_t r = 0; r < count; ++r) rows[r] = row_of(top + r);
      return;
    }
    for (int64_t o = 0; o < last - first; ++o) {
      for (int64_t i = 0; i < g_.kernel_h; ++i) {
        const uint8_t** row = rows + o * g_.kernel_h + i;
        if (o >= twin_rows_ && i + twin_taps_ < g_.kernel_h)
          *row = *(row - twin_rows_ * g_.kernel_h + twin_taps_);
        else
          *row = row_of(top + o * g_.stride_h + i * g_.dilation_h);
      }
    }
  }

  void fill_row(const uint8_t* x, int64_t channel, int64_t channels, int64_t column,
                int64_t columns, uint8_t* row) const {
    const int64_t stride = g_.stride_w;
    for (int64_t p = 0; p < plane_count_; ++p) {
      const int64_t count = planes_[p].columns - (tile_columns_ - columns);
      const int64_t at = column * stride - g_.pad_left + planes_[p].first;
      const int64_t from = at >= 0 ? 0 : std::min(divide_up(-at, stride), count);
      const int64_t inside = at >= g_.in_w ? 0 : (g_.in_w - 1 - at) / stride + 1;
      const int64_t to = std::clamp(inside, from, count);
      if (from > 0) std::memset(row, zero_point_ & 0xff, static_cast<size_t>(from * pitch_));
      if (to > from)
        copy_pixels(x, at + from * stride, channel, channels, to - from, row + from * pitch_);
      if (count > to)
        std::memset(row + to * pitch_, zero_point_ & 0xff,
                    static_cast<size_t>((count - to) * pitch_));
      row += planes_[p].bytes;
    }
  }

  void copy_pixels(const uint8_t* x, int64_t column, int64_t channel, int64_t channels,
                   int64_t count, uint8_t* out) const {
    const int64_t step = g_.stride_w * x_.pixel_stride;
    const uint8_t* from = x + column * x_.pixel_stride;
    if (w_.multiplier > 1) {
      for (int64_t k = 0; k < count; ++k, from += step, out += pitch_) {
        int64_t in = channel / w_.multiplier, repeat = channel % w_.multiplier;
        for (int64_t c = 0; c < channels; ++c) {
          out[c] = from[in] ^ flip_;
          if (++repeat == w_.multiplier) {
            repeat = 0;
            ++in;
          }
        }
      }
      return;
    }
    DepthwiseCopy copy{};
    copy.x = from + channel;
    copy.x_step = step;
    copy.bytes = channels;
    copy.count = count;
    copy.readable = (g_.in_w - 1 - column) * x_.pixel_stride + g_.in_c - channel;
    copy.out = out;
    copy.out_step = pitch_;
    copy.flip = flip_;
    if (step == channels && pitch_ == channels) {
      copy.bytes *= count;
      copy.count = 1;
    }
    kernels_.copy(copy);
  }

  const DepthwiseWeights& w_;
  const ConvGeometry& g_;
  const ConvX& x_;
  const ConvY& y_;
  const DepthwiseKernels& kernels_;
  uint8_t flip_;
  int32_t zero_point_;  // as the window holds it
  bool consecutive_;
  // Kernel row i of an output row reads what row i + twin_taps_ of the one twin_rows_ before read.
  int64_t twin_rows_, twin_taps_;
  bool flat_;
  int64_t slab_channels_, pitch_;  // of a pixel in the window
  int64_t tile_rows_, tile_columns_;
  int64_t slabs_, chunks_, strips_;
  bool shares_columns_ = false;
  int64_t row_bytes_;
  struct Plane {
    int64_t first, columns, bytes;  // first: input column, counted from the tile's
  };
  Plane* planes_;
  int64_t plane_count_ = 0;
  int64_t *slot_row_, *slot_offset_;
};

}  // namespace

DepthwiseWeights::DepthwiseWeights(const KernelTable& table_, const uint8_t* w, bool is_signed_,
                                   int64_t out_c_, int64_t multiplier_, int64_t kernel_h_,
                                   int64_t kernel_w_, const int32_t* zero_points)
    : table(&table_),
      is_signed(is_signed_),
      out_c(out_c_),
      multiplier(multiplier_),
      kernel_h(kernel_h_),
      kernel_w(kernel_w_) {
  const DepthwiseKernels& kernels = *table->depthwise;
  const int64_t positions = kernel_h * kernel_w;
  if (zero_points) zero_point.assign(zero_points, zero_points + out_c);
  const auto value = [&](int64_t c, int64_t tap) -> int32_t {
    const auto stored = static_cast<int8_t>(w[c * positions + tap] ^ (is_signed ? 0 : 0x80));
    return stored - (zero_points ? zero_points[c] : 0);
  };
  // A difference that its type does not hold is the sum of several weights of the same tap.
  const int32_t most = kernels.weight_bytes == 1 ? 127 : 32767;
  int64_t copies = 1;
  for (int64_t c = 0; c < out_c && zero_points; ++c) {
    for (int64_t tap = 0; tap < positions; ++tap) {
      const int32_t v = value(c, tap);
      copies =
          std::max<int64_t>(copies, v > 0 ? divide_up(v, most) : divide_up(-int64_t{v}, most + 1));
    }
  }
  by_rows = copies == 1 && depthwise_by_rows(kernel_h, kernel_w);
  if (by_rows) {
    for (int64_t i = 0; i < kernel_h; ++i) {
      for (int64_t j = 0; j < round_up(kernel_w, kernels.taps); ++j)
        taps.push_back(j < kernel_w ? i * kernel_w + j : -1);
    }
  } else {
    for (int64_t s = 0; s < round_up(copies * positions, kernels.taps); ++s)
      taps.push_back(s < copies * positions ? s % positions : -1);
  }
  groups = static_cast<int64_t>(taps.size()) / kernels.taps;

  const int64_t padded = out_c + kernels.block - 1;
  weights =
      AlignedBuffer(static_cast<size_t>(groups * padded * kernels.taps * kernels.weight_bytes));
  sums.assign(static_cast<size_t>(padded), 0);
  for (int64_t p = 0; p < padded; ++p) {
    const int64_t c = p % out_c;
    for (size_t s = 0; s < taps.size(); ++s) {
      int64_t part = 0;
      if (taps[s] >= 0) {
        // The s / positions-th of the weights that sum up to it.
        int64_t rest = value(c, taps[s]);
        const int64_t earlier = by_rows ? 0 : static_cast<int64_t>(s) / positions;
        for (int64_t k = 0; k <= earlier; ++k) {
          rest -= part;
          part = std::clamp<int64_t>(rest, -most - 1, most);
        }
      }
      sums[static_cast<size_t>(p)] += static_cast<int32_t>(part);
      const int64_t at = (static_cast<int64_t>(s) / kernels.taps * padded + p) * kernels.taps +
                         static_cast<int64_t>(s) % kernels.taps;
      if (kernels.weight_bytes == 1)
        static_cast<int8_t*>(weights.data())[at] = static_cast<int8_t>(part);
      else
        static_cast<int16_t*>(weights.data())[at] = static_cast<int16_t>(part);
    }
  }
}

void DepthwiseWeights::unpack(uint8_t* w) const {
  const DepthwiseKernels& kernels = *table->depthwise;
  const int64_t positions = kernel_h * kernel_w, padded = out_c + kernels.block - 1;
  const uint8_t flip = is_signed ? 0 : 0x80;
  for (int64_t c = 0; c < out_c; ++c) {
    for (int64_t tap = 0; tap < positions; ++tap) {
      int32_t value = zero_point.empty() ? 0 : zero_point[static_cast<size_t>(c)];
      for (size_t s = 0; s < taps.size(); ++s) {
        if (taps[s] != tap) continue;
        const int64_t at = (static_cast<int64_t>(s) / kernels.taps * padded + c) * kernels.taps +
                           static_cast<int64_t>(s) % kernels.taps;
        value += kernels.weight_bytes == 1 ? static_cast<const int8_t*>(weights.data())[at]
                                           : static_cast<const int16_t*>(weights.data())[at];
      }
      w[c * positions + tap] = static_cast<uint8_t>(static_cast<uint8_t>(value) ^ flip);
    }
  }
}

size_t DepthwiseWeights::nbytes() const {
  return weights.size() + (sums.size() + zero_point.size()) * sizeof(int32_t) +
         taps.size() * sizeof(int64_t);
}

void depthwise(const DepthwiseWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
               int threads) noexcept {
  const int64_t outputs = g.batch * g.out_h * g.out_w * g.out_c;
  if (outputs <= 0) return;
  // Interleaving and epilogue take about as long as the products.
  const int64_t macs = 2 * outputs * static_cast<int64_t>(w.taps.size());
  threads = threads_worth(*w.table, macs, threads);
  const Depthwise call(w, g, x, y, threads);
  note_kernel(*w.table, "depthwise_u8s8",
              call.flat() ? "a row is one run of values" : "slabs of channels",
              g.batch * g.out_h * g.out_w, g.out_c, g.kernel_h * g.kernel_w, threads);
  parallel_for(call.tasks(), threads, [&](int task) { call.run(task); });
  if (y.finish && call.shares_columns()) {
    for (int64_t image = 0; image < g.batch; ++image)
      y.finish->run(y.finish->context, image, 0, g.out_h, 0, g.out_c);
  }
}

}  // namespace octavo
