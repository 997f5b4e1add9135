// Depthwise convolution on every table against naive loops: any geometry, also where hardly a pixel
// of the image is under the kernel, any number of channels, every kind of output, every number of
// threads. Input and output lie between pages that may not be touched.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "check.h"
#include "drivers/depthwise.h"
#include "gemm_case.h"
#include "guard_page.h"
#include "reference/conv.h"

namespace octavo {
namespace {

// h w: of the image; kh .. dw: kernel, stride, dilation; top left bottom right: padding
// zp_w: 0 none, 1 of each channel, 2 the ends of the range
// output, clip, values as in gemm_case.h; sides: bit 0 the input, bit 1 the output
// clang-format off: it never settles on these
#define OCTAVO_DEPTHWISE_FIELDS(F) \
  F(batch) F(h) F(w) F(c) F(multiplier) F(kh) F(kw) F(sh) F(sw) F(dh) F(dw) F(top) F(left) \
  F(bottom) F(right) F(x_signed) F(w_signed) F(zp_w) F(output) F(bias) F(clip) F(x_gap) F(y_gap) \
  F(values) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(DepthwiseCase, "depthwise", OCTAVO_DEPTHWISE_FIELDS)

constexpr int kThreadCounts[] = {1, 2, 3};

// How often the driver said that an output is written.
struct Finished {
  int64_t rows = 0, channels = 0;
  std::unique_ptr<std::atomic<int>[]> times;

  void reset(const ConvGeometry& g) {
    rows = g.out_h;
    channels = g.out_c;
    const int64_t count = g.batch * rows * channels;
    times.reset(new std::atomic<int>[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) times[static_cast<size_t>(i)] = 0;
  }
  static void run(const void* context, int64_t image, int64_t first_row, int64_t last_row,
                  int64_t first_channel, int64_t last_channel) {
    const auto* self = static_cast<const Finished*>(context);
    for (int64_t row = first_row; row < last_row; ++row) {
      for (int64_t c = first_channel; c < last_channel; ++c)
        ++self->times[static_cast<size_t>((image * self->rows + row) * self->channels + c)];
    }
  }
};

class DepthwiseTest {
 public:
  void check(const KernelTable& table, const DepthwiseCase& c) {
    CaseScope<DepthwiseCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    const bool x_signed = c.x_signed != 0, w_signed = c.w_signed != 0;
    const int64_t out_c = c.c * c.multiplier;
    ConvGeometry g{};
    g.batch = c.batch;
    g.in_h = c.h;
    g.in_w = c.w;
    g.in_c = c.c;
    g.out_c = out_c;
    g.kernel_h = c.kh;
    g.kernel_w = c.kw;
    g.stride_h = c.sh;
    g.stride_w = c.sw;
    g.dilation_h = c.dh;
    g.dilation_w = c.dw;
    g.pad_top = c.top;
    g.pad_left = c.left;
    g.out_h = (c.h + c.top + c.bottom - c.dh * (c.kh - 1) - 1) / c.sh + 1;
    g.out_w = (c.w + c.left + c.right - c.dw * (c.kw - 1) - 1) / c.sw + 1;

    const int64_t x_pixel = c.c + c.x_gap, x_row = c.w * x_pixel + c.x_gap;
    const int64_t x_image = c.h * x_row + c.x_gap;
    std::vector<uint8_t> x_bytes(static_cast<size_t>((c.batch - 1) * x_image + (c.h - 1) * x_row +
                                                     (c.w - 1) * x_pixel + c.c));
    std::vector<uint8_t> w(static_cast<size_t>(out_c * c.kh * c.kw));
    fill_operand(x_bytes, x_signed, c.values, true, random);
    fill_operand(w, w_signed, c.values, false, random);
    const auto code = [&](bool is_signed, bool ends) {
      const int64_t any = random.between(0, 255), end = random.chance(2) ? 0 : 255;
      return static_cast<int32_t>((ends ? end : any) - (is_signed ? 128 : 0));
    };
    const int32_t za = code(x_signed, c.values != 0);
    const auto n = static_cast<size_t>(out_c);
    std::vector<int32_t> zb(n), stored(n), bias_s32(n);
    std::vector<float> multiplier(n), bias_f32(n);
    const double spread = sum_spread(c.kh * c.kw, x_signed, za, w_signed, 0);
    const bool is_float = static_cast<GemmOutput>(c.output) == GemmOutput::kF32;
    for (size_t i = 0; i < n; ++i) {
      // Without zero points of its own a code of uint8 still counts from 128.
      zb[i] = c.zp_w ? code(w_signed, c.zp_w == 2) : w_signed ? 0 : 128;
      stored[i] = zb[i] - (w_signed ? 0 : 128);
      bias_s32[i] = static_cast<int32_t>(random.between(-20000, 20000));
      bias_f32[i] = random.chance(4) ? -0.0f : static_cast<float>(random.unit() * 20 - 10);
      multiplier[i] = random.chance(9) ? 1e9f
                                       : static_cast<float>((is_float ? 0.01 : 60 / spread) *
                                                            std::exp2(4 * random.unit() - 2));
    }

    ReferenceConv conv;
    conv.batch = g.batch;
    conv.in_h = g.in_h;
    conv.in_w = g.in_w;
    conv.in_c = g.in_c;
    conv.out_h = g.out_h;
    conv.out_w = g.out_w;
    conv.out_c = g.out_c;
    conv.kernel_h = g.kernel_h;
    conv.kernel_w = g.kernel_w;
    conv.stride_h = g.stride_h;
    conv.stride_w = g.stride_w;
    conv.pad_top = g.pad_top;
    conv.pad_left = g.pad_left;
    conv.dilation_h = g.dilation_h;
    conv.dilation_w = g.dilation_w;
    conv.groups = c.c;
    conv.x = x_bytes.data();
    conv.x_image_stride = x_image;
    conv.x_row_stride = x_row;
    conv.x_pixel_stride = x_pixel;
    conv.x_signed = x_signed;
    conv.x_zero_point = &za;
    conv.w = w.data();
    conv.w_signed = w_signed;
    conv.w_zero_point = zb.data();
    conv.w_zero_point_step = 1;
    conv.bias = c.bias ? bias_s32.data() : nullptr;

    const float one = 1.0f;
    ReferenceEpilogue e;
    e.output = static_cast<GemmOutput>(c.output);
    e.multiplier = multiplier.data();
    e.row_scale = &one;
    e.bias = c.bias ? bias_f32.data() : nullptr;
    if (is_float) {
      conv.bias = nullptr;
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

    const int64_t y_pixel = out_c + c.y_gap, y_row = g.out_w * y_pixel + c.y_gap;
    const int64_t y_image = g.out_h * y_row + c.y_gap;
    const size_t y_bytes = static_cast<size_t>((g.batch - 1) * y_image + (g.out_h - 1) * y_row +
                                               (g.out_w - 1) * y_pixel + out_c) *
                           output_size(c.output);
    std::vector<uint8_t> expected(y_bytes, 0x5a);
    reference_conv(conv, e, expected.data(), y_image, y_row, y_pixel);

    const Side x_side = c.sides & 1 ? Side::kBegin : Side::kEnd;
    const Side y_side = c.sides & 2 ? Side::kBegin : Side::kEnd;
    ConvX x{};
    x.data = x_memory_.copy(x_bytes.data(), x_bytes.size(), x_side);
    x.image_stride = x_image;
    x.row_stride = x_row;
    x.pixel_stride = x_pixel;
    x.is_signed = x_signed;
    x.zero_point = za;

    const DepthwiseWeights weights(table, w.data(), w_signed, out_c, c.multiplier, c.kh, c.kw,
                                   c.zp_w ? stored.data() : nullptr);
    std::vector<uint8_t> unpacked(w.size());
    weights.unpack(unpacked.data());
    OCTAVO_CHECK(unpacked == w, "unpack() gives other weights than were packed");

    ConvY y{};
    y.c.type = e.output == GemmOutput::kS32  ? GemmC::Type::kS32
               : e.output == GemmOutput::kU8 ? GemmC::Type::kU8
               : e.output == GemmOutput::kS8 ? GemmC::Type::kS8
                                             : GemmC::Type::kF32;
    y.c.bias_s32 = conv.bias ? copy_to(bias_memory_, bias_s32) : nullptr;
    y.c.multiplier = copy_to(multiplier_memory_, multiplier);
    y.c.bias_f32 = is_float && e.bias ? copy_to(float_memory_, bias_f32) : nullptr;
    y.c.activate = e.activate;
    y.c.lo = e.lo;
    y.c.hi = e.hi;
    y.c.zero_point = e.zero_point;
    y.image_stride = y_image;
    y.row_stride = y_row;
    y.pixel_stride = y_pixel;
    Finished finished;
    const ConvFinish finish = {Finished::run, &finished};
    for (const int threads : kThreadCounts) {
      uint8_t* got = y_memory_.place(y_bytes, y_side);
      std::fill(got, got + y_bytes, uint8_t{0x5a});
      y.c.data = got;
      finished.reset(g);
      y.finish = threads == 2 || c.seed % 2 ? &finish : nullptr;
      depthwise(weights, g, x, y, threads);
      const auto differs = std::mismatch(expected.begin(), expected.end(), got).first;
      OCTAVO_CHECK(differs == expected.end(), "%d threads: byte %td of %zu differs", threads,
                   differs - expected.begin(), y_bytes);
      OCTAVO_CHECK(x_memory_.intact() && y_memory_.intact(), "wrote beside an operand");
      for (int64_t i = 0; y.finish && i < g.batch * g.out_h * out_c; ++i) {
        if (finished.times[static_cast<size_t>(i)] == 1) continue;
        fail("%d threads: an output was finished %d times", threads,
             finished.times[static_cast<size_t>(i)].load());
        break;
      }
    }
  }

 private:
  GuardedBuffer x_memory_, y_memory_, bias_memory_, multiplier_memory_, float_memory_;

  template <class T>
  static const T* copy_to(GuardedBuffer& memory, const std::vector<T>& values) {
    return memory.copy(values.data(), values.size(), Side::kEnd);
  }
};

DepthwiseCase plain_case(int64_t h, int64_t w, int64_t c, int64_t k, int64_t stride) {
  DepthwiseCase d;
  d.batch = d.multiplier = d.sh = d.sw = d.dh = d.dw = 1;
  d.h = h;
  d.w = w;
  d.c = c;
  d.kh = d.kw = k;
  d.sh = d.sw = stride;
  d.top = d.left = d.bottom = d.right = k / 2;
  d.w_signed = 1;
  d.output = static_cast<int64_t>(GemmOutput::kU8);
  d.bias = 1;
  return d;
}

// Values of every field that the geometry does not need.
void vary(DepthwiseCase& d, Random& random) {
  d.x_signed = random.below(2);
  d.w_signed = random.below(2);
  d.zp_w = random.chance(3) ? random.between(1, 2) : 0;
  d.output = random.below(4);
  d.bias = random.below(2);
  d.clip = random.below(3);
  d.x_gap = random.chance(3) ? random.between(1, 70) : 0;
  d.y_gap = random.chance(3) ? random.between(1, 70) : 0;
  d.values = random.chance(2) ? 0 : random.below(7);
  d.sides = random.below(4);
  d.seed = random.below(1 << 30);
}

// Padding that leaves an output, if there is none.
void pad_to_fit(DepthwiseCase& d) {
  d.bottom = std::max(d.bottom, d.dh * (d.kh - 1) + 1 - d.h - d.top);
  d.right = std::max(d.right, d.dw * (d.kw - 1) + 1 - d.w - d.left);
}

void test_depthwise(const KernelTable& table) {
  DepthwiseTest test;
  Random random(20260);
  const bool quick = in_qemu();
  const int64_t channels[] = {1, 3, 8, 16, 17, 24, 31, 32, 33, 40, 64, 65, 96, 127, 144, 200};

  // The kernels that hold rows, on maps of every height: they begin and end on their own paths.
  for (const int64_t k : {3, 5}) {
    for (const int64_t stride : {1, 2, 3}) {
      for (int64_t h = 1; h <= (quick ? 7 : 15); ++h) {
        DepthwiseCase d = plain_case(h, random.between(1, 20), random.pick(channels), k, stride);
        vary(d, random);
        d.zp_w = 0;
        test.check(table, d);
        d.output = static_cast<int64_t>(GemmOutput::kU8);
        d.c = random.between(1, 130);
        test.check(table, d);
      }
    }
  }
  // Traps.
  for (const int64_t c : {1, 3, 17, 31, 33, 65}) {
    DepthwiseCase d = plain_case(1, 1, c, 3, 1);  // padding as large as the kernel on one pixel
    d.top = d.left = d.bottom = d.right = 3;
    vary(d, random);
    test.check(table, d);
    d = plain_case(5, 4, c, 3, 1);  // dilation beyond the image
    d.dh = d.dw = 9;
    d.top = d.left = d.bottom = d.right = 11;
    vary(d, random);
    test.check(table, d);
    d = plain_case(20, 23, c, 2, 7);  // stride beyond the kernel
    vary(d, random);
    test.check(table, d);
    d = plain_case(9, 9, c, 3, 1);  // dilation that does not divide by the stride, nor it by that
    d.dh = 2;
    d.sh = 3;
    d.dw = 3;
    d.sw = 2;
    d.kh = 4;
    pad_to_fit(d);
    vary(d, random);
    test.check(table, d);
    d = plain_case(1, quick ? 50 : 3000, c, 1, 1);  // one row, more than a tile
    d.kw = 7;
    d.left = 6;
    d.dw = random.between(1, 40);
    pad_to_fit(d);
    vary(d, random);
    test.check(table, d);
    d = plain_case(quick ? 40 : 400, 2, c, 1, 1);  // one column
    d.kh = 9;
    d.top = 8;
    d.dh = random.between(1, 5);
    pad_to_fit(d);
    vary(d, random);
    test.check(table, d);
    d = plain_case(12, 12, c, 11, 1);
    vary(d, random);
    test.check(table, d);
  }
  // Windows that do not fit: tiles of rows and columns, slabs of channels.
  if (!quick) {
    for (const int64_t c : {40, 64, 72, 520}) {
      for (const int64_t stride : {1, 2}) {
        DepthwiseCase d = plain_case(60, 150, c, 3, stride);
        vary(d, random);
        test.check(table, d);
      }
    }
  }
  for (int i = 0; i < (quick ? 60 : 1500); ++i) {
    DepthwiseCase d =
        plain_case(random.between(1, 16), random.between(1, 16),
                   random.chance(2) ? random.pick(channels) : random.between(1, 80), 1, 1);
    d.batch = random.chance(4) ? random.between(2, 3) : 1;
    if (random.chance(4)) {
      d.c = random.between(1, 20);
      d.multiplier = random.between(2, 5);
    }
    const int64_t most = random.chance(6) ? 11 : 5;
    d.kh = random.between(1, most);
    d.kw = random.chance(2) ? d.kh : random.between(1, most);
    d.sh = random.between(1, 3);
    d.sw = random.chance(2) ? d.sh : random.between(1, 4);
    if (random.chance(3)) {
      d.dh = random.between(1, 4);
      d.dw = random.between(1, 6);
    }
    d.top = random.below(d.kh + 1);
    d.left = random.below(d.kw + 1);
    d.bottom = random.below(d.kh + 1);
    d.right = random.below(d.kw + 1);
    pad_to_fit(d);
    vary(d, random);
    test.check(table, d);
  }
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
}

// Every table has been compared with the reference.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  DepthwiseCase d;
  if (!parse_case(line, d)) return false;
  DepthwiseTest test;
  test.check(table, d);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  set_dots_per_thread(1);  // or nothing here would be shared out
  return run_tests(argc, argv, test_depthwise, compare_tables, repeat_case);
}
