// Dense convolution on every table against naive loops. First the driver: any geometry, also where
// hardly a pixel of the image is under the kernel, groups as blocks of a diagonal, weights with
// zero points, sums beyond int32, float weights. Then the operators: ordinary and transposed, both
// layouts, every kind of input, of weights and of what follows the sums.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "conv_case.h"
#include "drivers/conv.h"
#include "ops/conv.h"
#include "reference/quantize.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kChannels[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65};

// Weights somewhere in memory; `plain` is [n][c / groups][kh][kw], values of `bytes`.
class StridedWeights {
 public:
  template <class Case>
  StridedWeights(GuardedBuffer& memory, const Case& c, int64_t order, const void* plain,
                 int64_t bytes)
      : count_{c.n, c.c / c.groups, c.kh, c.kw}, bytes_(bytes) {
    const int64_t taps = c.kh * c.kw, depth = count_[1] * taps;
    int64_t first = 0;
    if (order == 2) {
      const int64_t strides[] = {depth, 1, c.kw * count_[1], count_[1]};
      std::copy_n(strides, 4, values.strides);
    } else {
      const int64_t sign = order == 1 ? -1 : 1;
      const int64_t strides[] = {depth, taps, sign * c.kw, sign};
      std::copy_n(strides, 4, values.strides);
      first = order == 1 ? std::max<int64_t>(taps - 1, 0) : 0;
    }
    size_ = static_cast<size_t>(c.n * depth * bytes);
    const Side side = c.sides & 4 ? Side::kBegin : Side::kEnd;
    uint8_t* data = memory.place(size_, side);
    values.data = data + first * bytes;
    values.is_signed = values.is_half = false;
    const auto* from = static_cast<const uint8_t*>(plain);
    each([&](int64_t at, int64_t in_plain) {
      std::memcpy(origin() + at, from + in_plain, static_cast<size_t>(bytes_));
    });
  }

  // Forgets them; true if they are there again afterwards.
  template <class Unpack>
  bool come_back(const void* plain, const Unpack& unpack) const {
    each([&](int64_t at, int64_t) {
      std::memset(origin() + at, 0x3c, static_cast<size_t>(bytes_));
    });
    unpack(values);
    bool same = true;
    each([&](int64_t at, int64_t in_plain) {
      same &= std::memcmp(origin() + at, static_cast<const uint8_t*>(plain) + in_plain,
                          static_cast<size_t>(bytes_)) == 0;
    });
    return same;
  }

  KernelValues values{};

 private:
  int64_t count_[4];
  int64_t bytes_;
  size_t size_ = 0;

  uint8_t* origin() const { return static_cast<uint8_t*>(const_cast<void*>(values.data)); }
  template <class Body>
  void each(const Body& body) const {
    const int64_t* s = values.strides;
    int64_t in_plain = 0;
    for (int64_t n = 0; n < count_[0]; ++n) {
      for (int64_t c = 0; c < count_[1]; ++c) {
        for (int64_t i = 0; i < count_[2]; ++i) {
          for (int64_t j = 0; j < count_[3]; ++j, in_plain += bytes_)
            body((n * s[0] + c * s[1] + i * s[2] + j * s[3]) * bytes_, in_plain);
        }
      }
    }
  }
};

// ---- drivers/conv, 8-bit weights

class DriverTest {
 public:
  ConvTest runs;

  void check(const KernelTable& table, const ConvCase& c) {
    CaseScope<ConvCase> scope(table, c);
    const ConvProblem p(c);
    StridedWeights w(w_memory_, c, c.w_order, p.w.data(), 1);
    w.values.is_signed = c.w_signed != 0;
    const ConvWeights weights(table, w.values, c.n, c.c, c.kh, c.kw, c.groups,
                              1 + static_cast<int>(c.seed % 3));
    OCTAVO_CHECK(
        w.come_back(p.w.data(), [&](const KernelValues& v) { weights.unpack(v, c.groups); }),
        "unpack() gives other weights than were packed");
    const PackedB& b = weights.packed();
    std::vector<int32_t> start(static_cast<size_t>(b.padded_n));
    if (c.start) {
      std::vector<int32_t> bias(p.bias_s32);
      bias.resize(start.size());
      const bool has_bias = c.bias && static_cast<GemmOutput>(c.output) != GemmOutput::kF32;
      column_start(b, stored_a_zero_point(table, c.x_signed != 0, p.za),
                   has_bias ? bias.data() : nullptr, start.data());
    }
    runs.check(c, p, b.padded_n,
               [&](const ConvGeometry& g, const ConvX& x, const ConvY& y, int threads) {
                 return conv(weights, g, x, y, c.start ? start.data() : nullptr, threads);
               });
  }

 private:
  GuardedBuffer w_memory_;
};

// Padding, dilation and strides that leave little of the image, and images that are hardly there.
template <class Case, class Check>
void check_traps(const Check& check, Random& random, bool quick) {
  for (const int64_t channels : {1, 3, 16, 33}) {
    const int64_t n = random.between(1, 40);
    Case c;
    set_plain_geometry(c, 1, 1, channels, n, 3, 1);  // padding as large as the kernel on one pixel
    pad(c, 3, 3, 3, 3);
    check(c);
    set_plain_geometry(c, 5, 4, channels, n, 3, 1);  // dilation beyond the image
    c.dh = c.dw = 9;
    pad(c, 11, 11, 11, 11);
    check(c);
    c.dh = 1;
    pad(c, 1, 11, 1, 11);
    check(c);
    set_plain_geometry(c, 20, 23, channels, n, 2, 7);  // stride beyond the kernel
    pad(c, 1, 0, 0, 1);
    check(c);
    set_plain_geometry(c, 13, 12, channels, n, 1, 3);
    pad(c, 0, 2, 1, 0);
    check(c);
    set_plain_geometry(c, 9, 9, channels, n, 4, 3);  // dilation and stride without common divisor
    c.kw = 3;
    c.dh = 2;
    c.dw = 3;
    c.sw = 2;
    pad(c, 2, 3, 1, 0);
    check(c);
    set_plain_geometry(c, 1, quick ? 90 : 1500, channels, quick ? 5 : n, 1, 1);  // one long row
    c.kw = 7;
    pad(c, 0, 6, 0, 3);
    check(c);
    c.dw = random.between(2, 40);  // turned
    pad(c, 0, 6 * c.dw, 0, 0);
    check(c);
    c.batch = c.h = 3;
    c.w = 60;
    pad(c, 0, 2 * c.dw, 0, 4 * c.dw);
    check(c);
    set_plain_geometry(c, quick ? 60 : 700, 2, channels, quick ? 5 : n, 1, 1);  // one long column
    c.kh = 9;
    c.dh = random.between(1, 5);
    pad(c, 8, 0, 8, 0);
    check(c);
    set_plain_geometry(c, 12, 12, channels, n, 11, 1);
    c.kw = 2;
    pad(c, 5, 0, 5, 1);
    check(c);
    set_plain_geometry(c, 4, 5, channels, n, 3, 1);  // no tap, as some phases have it
    c.kh = 0;
    c.oh = 3;
    c.ow = 2;
    check(c);
    c.kh = 2;
    c.kw = 0;
    check(c);
    set_plain_geometry(c, 3, 4, channels, n, 3, 1);  // a result far from the image
    c.top = c.left = -20;
    c.oh = c.ow = 3;
    check(c);
    c.top = 30;
    check(c);
  }
}

void test_driver(const KernelTable& table) {
  const bool small = in_qemu();
  DriverTest test;
  Random random(41);
  const int64_t nr = table.info->nr, before = running.cases;
  const auto check = [&](ConvCase c) {
    set_random_operands(c, random);
    test.check(table, c);
  };
  for (int i = 0; i < (small ? 120 : 1200); ++i) {
    ConvCase c;
    set_plain_geometry(c, random.between(1, 14), random.between(1, 14),
                       random.chance(2) ? random.pick(kChannels) : random.between(1, 40),
                       random.chance(3) ? random.between(1, 2 * nr + 5) : random.between(1, 20), 1,
                       1);
    c.batch = random.chance(4) ? random.between(2, 4) : 1;
    if (random.chance(4)) set_random_groups(c, random);
    set_random_kernel(c, random);
    check(c);
  }
  check_traps<ConvCase>(check, random, small);

  // Images of three channels, kernels of seven.
  for (const int64_t size : {7, 30, 64}) {
    ConvCase c;
    set_plain_geometry(c, size, size + 1, 3, small ? 8 : 40, 7, 2);
    pad_same(c);
    if (size < 64 || !small) check(c);
  }
  // Rows of output that are cut into blocks.
  for (const int64_t width : {513, 1100}) {
    for (int repeat = 0; repeat < (small ? 1 : 4); ++repeat) {
      ConvCase c;
      set_plain_geometry(c, random.between(1, 3), width, random.between(1, 6), 3, 3, 1);
      set_random_kernel(c, random);
      c.ow = std::max<int64_t>(c.ow, 520);
      check(c);
      c.finish = 0;
      test.check(table, c);
    }
  }
  if (!small) {
    // Windows of several chunks, rows a multiple of 4 kB apart, more weights than L2 holds.
    for (int repeat = 0; repeat < 4; ++repeat) {
      ConvCase c;
      set_plain_geometry(c, 40, 128, 64, 5, 3, 1);
      if (repeat % 2) c.sh = c.sw = 2;
      pad_same(c);
      check(c);
      set_plain_geometry(c, 34, 62, 70, 3, repeat % 2 ? 3 : 1, 1);
      pad(c, 0, 0, 0, 0);  // in place
      check(c);
      set_plain_geometry(c, repeat + 1, 3, 515, 520, 3, 1);
      pad_same(c);
      check(c);
    }
    // Enough pixels that panels are widened, or shared out.
    for (int repeat = 0; repeat < 12; ++repeat) {
      ConvCase c;
      set_plain_geometry(c, random.between(10, 20), random.between(10, 20), random.between(8, 24),
                         3 * nr + 1, 3, 1);
      if (repeat % 3) c.kw = 1;
      pad_same(c);
      check(c);
    }
  }
  // Around the point where int32 may no longer do, with the largest sums and others.
  for (const int64_t channels : {3668, 3670, 3750}) {
    for (int64_t values = 0; values <= 6; ++values) {
      if (small && values != 5) continue;
      for (const bool wide : {false, true}) {
        ConvCase c;
        set_plain_geometry(c, 3, 4, channels, random.between(1, 3), 3, 1);
        pad(c, 0, 1, 0, 0);
        set_random_operands(c, random);
        c.gap = c.gaps = 0;
        c.values = values;
        if (wide) c.output = static_cast<int64_t>(GemmOutput::kS32);
        test.check(table, c);
      }
    }
  }
  // A bias that leaves no room.
  for (int repeat = 0; repeat < 20; ++repeat) {
    ConvCase c;
    set_plain_geometry(c, 6, 5, random.between(1, 20), random.between(1, 20), 3, 1);
    pad_same(c);
    set_random_operands(c, random);
    c.bias = 2;
    c.output = repeat % 4;
    test.check(table, c);
  }
  std::printf("%-12s %6lld convolutions, %lld with sums beyond int32\n", table.info->name,
              static_cast<long long>(running.cases - before),
              static_cast<long long>(test.runs.overflows));
  OCTAVO_CHECK(test.runs.overflows > 0, "no sum passed int32: that path was not tested");
  OCTAVO_CHECK(test.runs.inner * 4 > test.runs.codes, "%lld of %lld codes are not clamped: vacuous",
               static_cast<long long>(test.runs.inner), static_cast<long long>(test.runs.codes));
}

// ---- drivers/conv, float weights

// half: weights are float16; values: 0 any, 1 small integers, 2 any, and x holds NaN and infinity
// clang-format off: it never settles on these
#define OCTAVO_FLOAT_FIELDS(F) \
  OCTAVO_GEOMETRY_FIELDS(F) F(half) F(bias) F(clip) F(values) F(w_order) OCTAVO_MEMORY_FIELDS(F)
// clang-format on
OCTAVO_CASE(FloatCase, "conv_f32", OCTAVO_FLOAT_FIELDS)

float from_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float value = exponent ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                               : std::ldexp(static_cast<float>(fraction), -24);
  return half & 0x8000 ? -value : value;
}

// Float weights as bytes, and the numbers that they are.
struct FloatWeights {
  std::vector<uint8_t> bytes;
  std::vector<float> values;

  FloatWeights(size_t count, bool half, bool small, Random& random)
      : bytes(count * (half ? 2 : 4)), values(count) {
    for (size_t i = 0; i < count; ++i) {
      const auto integer = static_cast<float>(random.between(-3, 3));
      if (half) {
        // Finite; subnormal ones too.
        auto bits = static_cast<uint16_t>(random.below(0x4800) | random.below(2) << 15);
        const uint16_t integers[] = {0, 0x3c00, 0xbc00, 0x4000, 0xc200};  // 0 1 -1 2 -3
        if (small) bits = random.pick(integers);
        values[i] = from_half(bits);
        std::memcpy(bytes.data() + 2 * i, &bits, sizeof bits);
      } else {
        values[i] = small ? integer : static_cast<float>(random.unit() * 2 - 1);
        std::memcpy(bytes.data() + 4 * i, &values[i], sizeof(float));
      }
    }
  }
};

// One output before bias: one chain of fused multiply-adds, taps that meet padding left out.
// backwards: taps from the last to the first, as transposed convolution meets its inputs in order.
float float_chain(const ReferenceConv& v, const float* x, const float* w, int64_t image, int64_t oy,
                  int64_t ox, int64_t o) {
  const int64_t group_in = v.in_c / v.groups, group_out = v.out_c / v.groups;
  float sum = 0.0f;
  for (int64_t i = 0; i < v.kernel_h; ++i) {
    const int64_t y = oy * v.stride_h - v.pad_top + i * v.dilation_h;
    for (int64_t j = 0; j < v.kernel_w; ++j) {
      const int64_t at = ox * v.stride_w - v.pad_left + j * v.dilation_w;
      if (y < 0 || y >= v.in_h || at < 0 || at >= v.in_w) continue;
      for (int64_t c = 0; c < group_in; ++c) {
        const float a = x[image * v.x_image_stride + y * v.x_row_stride + at * v.x_pixel_stride +
                          o / group_out * group_in + c];
        sum = std::fma(a, w[((o * group_in + c) * v.kernel_h + i) * v.kernel_w + j], sum);
      }
    }
  }
  return sum;
}

float activated(float x, bool activate, float lo, float hi) {
  if (!activate || std::isnan(x)) return x;
  const float clipped = std::min(std::max(x, lo), hi);
  return clipped == 0.0f ? 0.0f : clipped;  // no -0
}

class FloatTest {
 public:
  void check(const KernelTable& table, const FloatCase& c) {
    CaseScope<FloatCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    const PixelLayout xl = pixel_layout(c.batch, c.h, c.w, c.c, c.gap, c.gaps);
    const PixelLayout yl = pixel_layout(c.batch, c.oh, c.ow, c.n, c.gap, c.gaps >> 3);
    std::vector<float> x_values(static_cast<size_t>(xl.extent));
    for (float& value : x_values) {
      value = c.values == 1 ? static_cast<float>(random.between(-9, 9))
                            : static_cast<float>(random.unit() * 4 - 2);
      if (c.values == 2 && random.chance(200)) value = random.chance(2) ? kInfinity : NAN;
    }
    const FloatWeights w(static_cast<size_t>(c.n * (c.c / c.groups) * c.kh * c.kw), c.half != 0,
                         c.values == 1, random);
    std::vector<float> bias(static_cast<size_t>(c.n));
    for (float& value : bias) value = static_cast<float>(random.unit() * 4 - 2);

    StridedWeights strided(w_memory_, c, c.w_order, w.bytes.data(), c.half ? 2 : 4);
    strided.values.is_half = c.half != 0;
    const ConvFloatWeights weights(table, strided.values, c.n, c.c, c.kh, c.kw, c.groups);
    OCTAVO_CHECK(strided.come_back(w.bytes.data(),
                                   [&](const KernelValues& v) { weights.unpack(v, c.groups); }),
                 "unpack() gives other weights than were packed");

    ConvY y{};
    y.c.type = GemmC::Type::kF32;
    y.c.activate = c.clip != 0;
    y.c.lo = c.clip == 1 ? 0.0f : -1.5f;
    y.c.hi = c.clip == 1 ? kInfinity : 2.0f;
    y.image_stride = yl.image;
    y.row_stride = yl.row;
    y.pixel_stride = yl.pixel;
    ReferenceConv conv = reference_of(c);
    conv.x_image_stride = xl.image;
    conv.x_row_stride = xl.row;
    conv.x_pixel_stride = xl.pixel;
    std::vector<uint8_t> expected(static_cast<size_t>(yl.extent) * sizeof(float), ConvRuns::kGap);
    for (int64_t row = 0; row < c.batch * c.oh; ++row) {
      for (int64_t ox = 0; ox < c.ow; ++ox) {
        const int64_t at = row / c.oh * yl.image + row % c.oh * yl.row + ox * yl.pixel;
        for (int64_t o = 0; o < c.n; ++o) {
          float value =
              float_chain(conv, x_values.data(), w.values.data(), row / c.oh, row % c.oh, ox, o);
          if (c.bias) value = value + bias[static_cast<size_t>(o)];
          value = activated(value, y.c.activate, y.c.lo, y.c.hi);
          std::memcpy(expected.data() + static_cast<size_t>(at + o) * sizeof value, &value,
                      sizeof value);
        }
      }
    }

    bias.resize(static_cast<size_t>(weights.packed().padded_n), 77.0f);
    if (c.bias) y.c.bias_f32 = bias_memory_.copy(bias.data(), bias.size(), Side::kEnd);
    ConvX x{};
    x.data = reinterpret_cast<const uint8_t*>(
        x_memory_.copy(x_values.data(), x_values.size(), c.sides & 1 ? Side::kBegin : Side::kEnd));
    constexpr auto kBytes = static_cast<int64_t>(sizeof(float));
    x.image_stride = xl.image * kBytes;
    x.row_stride = xl.row * kBytes;
    x.pixel_stride = xl.pixel * kBytes;
    runs_.check(c, x, y, expected, true,
                [&](const ConvGeometry& g, const ConvX& part_x, const ConvY& part_y, int threads) {
                  conv_f32(weights, g, part_x, part_y, threads);
                  return true;
                });
  }

 private:
  GuardedBuffer x_memory_, w_memory_, bias_memory_;
  ConvRuns runs_;
};

void test_float_driver(const KernelTable& table) {
  const bool small = in_qemu();
  FloatTest test;
  Random random(42);
  const int64_t nr = table.info->nr, before = running.cases;
  const auto check = [&](FloatCase c) {
    c.half = random.below(2);
    c.bias = random.below(2);
    c.clip = random.below(3);
    c.values = random.below(c.groups > 1 ? 2 : 3);
    c.w_order = random.below(3);
    set_random_memory(c, random);
    test.check(table, c);
  };
  for (int i = 0; i < (small ? 50 : 500); ++i) {
    FloatCase c;
    set_plain_geometry(c, random.between(1, 12), random.between(1, 12),
                       random.chance(2) ? random.pick(kChannels) : random.between(1, 40),
                       random.chance(3) ? random.between(1, 2 * nr + 5) : random.between(1, 20), 1,
                       1);
    c.batch = random.chance(4) ? random.between(2, 4) : 1;
    if (random.chance(4)) set_random_groups(c, random);
    set_random_kernel(c, random);
    check(c);
  }
  check_traps<FloatCase>(check, random, true);
  // Weights that are taken a few kernel rows at a time.
  for (int repeat = 0; repeat < (small ? 0 : 4); ++repeat) {
    FloatCase c;
    set_plain_geometry(c, 4, 4 + repeat, 700 + repeat, 2 * nr + 1, 3, 1);
    pad_same(c);
    check(c);
  }
  std::printf("%-12s %6lld convolutions of floats\n", table.info->name,
              static_cast<long long>(running.cases - before));
}

void test_conv(const KernelTable& table) {
  test_driver(table);
  test_float_driver(table);
}

void test_forms(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  ConvCase c;
  FloatCase f;
  if (parse_case(line, c))
    DriverTest().check(table, c);
  else if (parse_case(line, f))
    FloatTest().check(table, f);
  else
    return false;
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  set_dots_per_thread(1);  // or nothing here would be shared out
  return run_tests(argc, argv, test_conv, test_forms, repeat_case);
}
