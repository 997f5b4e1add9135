// Convolution by Winograd's algorithm against naive loops, on each table that has it: any padding,
// maps of even and odd size, codes at the ends of their ranges, every kind of output, every number
// of threads. Input and output lie between pages that may not be touched. What conv() gives must be
// the same, whichever way it takes.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "check.h"
#include "drivers/winograd.h"
#include "gemm_case.h"
#include "guard_page.h"
#include "reference/conv.h"

namespace octavo {
namespace {

// h w: of the image; n: output channels; top left bottom right: padding
// output, clip, values as in gemm_case.h; sides: bit 0 the input, bit 1 the output
// clang-format off: it never settles on these
#define OCTAVO_WINOGRAD_FIELDS(F) \
  F(batch) F(h) F(w) F(c) F(n) F(top) F(left) F(bottom) F(right) F(x_signed) F(w_signed) F(output) \
  F(bias) F(clip) F(x_gap) F(y_gap) F(values) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(WinogradCase, "winograd", OCTAVO_WINOGRAD_FIELDS)

constexpr int kThreadCounts[] = {1, 2, 3, 8};
constexpr int64_t kTaps = 3;

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

class WinogradTest {
 public:
  void check(const KernelTable& table, const WinogradCase& c) {
    CaseScope<WinogradCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    const bool x_signed = c.x_signed != 0, w_signed = c.w_signed != 0;
    ConvGeometry g{};
    g.batch = c.batch;
    g.in_h = c.h;
    g.in_w = c.w;
    g.in_c = c.c;
    g.out_h = c.h + c.top + c.bottom - kTaps + 1;
    g.out_w = c.w + c.left + c.right - kTaps + 1;
    g.out_c = c.n;
    g.kernel_h = g.kernel_w = kTaps;
    g.stride_h = g.stride_w = g.dilation_h = g.dilation_w = 1;
    g.pad_top = c.top;
    g.pad_left = c.left;

    const int64_t x_pixel = c.c + c.x_gap, x_row = c.w * x_pixel + c.x_gap;
    const int64_t x_image = c.h * x_row + c.x_gap;
    std::vector<uint8_t> x_bytes(static_cast<size_t>((c.batch - 1) * x_image + (c.h - 1) * x_row +
                                                     (c.w - 1) * x_pixel + c.c));
    std::vector<uint8_t> w(static_cast<size_t>(c.n * c.c * kTaps * kTaps));
    fill_operand(x_bytes, x_signed, c.values, true, random);
    fill_operand(w, w_signed, c.values, false, random);
    const auto code = [&](bool is_signed, bool ends) {
      const int64_t any = random.between(0, 255), end = random.chance(2) ? 0 : 255;
      return static_cast<int32_t>((ends ? end : any) - (is_signed ? 128 : 0));
    };
    const int32_t za = code(x_signed, c.values != 0), zb = w_signed ? 0 : 128;
    const bool is_float = static_cast<GemmOutput>(c.output) == GemmOutput::kF32;
    const double spread = sum_spread(c.c * kTaps * kTaps, x_signed, za, w_signed, zb);
    // Arrays of the epilogue hold whole row vectors.
    const auto n = static_cast<size_t>(round_up(c.n, table.info->nv));
    std::vector<int32_t> bias_s32(n);
    std::vector<float> multiplier(n), bias_f32(n);
    for (size_t i = 0; i < n; ++i) {
      bias_s32[i] = static_cast<int32_t>(random.between(-20000, 20000));
      bias_f32[i] = random.chance(4) ? -0.0f : static_cast<float>(random.unit() * 20 - 10);
      multiplier[i] = random.chance(9) ? 1e9f
                                       : static_cast<float>((is_float ? 0.01 : 60 / spread) *
                                                            std::exp2(4 * random.unit() - 2));
    }

    ReferenceConv conv_case;
    conv_case.batch = g.batch;
    conv_case.in_h = g.in_h;
    conv_case.in_w = g.in_w;
    conv_case.in_c = g.in_c;
    conv_case.out_h = g.out_h;
    conv_case.out_w = g.out_w;
    conv_case.out_c = g.out_c;
    conv_case.kernel_h = conv_case.kernel_w = kTaps;
    conv_case.pad_top = g.pad_top;
    conv_case.pad_left = g.pad_left;
    conv_case.x = x_bytes.data();
    conv_case.x_image_stride = x_image;
    conv_case.x_row_stride = x_row;
    conv_case.x_pixel_stride = x_pixel;
    conv_case.x_signed = x_signed;
    conv_case.x_zero_point = &za;
    conv_case.w = w.data();
    conv_case.w_signed = w_signed;
    conv_case.w_zero_point = &zb;
    conv_case.bias = c.bias && !is_float ? bias_s32.data() : nullptr;

    const float one = 1.0f;
    ReferenceEpilogue e;
    e.output = static_cast<GemmOutput>(c.output);
    e.multiplier = multiplier.data();
    e.row_scale = &one;
    e.bias = c.bias && is_float ? bias_f32.data() : nullptr;
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
    const int64_t y_pixel = c.n + c.y_gap, y_row = g.out_w * y_pixel + c.y_gap;
    const int64_t y_image = g.out_h * y_row + c.y_gap;
    const size_t y_bytes = static_cast<size_t>((g.batch - 1) * y_image + (g.out_h - 1) * y_row +
                                               (g.out_w - 1) * y_pixel + c.n) *
                           output_size(c.output);
    std::vector<uint8_t> expected(y_bytes, 0x5a);
    reference_conv(conv_case, e, expected.data(), y_image, y_row, y_pixel);

    const Side x_side = c.sides & 1 ? Side::kBegin : Side::kEnd;
    const Side y_side = c.sides & 2 ? Side::kBegin : Side::kEnd;
    ConvX x{};
    x.data = x_memory_.copy(x_bytes.data(), x_bytes.size(), x_side);
    x.image_stride = x_image;
    x.row_stride = x_row;
    x.pixel_stride = x_pixel;
    x.is_signed = x_signed;
    x.zero_point = za;

    const KernelValues values = {
        w.data(), {c.c * kTaps * kTaps, kTaps * kTaps, kTaps, 1}, w_signed, false};
    const ConvWeights weights(table, values, c.n, c.c, kTaps, kTaps, 1, 1);
    ConvY y{};
    y.c.type = e.output == GemmOutput::kS32  ? GemmC::Type::kS32
               : e.output == GemmOutput::kU8 ? GemmC::Type::kU8
               : e.output == GemmOutput::kS8 ? GemmC::Type::kS8
                                             : GemmC::Type::kF32;
    y.c.bias_s32 = conv_case.bias ? copy_to(bias_memory_, bias_s32) : nullptr;
    y.c.max_abs_bias = 20000;
    y.c.multiplier = copy_to(multiplier_memory_, multiplier);
    y.c.bias_f32 = e.bias ? copy_to(float_memory_, bias_f32) : nullptr;
    y.c.activate = e.activate;
    y.c.lo = e.lo;
    y.c.hi = e.hi;
    y.c.zero_point = e.zero_point;
    y.image_stride = y_image;
    y.row_stride = y_row;
    y.pixel_stride = y_pixel;

    const bool is_here = table.winograd->outputs && c.c >= 16 && c.c <= 768 && c.c % 2 == 0;
    OCTAVO_CHECK(winograd_applies(weights, g, y) == is_here, "%lld channels: applies is %d",
                 static_cast<long long>(c.c), !is_here);
    Finished finished;
    const ConvFinish finish = {Finished::run, &finished};
    for (const int threads : kThreadCounts) {
      for (const bool directly : {true, false}) {
        if (directly && !is_here) continue;
        uint8_t* got = y_memory_.place(y_bytes, y_side);
        std::fill(got, got + y_bytes, uint8_t{0x5a});
        y.c.data = got;
        finished.reset(g);
        y.finish = threads == 2 || c.seed % 2 ? &finish : nullptr;
        const char* way = directly ? "winograd()" : "conv()";
        if (directly)
          winograd(weights, g, x, y, threads);
        else
          OCTAVO_CHECK(conv(weights, g, x, y, nullptr, threads), "conv() says that sums overflow");
        const auto differs = std::mismatch(expected.begin(), expected.end(), got).first;
        OCTAVO_CHECK(differs == expected.end(), "%s, %d threads: byte %td of %zu differs", way,
                     threads, differs - expected.begin(), y_bytes);
        OCTAVO_CHECK(x_memory_.intact() && y_memory_.intact(), "%s wrote beside an operand", way);
        for (int64_t i = 0; y.finish && i < g.batch * g.out_h * c.n; ++i) {
          if (finished.times[static_cast<size_t>(i)] == 1) continue;
          fail("%s, %d threads: an output was finished %d times", way, threads,
               finished.times[static_cast<size_t>(i)].load());
          break;
        }
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

WinogradCase plain_case(int64_t h, int64_t w, int64_t c, int64_t n, Random& random) {
  WinogradCase d;
  d.batch = 1;
  d.h = h;
  d.w = w;
  d.c = c;
  d.n = n;
  d.top = d.left = d.bottom = d.right = 1;
  d.x_signed = random.below(2);
  d.w_signed = random.below(2);
  d.output = random.below(4);
  d.bias = random.below(2);
  d.clip = random.below(3);
  d.x_gap = random.chance(3) ? random.between(1, 70) : 0;
  d.y_gap = random.chance(3) ? random.between(1, 70) : 0;
  d.values = random.chance(2) ? 0 : random.below(7);
  d.sides = random.below(4);
  d.seed = random.below(1 << 30);
  return d;
}

void test_winograd(const KernelTable& table) {
  WinogradTest test;
  Random random(2015);
  const bool quick = in_qemu();
  const WinogradKernels& kernels = *table.winograd;
  const bool is_wide = table.info->a_bytes == 2 && table.info->b_bytes == 2;
  OCTAVO_CHECK((kernels.inputs != nullptr) == is_wide && (kernels.weights != nullptr) == is_wide &&
                   (kernels.outputs != nullptr) == is_wide,
               "kernels are there where operands are int16, and nowhere else");
  if (!is_wide) return;
  const int64_t channels[] = {16, 18, 24, 30, 32, 34, 48, 62, 64, 66, 96, 130};

  // The longest sums of the largest values, with either sign.
  for (int64_t values = 2; values <= 5; ++values) {
    for (const int64_t x_signed : {0, 1}) {
      WinogradCase d = plain_case(3, 4, quick ? 128 : 768, 9, random);
      d.values = values;
      d.x_signed = x_signed;
      d.w_signed = 1;
      d.output = static_cast<int64_t>(GemmOutput::kS32);
      test.check(table, d);
    }
  }
  // Where other ways must be taken.
  for (const int64_t c : {1, 3, 14, 15, 17, 33, 770}) {
    WinogradCase d = plain_case(6, 5, c, 17, random);
    test.check(table, d);
  }
  // Every small map: tiles cut off below and on the right, in all or no part inside the image.
  for (int64_t h = 1; h <= (quick ? 5 : 9); ++h) {
    for (int64_t w = 1; w <= (quick ? 5 : 9); ++w) {
      WinogradCase d = plain_case(h, w, random.pick(channels), random.between(1, 40), random);
      test.check(table, d);
    }
  }
  // Blocks that span images; spans of columns; panels shared out.
  for (int64_t i = 0; i < (quick ? 1 : 4); ++i) {
    WinogradCase d = plain_case(5, 6, 48, 150, random);
    d.batch = 9;
    test.check(table, d);
    d = plain_case(random.between(4, 5), 600, 34, 20, random);
    test.check(table, d);
    d = plain_case(30, 29, 66, 24, random);
    test.check(table, d);
    d = plain_case(4, 3, 66, 260, random);
    test.check(table, d);
  }
  for (int64_t i = 0; i < (quick ? 60 : 1200); ++i) {
    WinogradCase d = plain_case(random.between(1, 14), random.between(1, 14), random.pick(channels),
                                random.between(1, 70), random);
    d.batch = random.chance(4) ? random.between(2, 4) : 1;
    d.top = random.below(5);
    d.left = random.below(5);
    d.bottom = std::max(random.below(5), kTaps - d.h - d.top);
    d.right = std::max(random.below(5), kTaps - d.w - d.left);
    test.check(table, d);
  }
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
}

// Every table has been compared with the reference.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  WinogradCase d;
  if (!parse_case(line, d)) return false;
  WinogradTest test;
  test.check(table, d);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  set_dots_per_thread(1);  // or nothing here would be shared out
  return run_tests(argc, argv, test_winograd, compare_tables, repeat_case);
}
