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
#include "drivers/depthwise_f32.h"
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
      set_plain_geometry(c, 1, repeat % 2 + 1, 515, 520, 3, 1);
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
    const bool is_depthwise = c.groups == c.c && c.c == c.n;

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

    ConvX x{};
    x.data = reinterpret_cast<const uint8_t*>(
        x_memory_.copy(x_values.data(), x_values.size(), c.sides & 1 ? Side::kBegin : Side::kEnd));
    constexpr auto kBytes = static_cast<int64_t>(sizeof(float));
    x.image_stride = xl.image * kBytes;
    x.row_stride = xl.row * kBytes;
    x.pixel_stride = xl.pixel * kBytes;
    if (is_depthwise) {
      if (c.bias) y.c.bias_f32 = bias_memory_.copy(bias.data(), bias.size(), Side::kEnd);
      const DepthwiseFloats depthwise(table,
                                      w_memory_.copy(w.bytes.data(), w.bytes.size(), Side::kEnd),
                                      c.half != 0, c.c, c.kh, c.kw);
      std::vector<uint8_t> back(w.bytes.size());
      depthwise.unpack(back.data());
      OCTAVO_CHECK(back == w.bytes, "unpack() gives other depthwise weights than were packed");
      runs_.check(
          c, x, y, expected, true,
          [&](const ConvGeometry& g, const ConvX& part_x, const ConvY& part_y, int threads) {
            depthwise_f32(depthwise, g, part_x, part_y, threads);
            return true;
          });
      // Together, groups are a matrix with zeros between them: 0 times infinity is NaN.
      if (c.values == 2) return;
    }
    bias.resize(static_cast<size_t>(weights.packed().padded_n), 77.0f);
    if (c.bias) y.c.bias_f32 = bias_memory_.copy(bias.data(), bias.size(), Side::kEnd);
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
    c.values = random.below(c.groups > 1 && c.groups < c.c ? 2 : 3);
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
  for (int i = 0; i < (small ? 40 : 400); ++i) {  // depthwise
    FloatCase c;
    const int64_t channels = random.chance(3) ? random.pick(kChannels) : random.between(2, 150);
    set_plain_geometry(c, random.between(1, 12), random.between(1, 24), channels, channels, 1, 1);
    c.groups = channels;
    c.batch = random.chance(4) ? random.between(2, 4) : 1;
    set_random_kernel(c, random);
    check(c);
  }
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

// ---- ops/conv

// top .. right: padding, if not `same`; more_h more_w: output padding of transposed convolution
// x: 0 codes, 1 float32 quantized by one scale (or taken as it is), 2 float32 quantized by each
// image's range, 3 float32 where one image holds NaN or infinity
// weights: ConvSpec::Weights; zeros, scales: of w: 1 one, 2 one each (zeros: 0 none)
// bias: 0 none, 1 float32, 2 int32; output: OutputKind; clip: 0 none, 1 relu, 2 both ends
// table: 0 none, 1 of unsigned, 2 of signed codes; residual: 0 none, 1 given
// clang-format off: it never settles on these
#define OCTAVO_OP_FIELDS(F) \
  F(batch) F(h) F(w) F(c) F(n) F(groups) F(kh) F(kw) F(sh) F(sw) F(dh) F(dw) F(top) F(left) \
  F(bottom) F(right) F(same) F(transposed) F(more_h) F(more_w) F(channels_last) F(x) F(x_signed) \
  F(weights) F(zeros) F(scales) F(bias) F(output) F(clip) F(table) F(residual) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(OpCase, "conv_op", OCTAVO_OP_FIELDS)

// (batch, channels, pixels) to (batch, pixels, channels).
template <class T>
std::vector<T> turned(const std::vector<T>& in, int64_t batch, int64_t rows, int64_t cols) {
  std::vector<T> out(in.size());
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j)
        out[static_cast<size_t>((b * cols + j) * rows + i)] =
            in[static_cast<size_t>((b * rows + i) * cols + j)];
    }
  }
  return out;
}

class OpTest {
 public:
  void check(const KernelTable& table, const OpCase& c) {
    CaseScope<OpCase> scope(table, c);
    make(c);
    const auto conv = Conv::prepare(spec_, table, 2);
    for (const int threads : kConvThreads) {
      if (!passes(*conv, table, c, c.batch, threads)) return;
    }
    if (c.batch > 1) passes(*conv, table, c, 1 + c.seed % (c.batch - 1), 2);
    check_unpack(*conv);
  }

  // Prepared for one table, run on all.
  void check_forms(const std::vector<const KernelTable*>& tables, const OpCase& c) {
    CaseScope<OpCase> scope(*tables[0], c);
    make(c);
    const auto count = static_cast<int64_t>(tables.size());
    const auto conv = Conv::prepare(spec_, *tables[static_cast<size_t>(c.seed % count)], 1);
    for (const KernelTable* table : tables) {
      running.isa = table->info->name;
      if (!passes(*conv, *table, c, c.batch, 2)) return;
      check_unpack(*conv);
    }
  }

 private:
  GuardedBuffer x_memory_, residual_memory_, out_memory_;
  ConvSpec spec_{};
  std::vector<uint8_t> w_, x_bytes_, residual_, expected_;
  std::vector<float> w_scale_, bias_f32_;
  std::vector<int32_t> w_zero_, bias_s32_;
  uint8_t table_[256];
  Conv::Shape result_{};

  void check_unpack(const Conv& conv) {
    std::vector<uint8_t> back(w_.size(), 0x3c);
    conv.unpack(back.data());
    OCTAVO_CHECK(back == w_, "unpack() does not give the weights back");
  }

  // Images [0, cut) in one call, the others in a second.
  bool passes(const Conv& conv, const KernelTable& table, const OpCase& c, int64_t cut,
              int threads) {
    const uint8_t* x =
        x_memory_.copy(x_bytes_.data(), x_bytes_.size(), c.sides & 1 ? Side::kBegin : Side::kEnd);
    const uint8_t* residual = residual_memory_.copy(residual_.data(), residual_.size(),
                                                    c.sides & 4 ? Side::kBegin : Side::kEnd);
    uint8_t* out = out_memory_.place(expected_.size(), c.sides & 2 ? Side::kBegin : Side::kEnd);
    const size_t batch = static_cast<size_t>(c.batch);
    bool fits = true;
    for (const bool behind : {false, true}) {
      const int64_t count = behind ? c.batch - cut : cut;
      if (count == 0) continue;
      const size_t first = static_cast<size_t>(behind ? cut : 0);
      const Conv::Input input = {
          x + x_bytes_.size() / batch * first, c.x > 0, {count, c.c, c.h, c.w}};
      const Conv::Shape shape = conv.output_shape(input.shape);
      OCTAVO_CHECK(shape.batch == count && shape.channels == c.n &&
                       shape.height == result_.height && shape.width == result_.width,
                   "the result has another shape");
      fits &= conv.run(input, c.residual ? residual + residual_.size() / batch * first : nullptr,
                       out + expected_.size() / batch * first, table, threads);
    }
    const char* wrong = !fits                   ? "every result fits"
                        : !out_memory_.intact() ? "written beside the result"
                        : !same_values(out, expected_.data(), expected_.size(), is_real(c))
                            ? "wrong result"
                            : nullptr;
    if (wrong) fail("%s: %d threads, %lld images first", wrong, threads, (long long)cut);
    return !wrong;
  }

  static bool is_real(const OpCase& c) {
    return static_cast<OutputKind>(c.output) == OutputKind::kF32;
  }

  void make(const OpCase& c) {
    Random random(static_cast<uint64_t>(c.seed));
    ConvSpec& s = spec_ = ConvSpec{};
    s.weights = static_cast<ConvSpec::Weights>(c.weights);
    s.in_c = c.c;
    s.out_c = c.n;
    s.kernel_h = c.kh;
    s.kernel_w = c.kw;
    s.groups = c.groups;
    s.stride_h = c.sh;
    s.stride_w = c.sw;
    s.dilation_h = c.dh;
    s.dilation_w = c.dw;
    s.padding = {c.top, c.left, c.bottom, c.right};
    s.same = c.same != 0;
    s.transposed = c.transposed != 0;
    s.output_padding_h = c.more_h;
    s.output_padding_w = c.more_w;
    s.channels_last = c.channels_last != 0;
    set_result(c);

    const bool is_float = c.weights >= 2;
    const auto n = static_cast<size_t>(c.n);
    const int64_t pixels = c.h * c.w;
    const auto x_count = static_cast<size_t>(c.batch * c.c * pixels);
    std::vector<uint8_t> x(x_count);  // codes, as the layout is
    std::vector<float> real(x_count), x_scale(static_cast<size_t>(c.batch), 1.0f);
    std::vector<int32_t> za(x_scale.size());
    const bool x_signed = c.x_signed != 0, is_dynamic = c.x >= 2 && !is_float;
    s.x_is_signed = x_signed;
    s.x_zero_point = any_code(x_signed, random);
    EpilogueSpec& e = s.epilogue;
    e.x_scale = static_cast<float>(0.01 + random.unit() * 0.05);
    if (c.x == 0) {
      fill_operand(x, x_signed, random.chance(2) ? 0 : 1, true, random);
      std::fill(za.begin(), za.end(), s.x_zero_point);
    } else {
      for (float& value : real) value = static_cast<float>(random.unit() * 5 - 2);
      if (c.x == 3)
        real[static_cast<size_t>(random.below(static_cast<int64_t>(x_count)))] =
            random.chance(2) ? NAN : -kInfinity;
      if (is_dynamic) {
        reference_quantize_rows(real.data(), c.c * pixels, c.batch, c.c * pixels, x.data(),
                                c.c * pixels, x_scale.data(), za.data());
      } else if (!is_float) {
        reference_quantize(real.data(), static_cast<int64_t>(x_count), &e.x_scale, 0,
                           &s.x_zero_point, 0, x_signed, x.data());
        std::fill(za.begin(), za.end(), s.x_zero_point);
      }
    }
    x_bytes_ = x;
    if (c.x > 0) {
      x_bytes_.resize(x_count * sizeof(float));
      std::memcpy(x_bytes_.data(), real.data(), x_bytes_.size());
    }
    if (!c.channels_last) {
      x = turned(x, c.batch, c.c, pixels);
      real = turned(real, c.batch, c.c, pixels);
    }

    // Weights and what they stand for, less zero point.
    const auto w_count = static_cast<size_t>(c.n * (c.c / c.groups) * c.kh * c.kw);
    const bool w_signed = s.weights == ConvSpec::Weights::kS8;
    FloatWeights floats(is_float ? w_count : 0, s.weights == ConvSpec::Weights::kF16, false,
                        random);
    w_ = floats.bytes;
    w_zero_.assign(n, 0);
    if (!is_float) {
      w_.resize(w_count);
      fill_operand(w_, w_signed, random.chance(2) ? 0 : 1, false, random);
      const int32_t usual = c.zeros == 1 ? any_code(w_signed, random) : 0;
      for (int32_t& zero : w_zero_) zero = c.zeros == 2 ? any_code(w_signed, random) : usual;
    }
    s.w = w_.data();

    const int64_t depth = c.c / c.groups * c.kh * c.kw;
    const double spread = sum_spread(depth, x_signed, za[0], w_signed, w_zero_[0]);
    const double reach = is_float ? std::sqrt(static_cast<double>(depth)) : 2.0;
    w_scale_.assign(n, static_cast<float>(1 / (spread * e.x_scale)));
    for (float& scale : w_scale_)
      if (c.scales == 2) scale *= static_cast<float>(0.5 + random.unit());
    bias_f32_.assign(n, 0.0f);
    bias_s32_.assign(n, 0);
    for (float& value : bias_f32_) value = static_cast<float>((random.unit() - 0.5) * reach);
    for (int32_t& value : bias_s32_) value = static_cast<int32_t>(random.between(-5000, 5000));
    e.n = c.n;
    if (is_float) w_scale_.assign(n, 1.0f);
    e.w_scale = w_scale_.data();
    e.w_scale_count = c.scales == 2 ? c.n : 1;
    e.w_is_signed = is_float || w_signed;
    e.w_zero_point = !is_float && c.zeros ? w_zero_.data() : nullptr;
    e.w_zero_point_count = c.zeros == 2 ? c.n : 1;
    e.bias_f32 = c.bias == 1 ? bias_f32_.data() : nullptr;
    e.bias_s32 = c.bias == 2 ? bias_s32_.data() : nullptr;
    e.is_dynamic = is_dynamic || is_float;
    e.output = static_cast<OutputKind>(c.output);
    const bool y_signed = e.output == OutputKind::kS8;
    e.out_scale = static_cast<float>(0.02 + random.unit() * 0.02);
    e.out_zero_point = any_code(y_signed, random);
    e.activate = c.clip != 0;
    e.lo = c.clip == 1 ? 0.0f : -0.6f;
    e.hi = c.clip == 1 ? kInfinity : 0.9f;
    for (uint8_t& code : table_) code = static_cast<uint8_t>(random.next());
    s.table = c.table ? table_ : nullptr;
    s.tabled = {static_cast<float>(0.01 + random.unit() * 0.05), any_code(c.table == 2, random),
                c.table == 2};
    s.has_residual = c.residual != 0;
    s.residual = {static_cast<float>(0.01 + random.unit() * 0.05), 0, random.chance(2)};
    s.residual.zero_point = any_code(s.residual.is_signed, random);
    s.sum = {static_cast<float>(0.02 + random.unit() * 0.05), 0, random.chance(2)};
    s.sum.zero_point = any_code(s.sum.is_signed, random);
    s.sum_lo = random.chance(2) ? -kInfinity : 0.0f;
    s.sum_hi = random.chance(2) ? kInfinity : 4.0f;

    // What the result is, channels last.
    const auto y_count = static_cast<size_t>(c.batch * result_.height * result_.width * c.n);
    std::vector<float> y_real(y_count);
    std::vector<uint8_t> y_codes(y_count);
    std::vector<int32_t> y_sums(y_count);
    for (size_t at = 0; at < y_count; ++at) {
      const auto index = static_cast<int64_t>(at);
      const int64_t o = index % c.n, ox = index / c.n % result_.width;
      const int64_t oy = index / c.n / result_.width % result_.height;
      const int64_t image = index / c.n / result_.width / result_.height;
      const auto channel = static_cast<size_t>(o), from = static_cast<size_t>(image);
      float value = 0.0f;
      int64_t sum = 0;
      each_tap(c, oy, ox, o, [&](int64_t pixel, int64_t in_channel, int64_t tap) {
        const auto x_at = static_cast<size_t>((image * pixels + pixel) * c.c + in_channel);
        const auto w_at = static_cast<size_t>(tap);
        if (is_float)
          value = std::fma(real[x_at], floats.values[w_at], value);
        else
          sum += (code_value(x[x_at], is_dynamic ? false : x_signed) - za[from]) *
                 (code_value(w_[w_at], w_signed) - w_zero_[channel]);
      });
      const double w_scale = is_float ? 1.0 : w_scale_[c.scales == 2 ? channel : 0];
      const double scale = w_scale * (is_dynamic ? 1.0 : static_cast<double>(e.x_scale));
      if (c.bias && !is_dynamic && !is_float && e.output != OutputKind::kF32) {
        sum += c.bias == 2 ? bias_s32_[channel]
                           : static_cast<int64_t>(std::nearbyint(bias_f32_[channel] / scale));
      }
      y_sums[at] = wrap(sum);
      if (e.output == OutputKind::kS32) continue;
      const float least = y_signed ? -128.0f : 0.0f, zero = static_cast<float>(e.out_zero_point);
      const auto bound = [&](float bound, float q_scale, float q_zero, float q_least) {
        return std::clamp(std::nearbyint(bound / q_scale), q_least - q_zero,
                          q_least + 255.0f - q_zero);
      };
      if (is_dynamic || e.output == OutputKind::kF32) {
        if (!is_float) {
          const auto w_float = static_cast<float>(w_scale);
          const float multiplier = is_dynamic ? x_scale[from] * w_float : static_cast<float>(scale);
          value = static_cast<float>(sum) * multiplier;
          if (c.bias == 2) value = static_cast<float>(sum + bias_s32_[channel]) * multiplier;
        }
        if (c.bias == 1) value = value + bias_f32_[channel];
        value = activated(value, e.activate, e.lo, e.hi);
        y_real[at] = value;
        reference_quantize(&value, 1, &e.out_scale, 0, &e.out_zero_point, 0, y_signed,
                           &y_codes[at]);
      } else {
        const float lo = e.activate ? bound(e.lo, e.out_scale, zero, least) : least - zero;
        const float hi = e.activate ? bound(e.hi, e.out_scale, zero, least) : least + 255.0f - zero;
        y_codes[at] = static_cast<uint8_t>(
            round_code(static_cast<float>(wrap(sum)) * static_cast<float>(scale / e.out_scale), lo,
                       hi, e.out_zero_point));
      }
    }

    const bool is_codes = e.output == OutputKind::kU8 || e.output == OutputKind::kS8;
    if (c.table) {
      for (uint8_t& code : y_codes) code = table_[code];
    }
    const int64_t out_pixels = result_.height * result_.width;
    residual_.resize(c.residual ? y_count : 0);
    fill_operand(residual_, s.residual.is_signed, 0, true, random);
    if (c.residual) {
      const std::vector<uint8_t> added =
          c.channels_last ? residual_ : turned(residual_, c.batch, c.n, out_pixels);
      const ConvSpec::Quantization a =
          c.table ? s.tabled : ConvSpec::Quantization{e.out_scale, e.out_zero_point, y_signed};
      const auto a_scale = static_cast<float>(static_cast<double>(a.scale) / s.sum.scale);
      const auto b_scale = static_cast<float>(static_cast<double>(s.residual.scale) / s.sum.scale);
      const float least = (s.sum.is_signed ? -128.0f : 0.0f) - static_cast<float>(s.sum.zero_point);
      const float lo = std::clamp(std::nearbyint(s.sum_lo / s.sum.scale), least, least + 255.0f);
      const float hi = std::clamp(std::nearbyint(s.sum_hi / s.sum.scale), least, least + 255.0f);
      for (size_t at = 0; at < y_count; ++at) {
        const auto one = static_cast<float>(code_value(y_codes[at], a.is_signed) - a.zero_point);
        const auto two =
            static_cast<float>(code_value(added[at], s.residual.is_signed) - s.residual.zero_point);
        const float product = one * a_scale, other = two * b_scale;
        y_codes[at] = static_cast<uint8_t>(round_code(product + other, lo, hi, s.sum.zero_point));
      }
    }
    const auto keep = [&](const auto& values) {
      const auto out = c.channels_last ? values : turned(values, c.batch, out_pixels, c.n);
      expected_.resize(out.size() * sizeof(out[0]));
      std::memcpy(expected_.data(), out.data(), expected_.size());
    };
    if (is_codes)
      keep(y_codes);
    else if (e.output == OutputKind::kS32)
      keep(y_sums);
    else
      keep(y_real);
  }

  static int32_t any_code(bool is_signed, Random& random) {
    return static_cast<int32_t>(random.between(0, 255) - (is_signed ? 128 : 0));
  }

  void set_result(const OpCase& c) {
    const auto length = [&](int64_t size, int64_t reach, int64_t stride, int64_t padding,
                            int64_t more) {
      if (c.transposed) return (size - 1) * stride + reach - padding + more;
      if (c.same) return (size + stride - 1) / stride;
      return (size + padding - reach) / stride + 1;
    };
    result_ = {c.batch, c.n, length(c.h, conv_reach(c.kh, c.dh), c.sh, c.top + c.bottom, c.more_h),
               length(c.w, conv_reach(c.kw, c.dw), c.sw, c.left + c.right, c.more_w)};
  }

  // body(input pixel, input channel, weight) for all that one output is a sum of: inputs in order,
  // row by row.
  template <class Body>
  void each_tap(const OpCase& c, int64_t oy, int64_t ox, int64_t o, const Body& body) const {
    const auto before = [&](int64_t size, int64_t out, int64_t reach, int64_t stride,
                            int64_t padding) {
      return c.same ? std::max<int64_t>(0, (out - 1) * stride + reach - size) / 2 : padding;
    };
    const int64_t top = before(c.h, result_.height, conv_reach(c.kh, c.dh), c.sh, c.top);
    const int64_t left = before(c.w, result_.width, conv_reach(c.kw, c.dw), c.sw, c.left);
    const int64_t group_in = c.c / c.groups, group_out = c.n / c.groups;
    // The tap by which input `in` reaches output `out`; -1: none.
    const auto tap = [&](int64_t out, int64_t in, int64_t kernel, int64_t stride, int64_t dilation,
                         int64_t padding) -> int64_t {
      const int64_t far =
          c.transposed ? out + padding - in * stride : in - (out * stride - padding);
      return far >= 0 && far % dilation == 0 && far / dilation < kernel ? far / dilation : -1;
    };
    for (int64_t y = 0; y < c.h; ++y) {
      const int64_t i = tap(oy, y, c.kh, c.sh, c.dh, top);
      for (int64_t x = 0; x < c.w && i >= 0; ++x) {
        const int64_t j = tap(ox, x, c.kw, c.sw, c.dw, left);
        if (j < 0) continue;
        for (int64_t k = 0; k < group_in; ++k) {
          const int64_t in_channel = o / group_out * group_in + k;
          const int64_t kernel =
              c.transposed ? in_channel * group_out + o % group_out : o * group_in + k;
          body(y * c.w + x, in_channel, (kernel * c.kh + i) * c.kw + j);
        }
      }
    }
  }
};

// What makes sense together, of what is asked for.
void settle(OpCase& c) {
  const auto output = static_cast<OutputKind>(c.output);
  if (c.weights >= 2) {
    c.x = c.x == 3 ? 3 : 1;
    c.zeros = c.table = c.residual = 0;
    c.scales = 1;
    c.bias = c.bias ? 1 : 0;
    c.output = static_cast<int64_t>(OutputKind::kF32);
  } else if (c.x >= 2) {
    if (output == OutputKind::kS32) c.output = static_cast<int64_t>(OutputKind::kF32);
    c.x_signed = 0;
    c.bias = c.bias ? 1 : 0;
  }
  const auto settled = static_cast<OutputKind>(c.output);
  if (settled == OutputKind::kS32) c.clip = 0;
  if (settled == OutputKind::kF32 || settled == OutputKind::kS32) c.table = c.residual = 0;
  if (c.transposed) {
    c.same = 0;
    // Of what is cut, something is left; output padding is less than the stride or the dilation.
    c.more_h %= std::max(c.sh, c.dh);
    c.more_w %= std::max(c.sw, c.dw);
    const auto cut = [](int64_t whole, int64_t& before, int64_t& behind) {
      before = std::min(before, whole - 1);
      behind = std::min(behind, whole - 1 - before);
    };
    cut((c.h - 1) * c.sh + conv_reach(c.kh, c.dh) + c.more_h, c.top, c.bottom);
    cut((c.w - 1) * c.sw + conv_reach(c.kw, c.dw) + c.more_w, c.left, c.right);
  } else {
    c.more_h = c.more_w = 0;
    if (c.same) c.top = c.left = c.bottom = c.right = 0;
    c.bottom = std::max(c.bottom, conv_reach(c.kh, c.dh) - c.h - c.top);
    c.right = std::max(c.right, conv_reach(c.kw, c.dw) - c.w - c.left);
  }
}

OpCase random_op(Random& random) {
  OpCase c;
  c.batch = random.chance(3) ? random.between(2, 3) : 1;
  c.h = random.between(1, 9);
  c.w = random.between(1, 9);
  c.groups = 1;
  c.c = random.chance(2) ? random.pick(kChannels) : random.between(1, 24);
  c.n = random.between(1, random.chance(3) ? 40 : 12);
  if (random.chance(3)) set_random_groups(c, random);
  if (random.chance(8)) c.groups = c.c = c.n;  // depthwise
  const int64_t most = random.chance(8) ? 7 : 4;
  c.kh = random.between(1, most);
  c.kw = random.chance(2) ? c.kh : random.between(1, most);
  c.sh = random.chance(2) ? 1 : random.between(1, 4);
  c.sw = random.chance(2) ? c.sh : random.between(1, 4);
  c.dh = random.chance(3) ? random.between(1, 4) : 1;
  c.dw = random.chance(2) ? c.dh : random.between(1, 4);
  c.top = random.below(c.kh + 1);
  c.left = random.below(c.kw + 1);
  c.bottom = random.below(c.kh + 1);
  c.right = random.below(c.kw + 1);
  c.same = random.chance(4);
  c.transposed = random.chance(3);
  c.more_h = random.below(4);
  c.more_w = random.below(4);
  c.channels_last = random.below(2);
  c.x = random.chance(2) ? 0 : random.between(1, random.chance(3) ? 3 : 2);
  c.x_signed = random.below(2);
  c.weights = random.chance(6) ? random.between(2, 3) : random.chance(3) ? 1 : 0;
  c.zeros = random.chance(3) ? random.between(1, 2) : 0;
  c.scales = random.between(1, 2);
  c.bias = random.below(3);
  c.output = random.below(4);
  c.clip = random.below(3);
  c.table = random.chance(3) ? random.between(1, 2) : 0;
  c.residual = random.chance(3);
  c.sides = random.below(8);
  c.seed = random.below(1 << 30);
  settle(c);
  return c;
}

void test_operator(const KernelTable& table) {
  OpTest test;
  Random random(43);
  const int64_t before = running.cases;
  for (int i = 0; i < (in_qemu() ? 100 : 1500); ++i) test.check(table, random_op(random));
  // Groups that do not divide into equal pieces of a row vector, in images that end at a page.
  for (const int64_t groups : {5, 8, 11}) {
    for (int64_t outputs = 1; outputs <= (in_qemu() ? 3 : 7); ++outputs) {
      OpCase c = random_op(random);
      c.h = c.w = 10;
      c.groups = groups;
      c.c = groups * random.between(2, 8);
      c.n = groups * outputs;
      c.kh = c.kw = 3;
      c.dh = c.dw = c.top = c.left = c.bottom = c.right = 1;
      c.transposed = c.x = c.sides = 0;
      c.channels_last = 1;
      settle(c);
      test.check(table, c);
    }
  }
  std::printf("%-12s %6lld operators\n", table.info->name,
              static_cast<long long>(running.cases - before));
}

void test_conv(const KernelTable& table) {
  test_driver(table);
  test_float_driver(table);
  test_operator(table);
}

// An operator prepared for one table gives every other table's form.
void test_forms(const std::vector<const KernelTable*>& tables) {
  OpTest test;
  Random random(44);
  for (int i = 0; i < (in_qemu() ? 20 : 100); ++i) test.check_forms(tables, random_op(random));
}

bool repeat_case(const KernelTable& table, const std::string& line) {
  ConvCase c;
  FloatCase f;
  OpCase o;
  if (parse_case(line, c))
    DriverTest().check(table, c);
  else if (parse_case(line, f))
    FloatTest().check(table, f);
  else if (parse_case(line, o))
    OpTest().check(table, o);
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
