// One convolution as a list of numbers, its operands made from a seed, and the runs that each of
// its drivers must pass: any number of threads, a batch in one call or two, outputs said to be done
// exactly once. What it must give is reference/conv.h's sums of the plain operands; input and
// output lie between pages that may not be touched, with gaps between pixels, rows and images.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "check.h"
#include "drivers/conv_geometry.h"
#include "gemm_case.h"
#include "guard_page.h"
#include "reference/conv.h"

namespace octavo {

// h w: of the image; n: output channels; kh .. dw: kernel, stride, dilation; top left: padding, cut
// off where negative; oh ow: of the result
// clang-format off: it never settles on these
#define OCTAVO_GEOMETRY_FIELDS(F) \
  F(batch) F(h) F(w) F(c) F(n) F(groups) F(kh) F(kw) F(sh) F(sw) F(dh) F(dw) F(top) F(left) \
  F(oh) F(ow)
// gap: values in the gaps; gaps: bits 0 1 2 between pixels, rows, images of x, 3 4 5 of y
// finish: the driver tells what is done; sides: bit 0 of x, bit 1 of y, bit 2 of weights
#define OCTAVO_MEMORY_FIELDS(F) F(gap) F(gaps) F(finish) F(sides) F(seed)
// zp_w: 0 none (as with dense groups), 1 of each channel, 2 the ends of the range; bias: 0 none,
// 1 usual, 2 near the ends of int32; output, clip, values as in gemm_case.h; start: where accumulators start is given
// w_order: 0 channel, row, column, 1 rows and columns backwards, 2 row, column, channel
#define OCTAVO_CONV_FIELDS(F) \
  OCTAVO_GEOMETRY_FIELDS(F) F(x_signed) F(w_signed) F(zp_w) F(output) F(bias) F(clip) F(values) \
  F(start) F(w_order) OCTAVO_MEMORY_FIELDS(F)
// clang-format on
OCTAVO_CASE(ConvCase, "conv", OCTAVO_CONV_FIELDS)

constexpr int kConvThreads[] = {1, 2, 3, 8};

inline int64_t conv_reach(int64_t kernel, int64_t dilation) { return (kernel - 1) * dilation + 1; }

template <class Case>
ConvGeometry geometry_of(const Case& c) {
  return {c.batch, c.h,  c.w,  c.c,   c.oh,   c.ow, c.n, c.kh,
          c.kw,    c.sh, c.sw, c.top, c.left, c.dh, c.dw};
}

template <class Case>
ReferenceConv reference_of(const Case& c) {
  ReferenceConv conv;
  conv.batch = c.batch;
  conv.in_h = c.h;
  conv.in_w = c.w;
  conv.in_c = c.c;
  conv.out_h = c.oh;
  conv.out_w = c.ow;
  conv.out_c = c.n;
  conv.kernel_h = c.kh;
  conv.kernel_w = c.kw;
  conv.stride_h = c.sh;
  conv.stride_w = c.sw;
  conv.pad_top = c.top;
  conv.pad_left = c.left;
  conv.dilation_h = c.dh;
  conv.dilation_w = c.dw;
  conv.groups = c.groups;
  return conv;
}

// Where the pixels of images lie, in values.
struct PixelLayout {
  int64_t pixel, row, image, extent;
};

inline PixelLayout pixel_layout(int64_t batch, int64_t h, int64_t w, int64_t c, int64_t gap,
                                int64_t gaps) {
  PixelLayout l{};
  l.pixel = c + (gaps & 1 ? gap : 0);
  l.row = w * l.pixel + (gaps & 2 ? gap : 0);
  l.image = h * l.row + (gaps & 4 ? gap : 0);
  const bool empty = batch == 0 || h == 0 || w == 0 || c == 0;
  l.extent = empty ? 0 : (batch - 1) * l.image + (h - 1) * l.row + (w - 1) * l.pixel + c;
  return l;
}

// How often a driver said that an output is written.
class Finished {
 public:
  void reset(const ConvGeometry& g) {
    rows_ = g.out_h;
    channels_ = g.out_c;
    count_ = static_cast<size_t>(g.batch * rows_ * channels_);
    times_.reset(new std::atomic<int>[count_]);
    for (size_t i = 0; i < count_; ++i) times_[i] = 0;
  }
  bool once() const {
    return std::all_of(times_.get(), times_.get() + count_,
                       [](const std::atomic<int>& times) { return times == 1; });
  }
  static void run(const void* context, int64_t image, int64_t first_row, int64_t last_row,
                  int64_t first_channel, int64_t last_channel) {
    const auto* self = static_cast<const Finished*>(context);
    for (int64_t row = first_row; row < last_row; ++row) {
      for (int64_t c = first_channel; c < last_channel; ++c)
        ++self->times_[static_cast<size_t>((image * self->rows_ + row) * self->channels_ + c)];
    }
  }

 private:
  int64_t rows_ = 0, channels_ = 0;
  size_t count_ = 0;
  std::unique_ptr<std::atomic<int>[]> times_;
};

// False where two results of `size` bytes a value differ; two NaN do not.
inline bool same_values(const uint8_t* got, const uint8_t* expected, size_t bytes, bool is_float) {
  if (std::memcmp(got, expected, bytes) == 0) return true;
  for (size_t at = 0; is_float && at < bytes; at += sizeof(float)) {
    float x, y;
    std::memcpy(&x, got + at, sizeof x);
    std::memcpy(&y, expected + at, sizeof y);
    if (std::memcmp(&x, &y, sizeof x) != 0 && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return is_float;
}

// Runs a driver in every way and compares y with `expected`, gaps included (bytes kGap there).
// `driver(g, x, y, threads)` is false where a result does not fit; `fits` says if it must be true.
class ConvRuns {
 public:
  static constexpr uint8_t kGap = 0x5a;

  template <class Case, class Driver>
  void check(const Case& c, const ConvX& x, ConvY y, const std::vector<uint8_t>& expected,
             bool fits, const Driver& driver) {
    const ConvGeometry g = geometry_of(c);
    const bool is_float = y.c.type == GemmC::Type::kF32;
    const int64_t value_bytes = is_float || y.c.type == GemmC::Type::kS32 ? 4 : 1;
    // One call, by any number of threads; two calls for the images before and after `cut`.
    const auto passes = [&](int64_t cut, int threads) {
      const auto where = [&](const char* what) {
        fail("%s: %d threads, %lld images first", what, threads, static_cast<long long>(cut));
        return false;
      };
      uint8_t* out = memory_.place(expected.size(), c.sides & 2 ? Side::kBegin : Side::kEnd);
      std::memset(out, kGap, expected.size());
      bool said = true;
      for (const bool behind : {false, true}) {
        ConvGeometry part = g;
        part.batch = behind ? g.batch - cut : cut;
        if (part.batch == 0) continue;
        Finished finished;
        finished.reset(part);
        const ConvFinish finish = {Finished::run, &finished};
        ConvX part_x = x;
        ConvY part_y = y;
        if (behind) part_x.data += cut * x.image_stride;
        part_y.c.data = out + (behind ? cut * y.image_stride * value_bytes : 0);
        part_y.finish = c.finish ? &finish : nullptr;
        said &= driver(part, part_x, part_y, threads);
        if (c.finish && !finished.once()) return where("an output was not finished once");
      }
      if (!memory_.intact()) return where("written beside y");
      if (said != fits) return where(fits ? "every result fits" : "overflow went unnoticed");
      if (!fits || same_values(out, expected.data(), expected.size(), is_float)) return true;
      const auto at = std::mismatch(expected.begin(), expected.end(), out).first - expected.begin();
      std::fprintf(stderr, "  byte %td of %zu is %d, must be %d\n", at, expected.size(), out[at],
                   expected[static_cast<size_t>(at)]);
      return where("wrong value");
    };
    for (const int threads : kConvThreads) {
      if (!passes(g.batch, threads)) return;
    }
    if (g.batch > 1) passes(1 + c.seed % (g.batch - 1), 2);
  }

 private:
  GuardedBuffer memory_;
};

// Operands of 8-bit convolutions, plain, and what must come of them.
class ConvProblem {
 public:
  std::vector<uint8_t> x, w;  // x as it lies in memory; w: [n][c / groups][kh][kw]
  int32_t za = 0;
  std::vector<int32_t> zb;      // of each output channel, as codes
  std::vector<int32_t> stored;  // of the int8 values that uint8 weights are stored as
  std::vector<int32_t> bias_s32;
  std::vector<float> bias_f32, multiplier;
  ReferenceEpilogue epilogue;
  PixelLayout x_layout{}, y_layout{};
  bool fits = true;  // int32 holds every sum
  std::vector<uint8_t> expected;

  explicit ConvProblem(const ConvCase& c) : ConvProblem(c, [](std::vector<uint8_t>&) {}) {}

  // change(x), then change(w): before what must come of them is known.
  template <class Change>
  ConvProblem(const ConvCase& c, const Change& change) {
    Random random(static_cast<uint64_t>(c.seed));
    const bool x_signed = c.x_signed != 0, w_signed = c.w_signed != 0;
    const bool is_float = static_cast<GemmOutput>(c.output) == GemmOutput::kF32;
    x_layout = pixel_layout(c.batch, c.h, c.w, c.c, c.gap, c.gaps);
    y_layout = pixel_layout(c.batch, c.oh, c.ow, c.n, c.gap, c.gaps >> 3);
    const int64_t depth = c.c / c.groups * c.kh * c.kw;
    x.resize(static_cast<size_t>(x_layout.extent));
    w.resize(static_cast<size_t>(c.n * depth));
    fill_operand(x, x_signed, c.values, true, random);
    fill_operand(w, w_signed, c.values, false, random);
    change(x);
    change(w);
    // Beside extreme operands, zero points that make the largest differences.
    const auto code = [&](bool is_signed, bool ends) {
      const int64_t any = random.between(0, 255), end = random.chance(2) ? 0 : 255;
      return static_cast<int32_t>((ends ? end : any) - (is_signed ? 128 : 0));
    };
    za = code(x_signed, c.values != 0);
    const double spread = sum_spread(depth, x_signed, za, w_signed, w_signed ? 0 : 128);
    for (int64_t i = 0; i < c.n; ++i) {
      // Without zero points of its own a code of uint8 still counts from 128.
      zb.push_back(c.zp_w ? code(w_signed, c.zp_w == 2) : w_signed ? 0 : 128);
      stored.push_back(zb.back() - (w_signed ? 0 : 128));
      const auto far = static_cast<int32_t>(random.below(1000));
      bias_s32.push_back(c.bias < 2         ? static_cast<int32_t>(random.between(-20000, 20000))
                         : random.chance(2) ? INT32_MAX - far
                                            : INT32_MIN + far);
      bias_f32.push_back(random.chance(4) ? -0.0f : static_cast<float>(random.unit() * 20 - 10));
      multiplier.push_back(random.chance(9) ? 1e9f
                                            : static_cast<float>((is_float ? 10 : 60) / spread *
                                                                 std::exp2(4 * random.unit() - 2)));
    }

    ReferenceEpilogue& e = epilogue;
    e.output = static_cast<GemmOutput>(c.output);
    if (is_float) {
      e.activate = c.clip != 0;
      e.lo = c.clip == 1 ? 0.0f : -2.5f;
      e.hi = c.clip == 1 ? std::numeric_limits<float>::infinity() : 3.0f;
    } else {
      const bool y_signed = e.output == GemmOutput::kS8;
      e.zero_point = code(y_signed, random.chance(4));
      const int64_t least = (y_signed ? -128 : 0) - e.zero_point;
      const int64_t lo = c.clip ? random.between(least, least + 255) : least;
      e.lo = static_cast<float>(lo);
      e.hi = static_cast<float>(c.clip ? random.between(lo, least + 255) : least + 255);
    }

    ReferenceConv conv = reference_of(c);
    conv.x = x.data();
    conv.x_image_stride = x_layout.image;
    conv.x_row_stride = x_layout.row;
    conv.x_pixel_stride = x_layout.pixel;
    conv.x_signed = x_signed;
    conv.x_zero_point = &za;
    conv.w = w.data();
    conv.w_signed = w_signed;
    conv.w_zero_point = zb.data();
    conv.w_zero_point_step = 1;
    conv.bias = c.bias && !is_float ? bias_s32.data() : nullptr;
    std::vector<int64_t> sums(static_cast<size_t>(c.batch * c.oh * c.ow * c.n));
    reference_conv_sums(conv, sums.data());
    fits = e.output != GemmOutput::kS32 ||
           std::all_of(sums.begin(), sums.end(), [](int64_t sum) { return sum == wrap(sum); });
    const float one = 1.0f;
    e.multiplier = multiplier.data();
    e.row_scale = &one;
    e.bias = c.bias && is_float ? bias_f32.data() : nullptr;
    const size_t value_bytes = output_size(c.output);
    expected.assign(static_cast<size_t>(y_layout.extent) * value_bytes, ConvRuns::kGap);
    for (int64_t row = 0; row < c.batch * c.oh; ++row) {
      const int64_t at = row / c.oh * y_layout.image + row % c.oh * y_layout.row;
      reference_epilogue(e, sums.data() + row * c.ow * c.n, c.ow, c.n,
                         expected.data() + static_cast<size_t>(at) * value_bytes, y_layout.pixel);
    }
    e.row_scale = nullptr;
  }

  // Of the codes, those that no clamp made.
  int64_t inner(const ConvCase& c) const {
    if (output_size(c.output) != 1) return 0;
    return std::count_if(expected.begin(), expected.end(), [&](uint8_t code) {
      const auto is_signed = epilogue.output == GemmOutput::kS8;
      const auto value = static_cast<float>(code_value(code, is_signed) - epilogue.zero_point);
      return value > epilogue.lo && value < epilogue.hi;
    });
  }
};

// Runs a driver of 8-bit convolutions on a problem.
class ConvTest {
 public:
  int64_t codes = 0, inner = 0, overflows = 0;

  // Weights are packed to `padded` columns. The operands of `p` are copied to guarded memory.
  template <class Driver>
  void check(const ConvCase& c, const ConvProblem& p, int64_t padded, const Driver& driver) {
    ConvX x{};
    x.data = x_memory_.copy(p.x.data(), p.x.size(), c.sides & 1 ? Side::kBegin : Side::kEnd);
    x.image_stride = p.x_layout.image;
    x.row_stride = p.x_layout.row;
    x.pixel_stride = p.x_layout.pixel;
    x.is_signed = c.x_signed != 0;
    x.zero_point = p.za;

    ConvY y{};
    const ReferenceEpilogue& e = p.epilogue;
    y.c.type = e.output == GemmOutput::kS32  ? GemmC::Type::kS32
               : e.output == GemmOutput::kU8 ? GemmC::Type::kU8
               : e.output == GemmOutput::kS8 ? GemmC::Type::kS8
                                             : GemmC::Type::kF32;
    if (c.bias && y.c.type != GemmC::Type::kF32) {
      y.c.bias_s32 = copy_columns(bias_memory_, p.bias_s32, padded);
      for (const int32_t value : p.bias_s32)
        y.c.max_abs_bias = std::max(y.c.max_abs_bias, std::abs(int64_t{value}));
    }
    const bool zeros =
        std::all_of(p.stored.begin(), p.stored.end(), [](int32_t zero) { return zero == 0; });
    if (!zeros) y.c.b_zero_point = copy_columns(zero_memory_, p.stored, padded);
    if (y.c.type != GemmC::Type::kS32)
      y.c.multiplier = copy_columns(multiplier_memory_, p.multiplier, padded);
    if (e.bias) y.c.bias_f32 = copy_columns(float_memory_, p.bias_f32, padded);
    y.c.activate = e.activate;
    y.c.lo = e.lo;
    y.c.hi = e.hi;
    y.c.zero_point = e.zero_point;
    y.image_stride = p.y_layout.image;
    y.row_stride = p.y_layout.row;
    y.pixel_stride = p.y_layout.pixel;
    runs_.check(c, x, y, p.expected, p.fits, driver);
    OCTAVO_CHECK(x_memory_.intact(), "written beside x");
    overflows += !p.fits;
    if (output_size(c.output) != 1 || c.values != 0 || c.clip != 0) return;
    codes += c.batch * c.oh * c.ow * c.n;
    inner += p.inner(c);
  }

 private:
  GuardedBuffer x_memory_, bias_memory_, zero_memory_, multiplier_memory_, float_memory_;
  ConvRuns runs_;

  template <class T>
  static const T* copy_columns(GuardedBuffer& memory, std::vector<T> values, int64_t padded) {
    values.resize(static_cast<size_t>(padded), T{77});
    return memory.copy(values.data(), values.size(), Side::kEnd);
  }
};

// ---- geometries

template <class Case>
void set_plain_geometry(Case& c, int64_t h, int64_t w, int64_t channels, int64_t n, int64_t kernel,
                        int64_t stride) {
  c.batch = c.groups = c.dh = c.dw = 1;
  c.h = h;
  c.w = w;
  c.c = channels;
  c.n = n;
  c.kh = c.kw = kernel;
  c.sh = c.sw = stride;
}

// The result's size for this padding, on one side or the other; at least one pixel.
template <class Case>
void pad(Case& c, int64_t top, int64_t left, int64_t bottom, int64_t right) {
  c.top = top;
  c.left = left;
  c.oh = std::max<int64_t>(0, c.h + top + bottom - conv_reach(c.kh, c.dh)) / c.sh + 1;
  c.ow = std::max<int64_t>(0, c.w + left + right - conv_reach(c.kw, c.dw)) / c.sw + 1;
}

template <class Case>
void pad_same(Case& c) {
  const int64_t h = conv_reach(c.kh, c.dh) / 2, w = conv_reach(c.kw, c.dw) / 2;
  pad(c, h, w, h, w);
}

// Any kernel, stride, dilation and padding for the images that `c` has; with `cuts` also results
// that begin inside, and end anywhere, as transposed convolution has them.
template <class Case>
void set_random_kernel(Case& c, Random& random, bool cuts = true) {
  const int64_t most = random.chance(8) ? 11 : 5;
  c.kh = random.between(1, most);
  c.kw = random.chance(2) ? c.kh : random.between(1, most);
  c.sh = random.chance(2) ? 1 : random.between(1, 4);
  c.sw = random.chance(2) ? c.sh : random.between(1, 4);
  if (random.chance(3)) {
    c.dh = random.between(1, 4);
    c.dw = random.between(1, 6);
  }
  pad(c, random.below(c.kh + 1), random.below(c.kw + 1), random.below(c.kh + 1),
      random.below(c.kw + 1));
  if (!cuts || !random.chance(6)) return;
  c.top = random.between(-4, 2);
  c.left = random.between(-4, 2);
  c.oh = random.between(1, 12);
  c.ow = random.between(1, 12);
}

template <class Case>
void set_random_groups(Case& c, Random& random) {
  const int64_t groups[] = {2, 3, 8};
  c.groups = random.pick(groups);
  c.c = c.groups * random.between(1, 7);
  c.n = c.groups * random.between(1, 7);
}

template <class Case>
void set_random_memory(Case& c, Random& random) {
  c.gaps = random.chance(2) ? random.below(64) : 0;
  c.gap = c.gaps ? random.between(1, random.chance(3) ? 70 : 4) : 0;
  c.finish = random.below(2);
  c.sides = random.below(8);
  c.seed = random.below(1 << 30);
}

// Every field that the geometry leaves.
inline void set_random_operands(ConvCase& c, Random& random) {
  c.x_signed = random.below(2);
  c.w_signed = random.chance(3) ? 0 : 1;
  c.zp_w = c.groups == 1 && random.chance(4) ? random.between(1, 2) : 0;
  c.output = random.below(4);
  c.bias = random.below(2);
  c.clip = random.chance(2) ? random.below(3) : 0;
  c.values = random.chance(2) ? 0 : random.below(7);
  c.start = random.below(2);
  c.w_order = random.below(3);
  set_random_memory(c, random);
}

}  // namespace octavo
