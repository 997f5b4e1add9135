// The kernels of 8-bit products and of quantization, for every table that this machine supports,
// against reference/ with ==; then every table against every other. The other families have a file
// each. See check.h for how to repeat one case.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "gemm_case.h"
#include "guard_page.h"
#include "reference/gemm.h"
#include "reference/pack.h"
#include "reference/quantize.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Of the 8-bit outputs, how many a clamp did not decide: a test of clamped outputs proves nothing.
struct Outputs {
  int64_t all = 0, inner = 0;
  void count(int32_t code, int32_t least, int32_t greatest) {
    ++all;
    inner += code > least && code < greatest;
  }
};

void require_inner(const Outputs& outputs, const char* what) {
  OCTAVO_CHECK(outputs.inner * 4 > outputs.all, "%s: %lld of %lld outputs are not clamped: vacuous",
               what, static_cast<long long>(outputs.inner), static_cast<long long>(outputs.all));
}

// ---- gemm
// ----------------------------------------------------------------------------------------

struct GemmTest {
  GemmRunner runner;
  Outputs outputs;

  void check(const KernelTable& table, const GemmCase& c) {
    CaseScope<GemmCase> scope(table, c);
    const GemmProblem problem = make_problem(c);
    const std::vector<uint8_t> expected = expected_output(c, problem);
    const std::vector<uint8_t> got = runner.run(table, c, problem);
    const std::string where = difference(c, got, expected);
    OCTAVO_CHECK(where.empty(), "gemm: %s", where.c_str());
    if (output_size(c.output) == 1 && (c.values == 0 || c.values == 7) && c.scales < 2) {
      const ReferenceEpilogue& e = problem.epilogue;
      const bool is_signed = e.output == GemmOutput::kS8;
      for (const uint8_t code : expected) {
        outputs.count(static_cast<int32_t>(code_value(code, is_signed)),
                      static_cast<int32_t>(e.lo) + e.zero_point,
                      static_cast<int32_t>(e.hi) + e.zero_point);
      }
    }
  }
};

// All but the sizes.
GemmCase random_gemm(Random& random) {
  GemmCase c;
  c.segments = 1;
  c.a_signed = random.below(2);
  c.b_signed = random.chance(3) ? 0 : 1;
  c.zp_a = random.below(4);
  c.zp_b = random.chance(2) ? random.below(3) : 0;
  c.zp_wide = random.chance(8);
  c.output = random.below(4);
  c.bias = random.below(2);
  c.clip = random.chance(2) ? random.below(4) : 0;
  c.row_scale_step = random.below(2);
  c.expanded = random.below(2);
  c.two_panels = random.below(2);
  c.prefetch = random.below(2);
  c.lda_extra = random.chance(2) ? random.below(40) : 0;
  c.ldc_extra = random.chance(2) ? random.below(20) : 0;
  const int64_t values[] = {0, 0, 0, 1, 6, 7};
  c.values = random.pick(values);
  c.scales = c.values == 7 ? 1 : random.chance(6) ? 2 : 0;
  c.sides = static_cast<int64_t>(random.next() & 0xffffff);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

std::vector<int64_t> depths(int64_t kr) {
  std::vector<int64_t> all;
  for (int64_t k = 0; k <= std::max<int64_t>(2 * kr + 1, 17); ++k) all.push_back(k);
  for (const int64_t k : {23, 31, 32, 33, 53, 64, 97, 127, 131, 257, 300}) all.push_back(k);
  return all;
}

void test_gemm(const KernelTable& table) {
  const InfoKernels& info = *table.info;
  const bool small = in_qemu();
  GemmTest test;
  Random random(1);
  const std::vector<int64_t> all_depths = depths(info.kr);
  const auto depth = [&] {
    return all_depths[static_cast<size_t>(random.below(static_cast<int64_t>(all_depths.size())))];
  };

  // Every number of rows by every number of columns.
  for (int64_t m = 1; m <= 2 * info.mr + 1; ++m) {
    for (int64_t n = 1; n <= 2 * info.nr; ++n) {
      for (int repeat = 0; repeat < (small ? 1 : 3); ++repeat) {
        GemmCase c = random_gemm(random);
        c.m = m;
        c.n = n;
        c.length = small ? random.below(3 * info.kr) : depth();
        test.check(table, c);
      }
    }
  }
  // Every depth by every kind of output and every edge of the tile, in one to three segments.
  const int64_t rows[] = {1, 2, 3, info.mr - 1, info.mr, info.mr + 1};
  const int64_t columns[] = {1, info.nv, info.nv + 1, info.nr - 1, info.nr, 2 * info.nr};
  for (const int64_t length : all_depths) {
    for (int64_t output = 0; output < 4; ++output) {
      for (int64_t segments = 1; segments <= 3; ++segments) {
        for (int repeat = 0; repeat < (small ? 1 : 6); ++repeat) {
          GemmCase c = random_gemm(random);
          c.m = std::max<int64_t>(1, random.pick(rows));
          c.n = std::max<int64_t>(1, random.pick(columns));
          c.length = length;
          c.segments = segments;
          c.pitch_extra = random.chance(2) ? random.below(30) : 0;
          // As in a convolution, rows may overlap.
          if (random.chance(4)) c.lda_extra = -random.below(length * segments + 1);
          c.output = output;
          test.check(table, c);
        }
      }
    }
  }
  // {min, max} by {min, max} at every K up to two tiles and more: nothing saturates on the way.
  for (const int64_t length : all_depths) {
    for (int64_t pair = 2; pair <= 6; ++pair) {
      for (int64_t kinds = 0; kinds < 4; ++kinds) {
        GemmCase c;
        c.m = length % 2 ? info.mr : 2;
        c.n = info.nr;
        c.segments = 1;
        c.length = length;
        c.a_signed = kinds & 1;
        c.b_signed = kinds >> 1;
        c.values = pair;
        c.expanded = length % 3 == 0;
        c.zp_a = pair % 4;
        test.check(table, c);
      }
    }
  }
  // Long enough that accumulators wrap: 70,000 * 255 * 127 > 2^31.
  for (int64_t pair = 2; pair <= 5 && !small; ++pair) {
    GemmCase c;
    c.m = 2;
    c.n = info.nv;
    c.segments = 1;
    c.length = 70001;
    c.b_signed = pair % 2;
    c.values = pair;
    c.zp_b = 1;
    test.check(table, c);
  }
  require_inner(test.outputs, "gemm");
}

// ---- pack
// ----------------------------------------------------------------------------------------

// order: 0 row-major, 1 transposed, 2 both strides above 1, 3 rows backwards, 4 columns backwards,
// 5 one row repeated (stride 0)
#define OCTAVO_PACK_FIELDS(F) F(k) F(n) F(order) F(gap) F(is_signed) F(sides) F(seed)
OCTAVO_CASE(PackCase, "pack", OCTAVO_PACK_FIELDS)

struct PackTest {
  GuardedBuffer b_, panel_, sums_, back_;

  void check(const KernelTable& table, const PackCase& c) {
    CaseScope<PackCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    const InfoKernels& info = *table.info;
    const auto side = [&](int bit) { return (c.sides >> bit) & 1 ? Side::kBegin : Side::kEnd; };
    const uint8_t flip = c.is_signed ? 0 : 0x80;
    const int64_t width = round_up(c.n, info.nv);
    int64_t rs = c.n + c.gap, cs = 1;
    if (c.order == 1) rs = 1, cs = c.k + c.gap;
    if (c.order == 2) cs = 3, rs = 3 * c.n + c.gap;
    if (c.order == 3) rs = -rs;
    if (c.order == 4) cs = -1;
    if (c.order == 5) rs = 0;
    // From the lowest to the highest byte that the strides reach.
    const int64_t row_reach = (c.k - 1) * rs, column_reach = (c.n - 1) * cs;
    const int64_t origin = -(std::min<int64_t>(row_reach, 0) + std::min<int64_t>(column_reach, 0));
    const int64_t extent =
        c.k > 0 ? origin + std::max<int64_t>(row_reach, 0) + std::max<int64_t>(column_reach, 0) + 1
                : 0;
    std::vector<uint8_t> bytes(static_cast<size_t>(extent));
    fill_operand(bytes, c.is_signed != 0, random.below(2), false, random);
    const uint8_t* b = b_.copy(bytes.data(), bytes.size(), side(0));
    if (c.k > 0) b += origin;

    const auto values = static_cast<size_t>(panel_values(c.k, width, info.kr));
    std::vector<int8_t> expected(values);
    std::vector<int32_t> expected_sums(static_cast<size_t>(width));
    reference_pack(b, rs, cs, c.k, c.n, width, info.kr, flip, expected.data(),
                   expected_sums.data());
    auto* panel = panel_.place_values<int8_t>(values, side(1));
    auto* sums = sums_.place_values<int32_t>(static_cast<size_t>(width), side(2));
    table.pack->pack(b, rs, cs, c.k, c.n, width, flip, panel, sums);
    for (size_t i = 0; i < values; ++i) {
      if (panel[i] != expected[i]) {
        return fail("pack: panel[%zu] is %d, must be %d", i, panel[i], expected[i]);
      }
    }
    for (size_t i = 0; i < expected_sums.size(); ++i) {
      if (sums[i] != expected_sums[i]) {
        return fail("pack: col_sum[%zu] is %d, must be %d", i, sums[i], expected_sums[i]);
      }
    }
    OCTAVO_CHECK(panel_.intact() && sums_.intact(), "pack wrote beside its room");

    sums = sums_.place_values<int32_t>(static_cast<size_t>(width), side(2));
    constexpr int32_t kBefore = 1000;  // it adds to what is there
    std::fill(sums, sums + width, kBefore);
    table.pack->column_sums(panel, (c.k + info.kr - 1) / info.kr, width, sums);
    for (size_t i = 0; i < expected_sums.size(); ++i) {
      if (sums[i] != expected_sums[i] + kBefore) {
        return fail("column_sums: column %zu is %d, must be %d", i, sums[i],
                    expected_sums[i] + kBefore);
      }
    }
    OCTAVO_CHECK(sums_.intact(), "column_sums wrote beside its room");

    if (c.order == 5) return;  // nothing to write back to
    uint8_t* back = back_.place(bytes.size(), side(3));
    std::memset(back, 0x3c, bytes.size());
    std::vector<uint8_t> plain(bytes.size(), 0x3c);
    const int64_t at = c.k > 0 ? origin : 0;
    for (int64_t i = 0; i < c.k; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        const auto here = static_cast<size_t>(at + i * rs + j * cs);
        plain[here] = bytes[here];
      }
    }
    table.pack->unpack(panel, c.k, c.n, width, flip, back + at, rs, cs);
    for (size_t i = 0; i < plain.size(); ++i) {
      if (back[i] != plain[i]) {
        return fail("unpack: byte %zu is %d, must be %d", i, back[i], plain[i]);
      }
    }
    OCTAVO_CHECK(back_.intact(), "unpack wrote beside its room");
  }
};

void test_pack(const KernelTable& table) {
  const InfoKernels& info = *table.info;
  const bool small = in_qemu();
  PackTest test;
  Random random(2);
  const std::vector<int64_t> all_depths = depths(info.kr);
  for (int64_t n = 1; n <= info.nr; ++n) {
    for (size_t i = 0; i < all_depths.size(); ++i) {
      const auto step = static_cast<int64_t>(i) + n;
      if (small && step % 7) continue;
      for (int64_t order = 0; order < 6; ++order) {
        PackCase c;
        c.n = n;
        c.k = all_depths[i];
        c.order = order;
        c.gap = random.chance(2) ? random.below(70) : 0;
        c.is_signed = random.below(2);
        c.sides = random.below(16);
        c.seed = static_cast<int64_t>(random.next() >> 1);
        test.check(table, c);
      }
    }
  }
  if (!small) {
    PackCase c;
    c.n = info.nr;
    c.k = 20011;  // column sums beyond 16 bits, rows far apart
    c.gap = 4096 - c.n;
    for (c.is_signed = 0; c.is_signed < 2; ++c.is_signed) {
      for (c.order = 0; c.order < 2; ++c.order) test.check(table, c);
    }
  }
}

// ---- quantize
// ------------------------------------------------------------------------------------

// kind: 0 quantize, 1 dequantize, 2 requantize, 3 minmax, 4 quantize_rows, 5 row_sum
// values: 0 about the range, 1 ties, 2 next to ties, 3 special, 4 any bits (or, of codes and
// accumulators: 0 any, 1 extremes, 2 small)
// scales: 0 usual, 1 powers of two, 2 extreme
// clang-format off: it never settles on these
#define OCTAVO_ELEMENT_FIELDS(F) \
  F(kind) F(n) F(rows) F(gap) F(is_signed) F(scale_step) F(zp_step) F(bias) F(clip) \
  F(values) F(scales) F(zero_point) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(ElementCase, "element", OCTAVO_ELEMENT_FIELDS)

float any_float(Random& random) {
  const auto bits = static_cast<uint32_t>(random.next());
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float any_scale(const ElementCase& c, Random& random) {
  const float extremes[] = {1.4e-45f, 1e-40f, 0x1p-126f, 1e-30f, 1e30f, 3.4e38f, 0.5f};
  if (c.scales == 1) return std::ldexp(1.0f, static_cast<int>(random.between(-8, 8)));
  if (c.scales == 2) return random.pick(extremes);
  return static_cast<float>(0.001 + random.unit());
}

float any_value(const ElementCase& c, float scale, int32_t zero_point, Random& random) {
  const float specials[] = {kNan,          -kNan,          kInfinity,     -kInfinity, 0.0f,
                            -0.0f,         1.4e-45f,       -1e-40f,       3.4e38f,    -3.4e38f,
                            4294967296.0f, -2147483648.0f, 2147483648.0f, 0.5f,       -0.5f,
                            1.5f,          0.49999997f,    8388609.0f};
  const double least = (c.is_signed ? -128.0 : 0.0) - zero_point;
  const auto code = static_cast<float>(std::floor(least - 10 + 275 * random.unit()));
  const float tie = (code + 0.5f) * scale;
  switch (c.values) {
    case 1:
      return tie;
    case 2:
      return std::nextafter(tie, random.chance(2) ? -kInfinity : kInfinity);
    case 3:
      return random.chance(2) ? random.pick(specials) : tie;
    case 4:
      return any_float(random);
    default:
      return static_cast<float>((least - 20 + 295 * random.unit()) * double{scale});
  }
}

int32_t any_zero_point(bool is_signed, Random& random) {
  return static_cast<int32_t>(random.between(0, 255) - (is_signed ? 128 : 0));
}

bool same_float(float x, float y) {
  return std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y));
}

class ElementTest {
 public:
  Outputs outputs;

  // The outputs as bytes, so that tables can be compared.
  std::vector<uint8_t> check(const KernelTable& table, const ElementCase& c) {
    CaseScope<ElementCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    switch (c.kind) {
      case 0:
        return quantize(table, c, random);
      case 1:
        return dequantize(table, c, random);
      case 2:
        return requantize(table, c, random);
      case 3:
        return minmax(table, c, random);
      case 4:
        return quantize_rows(table, c, random);
      default:
        return row_sum(table, c, random);
    }
  }

 private:
  GuardedBuffer in_, out_, scale_, zero_point_, bias_, out_scale_, out_zero_point_;

  static Side side(const ElementCase& c, int bit) {
    return (c.sides >> bit) & 1 ? Side::kBegin : Side::kEnd;
  }

  struct Parameters {
    std::vector<float> scale;
    std::vector<int32_t> zero_point;
  };
  Parameters parameters(const ElementCase& c, Random& random) {
    Parameters p;
    for (int64_t i = 0; i < (c.scale_step ? c.n : 1); ++i) p.scale.push_back(any_scale(c, random));
    for (int64_t i = 0; i < (c.zp_step ? c.n : 1); ++i) {
      p.zero_point.push_back(i == 0 ? static_cast<int32_t>(c.zero_point)
                                    : any_zero_point(c.is_signed != 0, random));
    }
    return p;
  }

  std::vector<uint8_t> codes_checked(const uint8_t* q, const std::vector<uint8_t>& expected,
                                     const char* what, bool is_signed) {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (q[i] != expected[i]) {
        fail("%s: code %zu is %d, must be %d", what, i,
             static_cast<int>(code_value(q[i], is_signed)),
             static_cast<int>(code_value(expected[i], is_signed)));
        break;
      }
    }
    OCTAVO_CHECK(out_.intact(), "%s wrote beside its room", what);
    return {q, q + expected.size()};
  }

  std::vector<uint8_t> quantize(const KernelTable& table, const ElementCase& c, Random& random) {
    const auto n = static_cast<size_t>(c.n);
    const Parameters p = parameters(c, random);
    std::vector<float> x(n);
    std::vector<uint8_t> expected(n);
    for (size_t i = 0; i < n; ++i) {
      x[i] = any_value(c, p.scale[c.scale_step ? i : 0], p.zero_point[c.zp_step ? i : 0], random);
    }
    reference_quantize(x.data(), c.n, p.scale.data(), c.scale_step, p.zero_point.data(), c.zp_step,
                       c.is_signed != 0, expected.data());
    const float* in = in_.copy(x.data(), n, side(c, 0));
    const float* scale = scale_.copy(p.scale.data(), p.scale.size(), side(c, 1));
    const int32_t* zp = zero_point_.copy(p.zero_point.data(), p.zero_point.size(), side(c, 2));
    uint8_t* q = out_.place(n, side(c, 3));
    table.quantize->quantize(in, c.n, scale, c.scale_step, zp, c.zp_step, c.is_signed != 0, q);
    for (const uint8_t code : expected) {
      if (c.values > 2) break;
      outputs.count(static_cast<int32_t>(code_value(code, c.is_signed != 0)),
                    c.is_signed ? -128 : 0, c.is_signed ? 127 : 255);
    }
    return codes_checked(q, expected, "quantize", c.is_signed != 0);
  }

  std::vector<uint8_t> dequantize(const KernelTable& table, const ElementCase& c, Random& random) {
    const auto n = static_cast<size_t>(c.n);
    const Parameters p = parameters(c, random);
    std::vector<uint8_t> q(n);
    for (size_t i = 0; i < n; ++i) {
      q[i] = static_cast<uint8_t>(n >= 256 ? i : static_cast<size_t>(random.next()));
    }
    std::vector<float> expected(n);
    reference_dequantize(q.data(), c.n, c.is_signed != 0, p.scale.data(), c.scale_step,
                         p.zero_point.data(), c.zp_step, expected.data());
    const uint8_t* in = in_.copy(q.data(), n, side(c, 0));
    const float* scale = scale_.copy(p.scale.data(), p.scale.size(), side(c, 1));
    const int32_t* zp = zero_point_.copy(p.zero_point.data(), p.zero_point.size(), side(c, 2));
    auto* x = out_.place_values<float>(n, side(c, 3));
    table.quantize->dequantize(in, c.n, c.is_signed != 0, scale, c.scale_step, zp, c.zp_step, x);
    for (size_t i = 0; i < n; ++i) {
      if (!same_float(x[i], expected[i])) {
        fail("dequantize: value %zu is %a, must be %a", i, static_cast<double>(x[i]),
             static_cast<double>(expected[i]));
        break;
      }
    }
    OCTAVO_CHECK(out_.intact(), "dequantize wrote beside its room");
    const auto* bytes = reinterpret_cast<const uint8_t*>(x);
    return {bytes, bytes + n * sizeof(float)};
  }

  std::vector<uint8_t> requantize(const KernelTable& table, const ElementCase& c, Random& random) {
    const auto n = static_cast<size_t>(c.n);
    const float tie_scales[] = {0.5f, 0.25f, 1.5f, 0.125f};
    std::vector<float> multiplier;
    for (int64_t i = 0; i < (c.scale_step ? c.n : 1); ++i) {
      multiplier.push_back(c.values == 2   ? random.pick(tie_scales)
                           : c.scales == 2 ? any_scale(c, random)
                                           : static_cast<float>(1e-4 + 0.004 * random.unit()));
    }
    const int32_t marks[] = {INT32_MIN,     INT32_MIN + 1, -1,       0,        1,
                             INT32_MAX - 1, INT32_MAX,     16777217, -16777219};
    const auto any_acc = [&] {
      if (c.values == 1) return random.pick(marks);
      const int64_t reach = c.values == 2 ? 300 : 60000;
      return static_cast<int32_t>(random.between(-reach, reach));
    };
    std::vector<int32_t> acc(n), bias;
    for (int32_t& value : acc) value = any_acc();
    if (c.bias) {
      for (int64_t i = 0; i < (c.zp_step ? c.n : 1); ++i) bias.push_back(any_acc());
    }
    const auto zp = static_cast<int32_t>(c.zero_point);
    const int64_t least = (c.is_signed ? -128 : 0) - zp;
    const int64_t lo = c.clip ? random.between(least, least + 255) : least;
    const int64_t hi = c.clip ? random.between(lo, least + 255) : least + 255;
    std::vector<uint8_t> expected(n);
    reference_requantize(acc.data(), c.n, c.bias ? bias.data() : nullptr, c.zp_step,
                         multiplier.data(), c.scale_step, static_cast<float>(lo),
                         static_cast<float>(hi), zp, c.is_signed != 0, expected.data());
    const int32_t* in = in_.copy(acc.data(), n, side(c, 0));
    const float* scale = scale_.copy(multiplier.data(), multiplier.size(), side(c, 1));
    const int32_t* biases = bias_.copy(bias.data(), bias.size(), side(c, 2));
    uint8_t* q = out_.place(n, side(c, 3));
    table.quantize->requantize(in, c.n, c.bias ? biases : nullptr, c.zp_step, scale, c.scale_step,
                               static_cast<float>(lo), static_cast<float>(hi), zp, c.is_signed != 0,
                               q);
    for (const uint8_t code : expected) {
      if (c.values == 1 || c.scales == 2) break;
      outputs.count(static_cast<int32_t>(code_value(code, c.is_signed != 0)),
                    static_cast<int32_t>(lo) + zp, static_cast<int32_t>(hi) + zp);
    }
    return codes_checked(q, expected, "requantize", c.is_signed != 0);
  }

  std::vector<uint8_t> minmax(const KernelTable& table, const ElementCase& c, Random& random) {
    const auto n = static_cast<size_t>(c.n);
    std::vector<float> x(n);
    for (float& value : x) {
      value = any_value(c, 1.0f, 0, random);
      // Mostly finite, or the answer would nearly always be "no".
      if (!std::isfinite(value) && !random.chance(c.n)) value = 1.0f;
      if (c.gap % 4 == 1) value = random.chance(2) ? 0.0f : -0.0f;
      if (c.clip == 1) value = std::fabs(value);
      if (c.clip == 2) value = -std::fabs(value);
    }
    float least = 0, greatest = 0, expected_least = 0, expected_greatest = 0;
    const bool expected = reference_minmax(x.data(), c.n, &expected_least, &expected_greatest);
    const float* in = in_.copy(x.data(), n, side(c, 0));
    const bool got = table.quantize->minmax(in, c.n, &least, &greatest);
    OCTAVO_CHECK(got == expected, "minmax answers %d, must be %d", got, expected);
    std::vector<uint8_t> bytes(1, got);
    if (expected && got) {
      OCTAVO_CHECK(same_float(least, expected_least) && same_float(greatest, expected_greatest),
                   "minmax is (%a, %a), must be (%a, %a)", static_cast<double>(least),
                   static_cast<double>(greatest), static_cast<double>(expected_least),
                   static_cast<double>(expected_greatest));
      const float pair[] = {least, greatest};
      const auto* begin = reinterpret_cast<const uint8_t*>(pair);
      bytes.insert(bytes.end(), begin, begin + sizeof pair);
    }
    return bytes;
  }

  std::vector<uint8_t> quantize_rows(const KernelTable& table, const ElementCase& c,
                                     Random& random) {
    const auto rows = static_cast<size_t>(c.rows), k = static_cast<size_t>(c.n);
    const auto ldx = static_cast<size_t>(c.n + c.gap), ldq = static_cast<size_t>(c.n + c.gap / 2);
    std::vector<float> x(rows == 0 ? 0 : (rows - 1) * ldx + k);
    for (size_t row = 0; row < rows; ++row) {
      const float scale = any_scale(c, random);
      const bool zeros = random.chance(8);
      const auto bad = random.chance(6) ? random.below(c.n + 1) : -1;
      for (size_t i = 0; i < k; ++i) {
        float value = zeros ? (random.chance(2) ? 0.0f : -0.0f) : any_value(c, scale, 0, random);
        if (!std::isfinite(value)) value = scale;
        if (c.clip == 1) value = std::fabs(value);
        if (c.clip == 2) value = -std::fabs(value);
        if (static_cast<int64_t>(i) == bad) value = random.chance(2) ? kNan : -kInfinity;
        x[row * ldx + i] = value;
      }
    }
    std::vector<uint8_t> expected(rows == 0 ? 0 : (rows - 1) * ldq + k);
    std::vector<float> expected_scale(rows);
    std::vector<int32_t> expected_zp(rows);
    reference_quantize_rows(x.data(), static_cast<int64_t>(ldx), c.rows, c.n, expected.data(),
                            static_cast<int64_t>(ldq), expected_scale.data(), expected_zp.data());
    const float* in = in_.copy(x.data(), x.size(), side(c, 0));
    uint8_t* q = out_.place(expected.size(), side(c, 1));
    auto* scale = out_scale_.place_values<float>(rows, side(c, 2));
    auto* zp = out_zero_point_.place_values<int32_t>(rows, side(c, 3));
    table.quantize->quantize_rows(in, static_cast<int64_t>(ldx), c.rows, c.n, q,
                                  static_cast<int64_t>(ldq), scale, zp);
    std::vector<uint8_t> bytes;
    for (size_t row = 0; row < rows; ++row) {
      const bool finite = !std::isnan(expected_scale[row]);
      bytes.push_back(finite);
      if (!same_float(scale[row], expected_scale[row])) {
        fail("quantize_rows: scale of row %zu is %a, must be %a", row,
             static_cast<double>(scale[row]), static_cast<double>(expected_scale[row]));
        break;
      }
      if (!finite) continue;  // its codes mean nothing
      if (zp[row] != expected_zp[row]) {
        fail("quantize_rows: zero point of row %zu is %d, must be %d", row, zp[row],
             expected_zp[row]);
        break;
      }
      for (size_t i = row * ldq; i < row * ldq + k; ++i) {
        if (q[i] == expected[i]) continue;
        fail("quantize_rows: code %zu of row %zu is %d, must be %d", i - row * ldq, row, q[i],
             expected[i]);
        return bytes;
      }
      bytes.insert(bytes.end(), q + row * ldq, q + row * ldq + k);
      for (size_t i = k; i < ldq && row + 1 < rows; ++i) {
        if (q[row * ldq + i] != GuardedBuffer::kCanary) {
          fail("quantize_rows wrote beyond column k of row %zu", row);
          return bytes;
        }
      }
    }
    OCTAVO_CHECK(out_.intact() && out_scale_.intact() && out_zero_point_.intact(),
                 "quantize_rows wrote beside its room");
    return bytes;
  }

  std::vector<uint8_t> row_sum(const KernelTable& table, const ElementCase& c, Random& random) {
    std::vector<uint8_t> a(static_cast<size_t>(c.n));
    fill_operand(a, c.is_signed != 0, c.values == 1 ? random.between(2, 6) : 0, true, random);
    const int32_t expected = reference_row_sum(a.data(), c.n, c.is_signed != 0);
    const uint8_t* in = in_.copy(a.data(), a.size(), side(c, 0));
    const int32_t got = table.quantize->row_sum(in, c.n, c.is_signed != 0);
    OCTAVO_CHECK(got == expected, "row_sum is %d, must be %d", got, expected);
    std::vector<uint8_t> bytes(sizeof got);
    std::memcpy(bytes.data(), &got, sizeof got);
    return bytes;
  }
};

// All but kind and size.
ElementCase random_element(Random& random) {
  ElementCase c;
  c.is_signed = random.below(2);
  c.scale_step = random.below(2);
  c.zp_step = random.below(2);
  c.bias = random.below(2);
  c.clip = random.chance(2) ? random.below(3) : 0;
  c.values = random.below(5);
  c.scales = c.values == 4 ? 2 : random.below(2);
  c.zero_point = any_zero_point(c.is_signed != 0, random);
  c.rows = random.chance(8) ? random.between(6, 150) : random.between(1, 5);
  c.gap = random.chance(2) ? random.below(40) : 0;
  c.sides = random.below(16);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

void test_quantize(const KernelTable& table) {
  const bool small = in_qemu();
  ElementTest test;
  Random random(3);
  std::vector<int64_t> sizes;
  for (int64_t n = 0; n <= 129; ++n) sizes.push_back(n);
  for (const int64_t n : {191, 192, 193, 251, 256, 257, 509, 1021}) sizes.push_back(n);
  for (const int64_t n : sizes) {
    for (int64_t kind = 0; kind < 6; ++kind) {
      for (int repeat = 0; repeat < (small ? 2 : 24); ++repeat) {
        ElementCase c = random_element(random);
        c.kind = kind;
        c.n = n;
        if (kind == 5) c.values %= 2;
        if (kind == 2) c.values %= 3;
        test.check(table, c);
      }
    }
  }
  // Every zero point.
  for (int64_t code = 0; code < 256; ++code) {
    for (int64_t kind = 0; kind < 3; ++kind) {
      ElementCase c = random_element(random);
      c.kind = kind;
      c.n = 256 + code % 3;
      c.zero_point = code - (c.is_signed ? 128 : 0);
      c.zp_step = 0;
      c.values = kind == 2 ? 2 : code % 3;
      c.scales = code % 2;
      c.clip = 0;
      test.check(table, c);
    }
  }
  // A NaN or an infinity at every position.
  for (const int64_t n : {1, 2, 3, 5, 7, 16, 33, 64, 130}) {
    GuardedBuffer buffer;
    for (int64_t bad = 0; bad < n; ++bad) {
      for (const float value : {kNan, kInfinity, -kInfinity}) {
        std::vector<float> x(static_cast<size_t>(n), 0.25f);
        x[static_cast<size_t>(bad)] = value;
        float least, greatest;
        const float* in = buffer.copy(x.data(), x.size(), Side::kEnd);
        OCTAVO_CHECK(!table.quantize->minmax(in, n, &least, &greatest),
                     "minmax misses %f at %lld of %lld", static_cast<double>(value),
                     static_cast<long long>(bad), static_cast<long long>(n));
        std::vector<uint8_t> q(x.size());
        float scale = 1;
        int32_t zero_point;
        table.quantize->quantize_rows(in, n, 1, n, q.data(), n, &scale, &zero_point);
        OCTAVO_CHECK(std::isnan(scale), "quantize_rows misses %f at %lld of %lld",
                     static_cast<double>(value), static_cast<long long>(bad),
                     static_cast<long long>(n));
      }
    }
  }
  // Ten times 2^32 at scale 0.5 and zero point 1: out of every integer's range before the clamp.
  {
    const std::vector<float> x(10, 4294967296.0f);
    const float scale = 0.5f;
    const int32_t zero_point = 1;
    std::vector<uint8_t> q(x.size());
    table.quantize->quantize(x.data(), 10, &scale, 0, &zero_point, 0, true, q.data());
    for (const uint8_t code : q) OCTAVO_CHECK(code == 127, "2^32 gives code %d, not 127", code);
  }
  // A row of finite values whose range is not.
  {
    const float x[] = {3.4e38f, -3.4e38f, 0.0f, 1e38f};
    uint8_t q[4], expected[4];
    float scale, expected_scale;
    int32_t zero_point, expected_zero_point;
    reference_quantize_rows(x, 4, 1, 4, expected, 4, &expected_scale, &expected_zero_point);
    table.quantize->quantize_rows(x, 4, 1, 4, q, 4, &scale, &zero_point);
    OCTAVO_CHECK(scale == expected_scale && zero_point == expected_zero_point &&
                     std::memcmp(q, expected, 4) == 0,
                 "quantize_rows of an infinite range");
  }
  // Rows longer than what stays in L1.
  for (const int64_t k : {4095, 8191, 8192, 8193, 20011}) {
    ElementCase c = random_element(random);
    c.kind = 4;
    c.n = k;
    c.rows = small ? 2 : 5;
    test.check(table, c);
  }
  // Sums that pass 2^31, and long ones.
  for (const int64_t n : {4099, 33025, 8500000, 17000000}) {
    if (small && n > 10000) continue;
    ElementCase c;
    c.kind = 5;
    c.n = n;
    c.values = 1;
    for (c.is_signed = 0; c.is_signed < 2; ++c.is_signed) {
      for (c.seed = 0; c.seed < 5; ++c.seed) test.check(table, c);
    }
  }
  require_inner(test.outputs, "quantize");
}

// ---- info
// ----------------------------------------------------------------------------------------

void test_info(const KernelTable& table) {
  const InfoKernels& info = *table.info;
  OCTAVO_CHECK(find_table(info.name) == &table, "find_table(\"%s\") finds another", info.name);
  OCTAVO_CHECK(info.kr == 1 || info.kr == 2 || info.kr == 4 || info.kr == 8 || info.test_only,
               "kr is %d", info.kr);
  OCTAVO_CHECK(info.nv > 0 && info.nr > 0 && info.nr % info.nv == 0, "nr %d, nv %d", info.nr,
               info.nv);
  OCTAVO_CHECK(info.mr > 0 && info.mc >= info.mr, "mr %d, mc %d", info.mr, info.mc);
  OCTAVO_CHECK((info.a_bytes == 2) == (table.gemm->prepare_a != nullptr),
               "a_bytes is %d, prepare_a is %s", info.a_bytes,
               table.gemm->prepare_a ? "there" : "null");
  OCTAVO_CHECK((info.b_bytes == 2) == (table.gemm->expand_b != nullptr),
               "b_bytes is %d, expand_b is %s", info.b_bytes,
               table.gemm->expand_b ? "there" : "null");
  const int64_t once = info.peak(1);
  OCTAVO_CHECK(once > 0 && info.peak(1000) == 1000 * once, "peak counts wrongly");
}

// ---- all of them
// ---------------------------------------------------------------------------------

// Cases that name no table's sizes, on every table: equal bytes, whoever computed them.
void test_tables_agree(const std::vector<const KernelTable*>& tables) {
  GemmRunner runner;
  ElementTest elements;
  Outputs outputs;
  Random random(4);
  const int64_t rounds = in_qemu() ? 100 : 1500;
  for (int64_t i = 0; i < rounds; ++i) {
    GemmCase c = random_gemm(random);
    c.m = random.between(1, 30);
    c.n = random.between(1, 140);
    c.segments = random.chance(4) ? random.between(2, 3) : 1;
    c.length = random.between(0, 80);
    c.pitch_extra = random.below(10);
    const GemmProblem problem = make_problem(c);
    ElementCase element = random_element(random);
    element.kind = i % 6;
    element.n = random.between(0, 300);
    if (element.kind == 2) element.values %= 3;
    std::vector<uint8_t> first, first_element;
    for (const KernelTable* table : tables) {
      std::vector<uint8_t> product, codes;
      {
        CaseScope<GemmCase> scope(*table, c);
        product = runner.run(*table, c, problem);
        if (table == tables[0]) first = product;
        const std::string where = difference(c, product, first);
        OCTAVO_CHECK(where.empty(), "gemm differs from %s: %s", tables[0]->info->name,
                     where.c_str());
      }
      codes = elements.check(*table, element);
      if (table == tables[0]) first_element = codes;
      CaseScope<ElementCase> scope(*table, element);
      OCTAVO_CHECK(codes == first_element, "element kernel %lld differs from %s",
                   static_cast<long long>(element.kind), tables[0]->info->name);
    }
    if (output_size(c.output) == 1 && c.scales < 2 && (c.values == 0 || c.values == 7)) {
      const ReferenceEpilogue& e = problem.epilogue;
      for (const uint8_t code : first) {
        outputs.count(static_cast<int32_t>(code_value(code, e.output == GemmOutput::kS8)),
                      static_cast<int32_t>(e.lo) + e.zero_point,
                      static_cast<int32_t>(e.hi) + e.zero_point);
      }
    }
  }
  require_inner(outputs, "tables agree");
}

bool repeat_case(const KernelTable& table, const std::string& line) {
  GemmCase gemm;
  PackCase pack;
  ElementCase element;
  if (parse_case(line, gemm)) {
    GemmTest().check(table, gemm);
  } else if (parse_case(line, pack)) {
    PackTest().check(table, pack);
  } else if (parse_case(line, element)) {
    ElementTest().check(table, element);
  } else {
    return false;
  }
  return true;
}

void test_table(const KernelTable& table) {
  constexpr struct {
    const char* family;
    void (*test)(const KernelTable&);
  } tests[] = {
      {"info", test_info}, {"gemm", test_gemm}, {"pack", test_pack}, {"quantize", test_quantize}};
  for (const auto& [family, test] : tests) {
    const int64_t before = running.cases;
    test(table);
    std::printf("%-12s %-9s %8lld cases\n", table.info->name, family,
                static_cast<long long>(running.cases - before));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  return run_tests(argc, argv, test_table, test_tables_agree, repeat_case);
}
