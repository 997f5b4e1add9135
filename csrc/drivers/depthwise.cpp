#include "drivers/depthwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "drivers/sizes.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// What a tile of a window should take of L2.
constexpr int64_t kWindowBytes = 128 << 10;
// Rows of outputs of a tile: a block of weights stays in registers while they last, and what they
// read stays in L1.
constexpr int64_t kTileRows = 14;
// Columns below which a tile of a window is not cut in two.
constexpr int64_t kTileColumns = 8;
// Columns with taps outside the image that are computed one by one where the image lies.
constexpr int64_t kMaxEdges = 8;
// Blocks of a row from which the blocks that its ends take of their own cost less than a copy.
constexpr int64_t kFewBlocks = 32;
// Blocks of a row of output from which lanes that pixels would leave idle are worth a copy.
constexpr int64_t kLeastRun = 6;
// Groups of taps from which a kernel that reloads them gains from loads that cross no line.
constexpr int64_t kManyGroups = 8;
// Bytes of padding that stand for a row outside the image, or of a row that is copied lest more
// than the image is read.
constexpr int64_t kRowBytes = 32 << 10;
// What a row as one run may take in a window that cannot be cut further.
constexpr int64_t kMaxFlatBytes = 512 << 10;

// One call: how it is cut into tasks and tiles, and what a task does.
class Depthwise {
 public:
  Depthwise(const DepthwiseWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
            int threads)
      : w_(w), g_(g), x_(x), y_(y), kernels_(*w.table->depthwise) {
    flip_ = x.is_signed == w.table->info->a_signed ? 0 : 0x80;
    fill_ = static_cast<uint8_t>(x.zero_point);
    consecutive_ = g.dilation_h == 1 && g.stride_h <= g.kernel_h;
    const int64_t common = std::gcd(g.stride_h, g.dilation_h);
    twin_rows_ = g.dilation_h / common;
    twin_taps_ = g.stride_h / common;
    find_inside();
    choose_tiles();
    if (threads > 1) share_out(threads);
    lay_out();
  }

  int tasks() const { return static_cast<int>(g_.batch * slabs_ * chunks_ * shares_); }
  bool shares_columns() const { return shares_ > 1; }
  const char* why() const {
    return in_place_ ? (flat_ ? "in place, rows as runs of values" : "in place, pixel by pixel")
                     : (flat_ ? "padded copy, rows as runs of values" : "padded copy");
  }

  void run(int task) const {
    const int64_t share = task % shares_, chunk = task / shares_ % chunks_;
    const int64_t slab = task / shares_ / chunks_ % slabs_;
    Tile tile{};
    tile.image = task / shares_ / chunks_ / slabs_;
    tile.first = chunk * tile_rows_;
    tile.last = std::min(tile.first + tile_rows_, g_.out_h);
    tile.channel = slab * slab_channels_;
    tile.channels = std::min(slab_channels_, g_.out_c - tile.channel);
    lay_out(tile);

    const int64_t begin = share * share_columns_;
    const int64_t end = std::min(begin + share_columns_, g_.out_w);
    if (in_place_ && few_edges_) {
      run_in_place(tile, begin, end);
    } else if (in_place_) {
      const int64_t from = std::clamp(inside_first_, begin, end);
      const int64_t to = std::clamp(inside_last_, from, end);
      run_window(tile, begin, from);
      run_in_place(tile, from, to);
      run_window(tile, to, end);
    } else {
      run_window(tile, begin, end);
    }
    if (y_.finish && shares_ == 1)
      y_.finish->run(y_.finish->context, tile.image, tile.first, tile.last, tile.channel,
                     tile.channel + tile.channels);
  }

 private:
  // Output rows [first, last) and channels of an image, and the scratch of the task that makes
  // them.
  struct Tile {
    int64_t image, first, last, channel, channels;
    uint8_t* window;   // rows of the window, or copies of rows
    uint8_t* padding;  // a row of it
    int64_t padded;    // bytes of it that are filled
    const uint8_t** rows;
    const uint8_t** taps;  // [segment][row][kernel column]
    DepthwiseSegment* segments;
    void* local;
  };
  void lay_out(Tile& tile) const {
    const int64_t pointers = row_pointers(tile_rows_);
    const int64_t segments = edges_ <= kMaxEdges ? edges_ + 1 : 1;
    const int64_t window_bytes = slots(tile_rows_) * row_bytes_;
    const int64_t copied_bytes = copied_rows_ * (row_span_ + 2 * kernels_.block);
    const int64_t padding_bytes = std::max(in_place_ ? strip_bytes_ : 0, row_bytes_);
    const int64_t bytes = std::max(window_bytes, copied_bytes) + padding_bytes +
                          pointers * (1 + segments * g_.kernel_w) * 8 +
                          segments * int64_t{sizeof(DepthwiseSegment)} +
                          depthwise_local_bytes(kernels_, w_.groups) + 8 * 64;
    char* memory = static_cast<char*>(scratch(ScratchSlot::kWindow, static_cast<size_t>(bytes)));
    tile.window = carve<uint8_t>(memory, std::max(window_bytes, copied_bytes));
    tile.padding = carve<uint8_t>(memory, padding_bytes);
    tile.rows = carve<const uint8_t*>(memory, pointers);
    tile.taps = carve<const uint8_t*>(memory, segments * pointers * g_.kernel_w);
    tile.segments = carve<DepthwiseSegment>(memory, segments);
    tile.local = memory;
  }

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
  // rows[..] = row_of(input row), which is asked once for each.
  template <class RowOf>
  void point_at_rows(const Tile& tile, const RowOf& row_of) const {
    const int64_t top = tile.first * g_.stride_h - g_.pad_top, count = tile.last - tile.first;
    if (consecutive_) {
      for (int64_t r = 0; r < slots(count); ++r) tile.rows[r] = row_of(top + r);
      return;
    }
    for (int64_t o = 0; o < count; ++o) {
      for (int64_t i = 0; i < g_.kernel_h; ++i) {
        const uint8_t** row = tile.rows + o * g_.kernel_h + i;
        if (o >= twin_rows_ && i + twin_taps_ < g_.kernel_h)
          *row = *(row - twin_rows_ * g_.kernel_h + twin_taps_);
        else
          *row = row_of(top + o * g_.stride_h + i * g_.dilation_h);
      }
    }
  }

  void pad(Tile& tile, int64_t bytes) const {
    if (tile.padded < bytes) std::memset(tile.padding, fill_, static_cast<size_t>(bytes));
    tile.padded = std::max(tile.padded, bytes);
  }

  // Which columns have all taps inside the image, and whether the image can be read as it lies.
  void find_inside() {
    const int64_t pixel = x_.pixel_stride, reach = (g_.kernel_w - 1) * g_.dilation_w;
    inside_first_ = std::min(ceil_div(g_.pad_left, g_.stride_w), g_.out_w);
    const int64_t room = g_.in_w - 1 - reach + g_.pad_left;
    inside_last_ = std::clamp(room < 0 ? 0 : room / g_.stride_w + 1, inside_first_, g_.out_w);
    row_span_ = (g_.in_w - 1) * pixel + g_.in_c;
    in_place_ = w_.multiplier == 1 && pixel >= g_.in_c && x_.row_stride >= row_span_ &&
                (g_.batch == 1 || x_.image_stride >= (g_.in_h - 1) * x_.row_stride + row_span_) &&
                inside_last_ > inside_first_;
    const int64_t block = kernels_.block, c = g_.out_c, wasted = round_up(c, block) - c;
    const bool is_run = g_.stride_w == 1 && pixel == c;  // as the image lies
    const bool is_worth_a_copy = wasted > c && g_.out_w * c >= kLeastRun * block;
    flat_ = y_.pixel_stride == c && wasted * 8 > c && (!in_place_ || is_run || is_worth_a_copy);
    if (flat_ && (!is_run || g_.out_w * c < kFewBlocks * block)) in_place_ = false;
    pads_rows_ =
        g_.pad_top > 0 ||
        (g_.out_h - 1) * g_.stride_h - g_.pad_top + (g_.kernel_h - 1) * g_.dilation_h >= g_.in_h;
    if (pads_rows_ && reach * pixel > kMaxFlatBytes) in_place_ = false;
    // Many taps, each loaded anew for every output: worth aligning.
    const bool is_aligned = (reinterpret_cast<uintptr_t>(x_.data) | pixel) % 64 == 0;
    if (!w_.by_rows && w_.groups >= kManyGroups && g_.stride_w == 1 && !is_aligned)
      in_place_ = false;
    if (!in_place_) return;
    // What a block reads beyond a row must still be of the images: else the row is copied, or, if
    // it is long, its last columns are left to a window.
    const int64_t over = flat_ ? block : round_up(c, block) - c;
    safe_rows_end_ = x_.data + (g_.batch - 1) * x_.image_stride + (g_.in_h - 1) * x_.row_stride;
    if (over > 0 && row_span_ > kRowBytes) {
      const int64_t pixels = ceil_div(over, pixel);
      const int64_t safe = room - pixels;
      inside_last_ = std::clamp(safe < 0 ? 0 : safe / g_.stride_w + 1, inside_first_, inside_last_);
      in_place_ = inside_last_ > inside_first_;
      return;
    }
    safe_rows_end_ -= over;
    copied_rows_ = over == 0 ? 0 : std::min((over - 1) / x_.row_stride + 1, g_.in_h);
    edges_ = g_.out_w - (inside_last_ - inside_first_);
    few_edges_ = edges_ <= kMaxEdges;
  }

  void choose_tiles() {
    const int64_t block = kernels_.block, c = g_.out_c;
    unit_ = flat_ ? block / std::gcd(block, c) : 1;
    cut();
    if (flat_ && slots(tile_rows_) * row_bytes(tile_columns_) > kMaxFlatBytes) {
      flat_ = false;
      unit_ = 1;
      cut();
    }
    share_columns_ = g_.out_w;
    shares_ = 1;
    if (!in_place_) return;
    // Strips whose rows of padding are not too long.
    const int64_t pixel = x_.pixel_stride, reach = (g_.kernel_w - 1) * g_.dilation_w;
    strip_columns_ = g_.out_w;
    strip_bytes_ = pixel + 2 * block;
    if (!pads_rows_) return;
    strip_columns_ = std::max<int64_t>((kRowBytes / pixel - reach) / g_.stride_w, 1);
    if (strip_columns_ > unit_) strip_columns_ -= strip_columns_ % unit_;
    strip_columns_ = std::min(strip_columns_, g_.out_w);
    strip_bytes_ = ((strip_columns_ - 1) * g_.stride_w + reach + 1) * pixel + 2 * block;
  }

  // Tiles of rows, and tiles of columns of a window that fit.
  void cut() {
    const int64_t block = kernels_.block;
    slab_channels_ = flat_ || in_place_ ? g_.out_c : block;
    pitch_ = flat_ ? g_.out_c : round_up(slab_channels_, block);
    tile_rows_ = g_.out_h;
    tile_columns_ = g_.out_w;
    const auto fits = [&] { return slots(tile_rows_) * row_bytes(tile_columns_) <= kWindowBytes; };
    if (in_place_ || !fits()) tile_rows_ = ceil_div(g_.out_h, ceil_div(g_.out_h, kTileRows));
    if (in_place_ && few_edges_) return count_tiles();
    const int64_t least = std::max(kTileColumns, unit_);
    while (!fits()) {
      const int64_t half = round_up(ceil_div(tile_columns_, 2), unit_);
      if (half < tile_columns_ && half >= least)
        tile_columns_ = half;
      else if (tile_rows_ > 1)
        tile_rows_ = ceil_div(tile_rows_, 2);
      else if (in_place_ && !flat_ && slab_channels_ > block)
        set_slab_blocks(ceil_div(slab_channels_ / block, 2));
      else
        break;
    }
    if (!flat_ && !in_place_) {
      const int64_t bytes = slots(tile_rows_) * row_bytes(tile_columns_);
      set_slab_blocks(std::max<int64_t>(kWindowBytes / bytes, 1));
    }
    count_tiles();
  }
  void set_slab_blocks(int64_t blocks) {
    const int64_t all = ceil_div(g_.out_c, kernels_.block);
    slab_channels_ = ceil_div(all, ceil_div(all, blocks)) * kernels_.block;
    pitch_ = slab_channels_;
  }
  void count_tiles() {
    slabs_ = ceil_div(g_.out_c, slab_channels_);
    chunks_ = ceil_div(g_.out_h, tile_rows_);
  }

  // Smaller tiles, until each thread has two tasks or more.
  void share_out(int threads) {
    const auto enough = [&] { return g_.batch * slabs_ * chunks_ >= 2 * threads; };
    const int64_t block = kernels_.block;
    while (!enough() && !flat_ && slab_channels_ > block) {
      set_slab_blocks(ceil_div(ceil_div(slab_channels_, block), 2));
      count_tiles();
    }
    while (!enough() && tile_rows_ > 4) {
      tile_rows_ = ceil_div(tile_rows_, 2);
      count_tiles();
    }
    if (enough()) return;
    const int64_t wanted = ceil_div(2 * threads, g_.batch * slabs_ * chunks_);
    share_columns_ = round_up(ceil_div(g_.out_w, wanted), std::max(kTileColumns, unit_));
    shares_ = ceil_div(g_.out_w, share_columns_);
  }

  // The kernel's view of a tile, but for segments and y.
  DepthwiseArgs arguments(const Tile& tile) const {
    DepthwiseArgs a{};
    a.segments = tile.segments;
    a.segment_count = 1;
    a.out_rows = tile.last - tile.first;
    a.row_step = consecutive_ ? g_.stride_h : g_.kernel_h;
    a.flip = flip_;
    a.kernel_h = g_.kernel_h;
    a.kernel_w = g_.kernel_w;
    a.groups = w_.groups;
    a.by_rows = w_.by_rows;
    a.slots = slots_;
    a.weights = w_.weights.data();
    a.sums = w_.sums.data();
    a.channels = g_.out_c;
    a.first_channel = tile.channel;
    a.slab = flat_ ? 0 : tile.channels;
    a.x_zero_point = x_.zero_point + (flip_ == 0 ? 0 : x_.is_signed ? 128 : -128);
    a.out_step = y_.pixel_stride;
    a.out_row_step = y_.row_stride;
    a.local = tile.local;
    a.output = output_of(y_.c.type);
    a.y = static_cast<char*>(y_.c.data) +
          (tile.image * y_.image_stride + tile.first * y_.row_stride + tile.channel) *
              type_bytes(y_.c.type);
    a.bias_s32 = bias_s32_;
    a.multiplier = multiplier_;
    a.bias = bias_f32_;
    a.activate = y_.c.activate;
    a.lo = y_.c.lo;
    a.hi = y_.c.hi;
    a.zero_point = y_.c.zero_point;
    return a;
  }

  // --- in place: the kernel reads the image ------------------------------------------------------
  void run_in_place(Tile& tile, int64_t begin, int64_t end) const {
    DepthwiseArgs a = arguments(tile);
    const int64_t pixel = x_.pixel_stride, stride = g_.stride_w, kernel_w = g_.kernel_w;
    a.in_step = stride * pixel;
    const uint8_t* image = x_.data + tile.image * x_.image_stride + tile.channel;
    for (; begin < end; begin += strip_columns_) {
      const int64_t last = std::min(begin + strip_columns_, end);
      // Input columns that are read.
      const int64_t from = std::max<int64_t>(begin * stride - g_.pad_left, 0);
      const int64_t to =
          std::min((last - 1) * stride - g_.pad_left + (kernel_w - 1) * g_.dilation_w + 1, g_.in_w);
      pad(tile, std::min(pixel + 2 * kernels_.block, strip_bytes_));
      uint8_t* copy = tile.window;
      point_at_rows(tile, [&](int64_t y) -> const uint8_t* {
        if (y < 0 || y >= g_.in_h) {
          pad(tile, std::max<int64_t>(to - from, 0) * pixel + 2 * kernels_.block);
          return tile.padding - from * pixel;
        }
        const uint8_t* row = image + y * x_.row_stride;
        if (row - tile.channel <= safe_rows_end_) return row;
        std::memcpy(copy, row - tile.channel, static_cast<size_t>(row_span_));
        row = copy + tile.channel;
        copy += row_span_ + 2 * kernels_.block;
        return row;
      });
      const int64_t rows = row_pointers(a.out_rows);
      const uint8_t** taps = tile.taps;
      a.segment_count = 0;
      for (int64_t x = begin; x < last;) {
        const bool inside = x >= inside_first_ && x < inside_last_;
        const int64_t next = inside ? std::min(last, inside_last_) : x + 1;
        tile.segments[a.segment_count++] = {taps, next - x, x * y_.pixel_stride};
        for (int64_t j = 0; j < kernel_w; ++j) {
          const int64_t at = x * stride - g_.pad_left + j * g_.dilation_w;
          const bool exists = at >= 0 && at < g_.in_w;
          for (int64_t r = 0; r < rows; ++r)
            taps[r * kernel_w + j] = exists ? tile.rows[r] + at * pixel : tile.padding;
        }
        taps += rows * kernel_w;
        x = next;
      }
      kernels_.run(a);
    }
  }

  // --- window: what the kernel reads is copied first ---------------------------------------------
  // Calls plane(first, count, last) for each plane of a row: input columns first, first + stride,
  // ... that kernel columns up to `last` read. Columns between taps far apart are left out.
  template <class Plane>
  void each_plane(int64_t columns, const Plane& plane) const {
    const int64_t stride = g_.stride_w;
    for (int64_t j = 0; j < g_.kernel_w; ++j) {
      const int64_t at = j * g_.dilation_w;
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

  // Where taps lie in a row of the window.
  void lay_out() {
    const bool has_window = !in_place_ || !few_edges_;
    row_bytes_ = has_window ? row_bytes(tile_columns_) : 0;
    const int64_t kernel_w = g_.kernel_w;
    const auto slots = static_cast<int64_t>(w_.taps.size());
    // Arrays over channels, which must repeat where a block passes the last one.
    bias_s32_ = y_.c.bias_s32;
    multiplier_ = y_.c.multiplier;
    bias_f32_ = y_.c.bias_f32;
    const int64_t repeated = g_.out_c % kernels_.block ? g_.out_c + kernels_.block - 1 : 0;
    const int64_t bytes =
        kernel_w * int64_t{sizeof(Plane)} + (kernel_w + slots) * 8 + 3 * repeated * 4 + 6 * 64;
    char* memory = static_cast<char*>(scratch(ScratchSlot::kColumns, static_cast<size_t>(bytes)));
    const auto repeat = [&](auto*& values) {
      if (!values || repeated == 0) return;
      auto* copy = carve<std::decay_t<decltype(*values)>>(memory, repeated);
      std::copy(values, values + g_.out_c, copy);
      for (int64_t i = g_.out_c; i < repeated; ++i) copy[i] = copy[i - g_.out_c];
      values = copy;
    };
    repeat(bias_s32_);
    repeat(multiplier_);
    repeat(bias_f32_);
    planes_ = carve<Plane>(memory, kernel_w);
    offset_ = carve<int64_t>(memory, kernel_w);
    slots_ = carve<int64_t>(memory, slots);
    for (int64_t s = 0; s < slots; ++s)
      slots_[s] = std::max<int64_t>(w_.taps[static_cast<size_t>(s)], 0);
    if (!has_window) return;
    int64_t begin = 0;
    each_plane(tile_columns_, [&](int64_t first, int64_t count, int64_t last) {
      for (int64_t j = 0; j < kernel_w; ++j) {
        const int64_t at = j * g_.dilation_w - first;
        if (at >= 0 && j * g_.dilation_w <= last && at % g_.stride_w == 0)
          offset_[j] = begin + at / g_.stride_w * pitch_;
      }
      begin += plane_bytes(count);
      planes_[plane_count_++] = {first, count, plane_bytes(count)};
    });
  }

  void run_window(Tile& tile, int64_t begin, int64_t end) const {
    DepthwiseArgs a = arguments(tile);
    a.in_step = pitch_;
    for (; begin < end; begin += tile_columns_) {
      const int64_t columns = std::min(tile_columns_, end - begin);
      uint8_t* row = tile.window;
      point_at_rows(tile, [&](int64_t y) -> const uint8_t* {
        if (y < 0 || y >= g_.in_h) {
          pad(tile, row_bytes_);
          return tile.padding;
        }
        const uint8_t* filled = row;
        fill_row(x_.data + tile.image * x_.image_stride + y * x_.row_stride, tile, begin, columns,
                 row);
        row += row_bytes_;
        return filled;
      });
      for (int64_t r = 0; r < row_pointers(a.out_rows); ++r) {
        for (int64_t j = 0; j < g_.kernel_w; ++j)
          tile.taps[r * g_.kernel_w + j] = tile.rows[r] + offset_[j];
      }
      *tile.segments = {tile.taps, columns, begin * y_.pixel_stride};
      kernels_.run(a);
    }
  }

  void fill_row(const uint8_t* x, const Tile& tile, int64_t column, int64_t columns,
                uint8_t* row) const {
    const int64_t stride = g_.stride_w;
    for (int64_t p = 0; p < plane_count_; ++p) {
      const int64_t count = planes_[p].columns - (tile_columns_ - columns);
      const int64_t at = column * stride - g_.pad_left + planes_[p].first;
      const int64_t from = at >= 0 ? 0 : std::min(ceil_div(-at, stride), count);
      const int64_t inside = at >= g_.in_w ? 0 : (g_.in_w - 1 - at) / stride + 1;
      const int64_t to = std::clamp(inside, from, count);
      DepthwiseCopy copy{};
      copy.x = x + (at + from * stride) * x_.pixel_stride + tile.channel;
      copy.x_step = stride * x_.pixel_stride;
      copy.bytes = tile.channels;
      copy.count = to - from;
      copy.readable = row_span_ - (at + from * stride) * x_.pixel_stride - tile.channel;
      copy.out = row;
      copy.out_step = pitch_;
      copy.before = from * pitch_;
      copy.after = (count - to) * pitch_;
      copy.fill = fill_;
      if (w_.multiplier > 1) {
        repeat_channels(copy, tile.channel);
      } else {
        if (copy.x_step == tile.channels && pitch_ == tile.channels) {
          // One run; its out_step is where the bytes after it begin.
          copy.bytes *= copy.count;
          copy.out_step = copy.bytes;
          copy.count = copy.bytes > 0;
        }
        kernels_.copy(copy);
      }
      row += planes_[p].bytes;
    }
  }

  // As kernels_.copy, each channel as often as the multiplier says.
  void repeat_channels(const DepthwiseCopy& c, int64_t channel) const {
    const uint8_t* x = c.x - channel + channel / w_.multiplier;
    uint8_t* out = c.out;
    std::memset(out, c.fill, static_cast<size_t>(c.before));
    out += c.before;
    for (int64_t k = 0; k < c.count; ++k, x += c.x_step, out += c.out_step) {
      int64_t in = 0, repeat = channel % w_.multiplier;
      for (int64_t i = 0; i < c.bytes; ++i) {
        out[i] = x[in];
        if (++repeat == w_.multiplier) {
          repeat = 0;
          ++in;
        }
      }
    }
    std::memset(out, c.fill, static_cast<size_t>(c.after));
  }

  const DepthwiseWeights& w_;
  const ConvGeometry& g_;
  const ConvX& x_;
  const ConvY& y_;
  const DepthwiseKernels& kernels_;
  uint8_t flip_, fill_;
  bool consecutive_;
  // Kernel row i of an output row reads what row i + twin_taps_ of the one twin_rows_ before read.
  int64_t twin_rows_, twin_taps_;

  bool flat_, in_place_, few_edges_ = false;
  int64_t edges_ = 0;                       // columns with taps outside the image
  int64_t inside_first_, inside_last_;      // columns with all taps inside the image
  int64_t row_span_;                        // bytes of a row of the image
  bool pads_rows_;                          // some taps lie above or below the image
  const uint8_t* safe_rows_end_ = nullptr;  // rows that begin behind it are copied
  int64_t copied_rows_ = 0;
  int64_t strip_columns_ = 0, strip_bytes_ = 0;

  int64_t unit_;                   // columns after which blocks of a run begin at channel 0 again
  int64_t slab_channels_, pitch_;  // pitch_: of a pixel in the window
  int64_t tile_rows_, tile_columns_;
  int64_t slabs_, chunks_;
  int64_t shares_, share_columns_;  // columns are shared out too, if shares_ > 1

  struct Plane {
    int64_t first, columns, bytes;  // first: input column, counted from the tile's
  };
  Plane* planes_;
  int64_t plane_count_ = 0;
  int64_t row_bytes_;
  int64_t *offset_, *slots_;
  const int32_t* bias_s32_;
  const float *multiplier_, *bias_f32_;
};

}  // namespace

DepthwiseWeights::DepthwiseWeights(const KernelTable& kernel_table, const uint8_t* w, bool w_signed,
                                   int64_t channels, int64_t per_input, int64_t height,
                                   int64_t width, const int32_t* zero_points)
    : table(&kernel_table),
      is_signed(w_signed),
      out_c(channels),
      multiplier(per_input),
      kernel_h(height),
      kernel_w(width) {
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
          std::max<int64_t>(copies, v > 0 ? ceil_div(v, most) : ceil_div(-int64_t{v}, most + 1));
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
               int threads) {
  const int64_t outputs = g.batch * g.out_h * g.out_w * g.out_c;
  if (outputs <= 0) return;
  // Interleaving and epilogue take about as long as the products.
  const int64_t macs = 2 * outputs * static_cast<int64_t>(w.taps.size());
  threads = threads_worth(*w.table, macs, threads);
  const Depthwise call(w, g, x, y, threads);
  note_kernel(*w.table, "depthwise_u8s8", call.why(), g.batch * g.out_h * g.out_w, g.out_c,
              g.kernel_h * g.kernel_w, threads);
  parallel_for(call.tasks(), threads, [&](int task) { call.run(task); });
  if (y.finish && call.shares_columns()) {
    for (int64_t image = 0; image < g.batch; ++image)
      y.finish->run(y.finish->context, image, 0, g.out_h, 0, g.out_c);
  }
}

}  // namespace octavo
