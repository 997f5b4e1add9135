// One product as a list of numbers, its operands made from a seed, and the least driver that can
// run it on any table: what it must give is reference_gemm of the plain operands, so the algebra
// of flips and zero points (kernels/gemm.h) is tested with the kernel. Every operand lies against
// an unmapped page.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "guard_page.h"
#include "reference/gemm.h"
#include "reference/pack.h"
#include "reference/quantize.h"

namespace octavo {

// zp_a: 0 none, 1 of all rows (in col_init), 2 of all rows but given per row, 3 of each row
// zp_b: 0 none, 1 of all columns, 2 of each column; zp_wide: beyond 8 bits
// clip: 0 the whole range, 1 tighter (float output: 0 none, 1 relu, 2 both ends, 3 above only)
// values: 0 any, 1 {-128,-127,0,127,255}, 2-5 {min,max} x {min,max}, 6 those at random, 7 small
// scales: 0 usual, 1 that make ties, 2 extreme
// sides: bit i: operand i begins at a page, else it ends at one
// clang-format off: it never settles on these
#define OCTAVO_GEMM_FIELDS(F) \
  F(m) F(n) F(segments) F(length) F(pitch_extra) F(lda_extra) F(a_signed) F(b_signed) \
  F(zp_a) F(zp_b) F(zp_wide) F(output) F(bias) F(clip) F(row_scale_step) F(expanded) \
  F(two_panels) F(prefetch) F(ldc_extra) F(values) F(scales) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(GemmCase, "gemm", OCTAVO_GEMM_FIELDS)

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

inline size_t output_size(int64_t output) {
  const auto kind = static_cast<GemmOutput>(output);
  return kind == GemmOutput::kS32 || kind == GemmOutput::kF32 ? 4 : 1;
}

struct GemmProblem {
  int64_t k = 0, pitch = 0, lda = 0;
  std::vector<uint8_t> a;  // from the first row's begin to the last row's end
  std::vector<uint8_t> b;  // k x n, row-major
  std::vector<int32_t> a_zero_point, b_zero_point, bias_s32;
  std::vector<float> multiplier, row_scale, bias_f32;
  ReferenceEpilogue epilogue;  // without its arrays
};

inline void fill_operand(std::vector<uint8_t>& bytes, bool is_signed, int64_t values, bool is_a,
                         Random& random) {
  const uint8_t least = is_signed ? 0x80 : 0, greatest = is_signed ? 0x7f : 0xff;
  const uint8_t marks[] = {least, static_cast<uint8_t>(least + 1), 0, 0x7f, greatest, 0x80, 1};
  const bool fixed_greatest = is_a ? values == 4 || values == 5 : values == 3 || values == 5;
  for (uint8_t& byte : bytes) {
    switch (values) {
      case 1:
        byte = random.pick(marks);
        break;
      case 2:
      case 3:
      case 4:
      case 5:
        byte = fixed_greatest ? greatest : least;
        break;
      case 6:
        byte = random.chance(2) ? greatest : least;
        break;
      case 7:
        byte = static_cast<uint8_t>(is_signed ? random.between(-2, 2) : random.between(0, 3));
        break;
      default:
        byte = static_cast<uint8_t>(random.next());
    }
  }
}

// How far from zero sums of k products get: their mean and a standard deviation of uniform bytes.
inline double sum_spread(int64_t k, bool a_signed, int32_t za, bool b_signed, int32_t zb) {
  const double mean_a = (a_signed ? -0.5 : 127.5) - za, mean_b = (b_signed ? -0.5 : 127.5) - zb;
  const double depth = static_cast<double>(k);
  return 1 + depth * std::fabs(mean_a * mean_b) +
         74 * std::sqrt(depth * (mean_a * mean_a + mean_b * mean_b + 74 * 74));
}

inline GemmProblem make_problem(const GemmCase& c) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Random random(static_cast<uint64_t>(c.seed));
  GemmProblem p;
  p.k = c.segments * c.length;
  p.pitch = c.length + c.pitch_extra;
  const int64_t span = p.k > 0 ? (c.segments - 1) * p.pitch + c.length : 0;
  p.lda = std::max<int64_t>(span + c.lda_extra, 0);
  p.a.resize(static_cast<size_t>(c.m > 0 && span > 0 ? (c.m - 1) * p.lda + span : 0));
  p.b.resize(static_cast<size_t>(p.k * c.n));
  fill_operand(p.a, c.a_signed != 0, c.values, true, random);
  fill_operand(p.b, c.b_signed != 0, c.values, false, random);

  const auto zero_point = [&](bool is_signed) {
    if (c.zp_wide) return static_cast<int32_t>(random.between(-100000, 100000));
    return static_cast<int32_t>(random.between(0, 255) - (is_signed ? 128 : 0));
  };
  const int32_t za = zero_point(c.a_signed != 0), zb = zero_point(c.b_signed != 0);
  for (int64_t i = 0; i < c.m; ++i) {
    p.a_zero_point.push_back(c.zp_a == 0 ? 0 : c.zp_a == 3 ? zero_point(c.a_signed != 0) : za);
  }
  const double spread =
      c.values == 7 ? 2 * std::sqrt(static_cast<double>(p.k) + 1)
                    : sum_spread(p.k, c.a_signed, c.zp_a ? za : 0, c.b_signed, c.zp_b ? zb : 0);
  const float tie_scales[] = {0.5f, 0.25f, 1.5f, 1.0f, 2.5f, 0.125f};
  const float extreme_scales[] = {1.4e-45f, 1e-40f, 0x1p-126f, 1e-30f, 1.0f, 1e10f, 3e38f};
  const auto scale = [&](double usual) {
    if (c.scales == 1) return random.pick(tie_scales);
    if (c.scales == 2) return random.pick(extreme_scales);
    return static_cast<float>(usual * std::exp2(4 * random.unit() - 2));
  };
  const bool is_float = static_cast<GemmOutput>(c.output) == GemmOutput::kF32;
  for (int64_t i = 0; i < c.n; ++i) {
    p.b_zero_point.push_back(c.zp_b == 0 ? 0 : c.zp_b == 2 ? zero_point(c.b_signed != 0) : zb);
    const int64_t reach = static_cast<int64_t>(std::min(spread, 1e9)) + 1;
    p.bias_s32.push_back(c.bias ? static_cast<int32_t>(random.chance(16)
                                                           ? static_cast<int32_t>(random.next())
                                                           : random.between(-reach, reach))
                                : 0);
    p.multiplier.push_back(scale(is_float ? 0.01 : 60 / spread));
    p.bias_f32.push_back(random.chance(4) ? -0.0f : static_cast<float>(random.unit() * 20 - 10));
  }
  for (int64_t i = 0; i < (c.row_scale_step ? c.m : 1); ++i) {
    p.row_scale.push_back(c.scales == 2 && random.chance(8)
                              ? std::numeric_limits<float>::quiet_NaN()
                              : scale(10 / spread));
  }

  ReferenceEpilogue& e = p.epilogue;
  e.output = static_cast<GemmOutput>(c.output);
  e.row_scale_step = c.row_scale_step;
  if (is_float) {
    const float ends[] = {-1.0f, -0.0f, 0.0f, 0.25f, 3.0f};
    e.activate = c.clip != 0;
    e.lo = c.clip == 1 ? 0.0f : c.clip == 2 ? random.pick(ends) : -kInfinity;
    e.hi = c.clip == 1 ? kInfinity : e.lo == -kInfinity ? 6.0f : e.lo + 6.0f;
  } else {
    const bool is_signed = e.output == GemmOutput::kS8;
    e.zero_point = static_cast<int32_t>(random.between(0, 255) - (is_signed ? 128 : 0));
    const int64_t least = (is_signed ? -128 : 0) - e.zero_point;
    const int64_t lo = c.clip ? random.between(least, least + 255) : least;
    e.lo = static_cast<float>(lo);
    e.hi = static_cast<float>(c.clip ? random.between(lo, least + 255) : least + 255);
  }
  return p;
}

// m x n outputs, tight.
inline std::vector<uint8_t> expected_output(const GemmCase& c, const GemmProblem& p) {
  ReferenceProduct product;
  product.m = c.m;
  product.n = c.n;
  product.segments = c.segments;
  product.segment_length = c.length;
  product.pitch = p.pitch;
  product.a = p.a.data();
  product.lda = p.lda;
  product.a_signed = c.a_signed != 0;
  product.b = p.b.data();
  product.b_row_stride = c.n;
  product.b_signed = c.b_signed != 0;
  product.a_zero_point = p.a_zero_point.data();
  product.a_zero_point_step = 1;
  product.b_zero_point = p.b_zero_point.data();
  product.b_zero_point_step = 1;
  const bool is_float = p.epilogue.output == GemmOutput::kF32;
  if (!is_float || c.bias == 0) product.bias = p.bias_s32.data();
  ReferenceEpilogue epilogue = p.epilogue;
  epilogue.multiplier = p.multiplier.data();
  epilogue.row_scale = p.row_scale.data();
  if (is_float && c.bias) epilogue.bias = p.bias_f32.data();
  std::vector<uint8_t> c_bytes(static_cast<size_t>(c.m * c.n) * output_size(c.output));
  reference_gemm(product, epilogue, c_bytes.data(), c.n);
  return c_bytes;
}

class GemmRunner {
 public:
  // m x n outputs, tight; fails where something beside them was written.
  std::vector<uint8_t> run(const KernelTable& table, const GemmCase& c, const GemmProblem& p) {
    const InfoKernels& info = *table.info;
    bit_ = 0;
    sides_ = c.sides;
    GemmArgs args = {};
    args.m = c.m;
    args.segments = c.segments;
    args.segment_length = c.length;
    place_a(table, c, p, args);
    // The bytes that the micro-kernel multiplies are a + a_shift and b + b_shift.
    const int32_t a_shift = !a_is_flipped_ ? 0 : c.a_signed ? 128 : -128;
    const int32_t b_shift = c.b_signed ? 0 : -128;
    const bool expanded = place_b(table, c, p);
    args.b_expanded = expanded;

    const size_t columns = col_sums_.size();
    std::vector<int32_t> init(columns, kJunk), zero_points(columns, kJunk);
    std::vector<float> multiplier(columns, kJunkFloat), bias(columns, kJunkFloat);
    const bool row_a = c.zp_a >= 2;
    bool row_b = c.zp_b != 0;
    for (int64_t j = 0; j < c.n; ++j) {
      const auto at = static_cast<size_t>(j);
      const bool is_float = p.epilogue.output == GemmOutput::kF32;
      int64_t start = is_float && c.bias ? 0 : p.bias_s32[at];
      if (!row_a) start -= (int64_t{p.a_zero_point[0]} + a_shift) * col_sums_[at];
      init[at] = wrap(start);
      zero_points[at] = p.b_zero_point[at] + b_shift;
      row_b = row_b || zero_points[at] != 0;
      multiplier[at] = p.multiplier[at];
      bias[at] = p.bias_f32[at];
    }
    std::vector<int32_t> rows_a, rows_b;
    for (int64_t i = 0; i < c.m; ++i) {
      const int64_t za = p.a_zero_point[static_cast<size_t>(i)];
      rows_a.push_back(wrap(-(za + a_shift)));
      int64_t sum = 0;
      for (int64_t s = 0; s < c.segments; ++s) {
        for (int64_t j = 0; j < c.length; ++j) {
          const auto at = static_cast<size_t>(i * p.lda + s * p.pitch + j);
          sum += code_value(p.a[at], c.a_signed != 0) - za;
        }
      }
      rows_b.push_back(wrap(-sum));
    }
    const auto rows = static_cast<size_t>(c.m);
    const bool no_start =
        c.seed % 2 && std::all_of(init.begin(), init.begin() + static_cast<std::ptrdiff_t>(c.n),
                                  [](int32_t start) { return start == 0; });
    const int32_t* col_init = no_start ? nullptr : col_init_.copy(init.data(), columns, side());
    if (row_a) args.row_a = row_a_.copy(rows_a.data(), rows, side());
    const int32_t* col_sum = row_a ? col_sum_.copy(col_sums_.data(), columns, side()) : nullptr;
    if (row_b) args.row_b = row_b_.copy(rows_b.data(), rows, side());
    const int32_t* col_zp = row_b ? col_zp_.copy(zero_points.data(), columns, side()) : nullptr;

    args.output = p.epilogue.output;
    args.activate = p.epilogue.activate;
    args.lo = p.epilogue.lo;
    args.hi = p.epilogue.hi;
    args.zero_point = p.epilogue.zero_point;
    args.row_scale_step = p.epilogue.row_scale_step;
    const float* scales = nullptr;
    const float* biases = nullptr;
    if (args.output != GemmOutput::kS32) {
      scales = multiplier_.copy(multiplier.data(), columns, side());
    }
    if (args.output == GemmOutput::kF32) {
      args.row_scale = row_scale_.copy(p.row_scale.data(), p.row_scale.size(), side());
      if (c.bias) biases = bias_.copy(bias.data(), columns, side());
    }

    const size_t size = output_size(c.output);
    args.ldc = c.n + c.ldc_extra;
    const auto extent = static_cast<size_t>((c.m - 1) * args.ldc + c.n) * size;
    uint8_t* out = c_.place(extent, side());

    const int64_t nr = info.nr;
    int64_t panel_offset = 0;
    for (int64_t first = 0; first < c.n;) {
      const int64_t panel = std::min(nr, round_up(c.n - first, info.nv));
      // The distance of two panels says that there are two; without any K it says nothing.
      const bool two = c.two_panels && c.m <= 2 && p.k > 0 && !expanded && c.n - first >= 2 * nr;
      const int64_t taken = two ? 2 * nr : panel;
      const int64_t value_size = expanded ? info.b_bytes : 1;
      const int64_t bytes = panel_bytes(c, info, panel) * value_size;
      args.b = b_panels_ + panel_offset;
      args.b_next = two ? bytes : 0;
      args.width = taken;
      args.n = std::min(taken, c.n - first);
      args.b_prefetch = c.prefetch ? 1024 : 0;
      args.col_init = col_init ? col_init + first : nullptr;
      args.col_sum = col_sum ? col_sum + first : nullptr;
      args.col_zp = col_zp ? col_zp + first : nullptr;
      args.multiplier = scales ? scales + first : nullptr;
      args.bias = biases ? biases + first : nullptr;
      args.c = out + static_cast<size_t>(first) * size;
      table.gemm->run(args);
      panel_offset += (two ? 2 : 1) * bytes;
      first += taken;
    }

    std::vector<uint8_t> tight(static_cast<size_t>(c.m * c.n) * size);
    const size_t row_bytes = static_cast<size_t>(c.n) * size;
    const size_t gap = static_cast<size_t>(c.ldc_extra) * size;
    for (size_t i = 0; i < rows; ++i) {
      const uint8_t* row = out + i * (row_bytes + gap);
      std::memcpy(tight.data() + i * row_bytes, row, row_bytes);
      for (size_t j = 0; j < gap && i + 1 < rows; ++j) {
        if (row[row_bytes + j] != GuardedBuffer::kCanary) {
          fail("row %zu: written beyond column n", i);
          return tight;
        }
      }
    }
    OCTAVO_CHECK(c_.intact(), "written beside C");
    return tight;
  }

 private:
  static constexpr int32_t kJunk = 0x5eadbeef;  // of columns that are padding
  static constexpr float kJunkFloat = 3e38f;

  bool a_is_flipped_ = false;

  Side side() { return (sides_ >> bit_++) & 1 ? Side::kBegin : Side::kEnd; }

  static int64_t panel_bytes(const GemmCase& c, const InfoKernels& info, int64_t width) {
    return c.segments * panel_values(c.length, width, info.kr);
  }

  void place_a(const KernelTable& table, const GemmCase& c, const GemmProblem& p, GemmArgs& args) {
    const InfoKernels& info = *table.info;
    a_is_flipped_ = info.a_bytes == 1 && (c.a_signed != 0) != info.a_signed;
    std::vector<uint8_t> bytes = p.a;
    if (a_is_flipped_ && !info.flips) {  // the driver's duty
      for (auto& byte : bytes) byte ^= 0x80;
    }
    const uint8_t* a = a_.copy(bytes.data(), bytes.size(), side());
    args.a = a;
    args.lda = p.lda;
    args.pitch = p.pitch;
    if (info.a_bytes == 1) {
      args.a_flip = a_is_flipped_ && info.flips ? 0x80 : 0;
      return;
    }
    // Each segment is prepared by itself, so that its last group is zero-padded as B's is.
    args.pitch = round_up(c.length, info.kr);
    args.lda = c.segments * args.pitch + c.pitch_extra;
    const int64_t values = c.length > 0 ? (c.m - 1) * args.lda + c.segments * args.pitch : 0;
    auto* prepared = prepared_.place_values<int16_t>(static_cast<size_t>(values), side());
    args.a = prepared;
    if (values == 0) return;
    for (int64_t s = 0; s < c.segments; ++s) {
      table.gemm->prepare_a(a + s * p.pitch, p.lda, c.m, c.length, c.a_signed != 0,
                            prepared + s * args.pitch, args.lda);
    }
    OCTAVO_CHECK(prepared_.intact(), "prepare_a wrote beside its room");
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.segments * args.pitch; ++j) {
        const int64_t s = j / args.pitch, at = j % args.pitch;
        const int64_t value =
            at < c.length ? code_value(a[i * p.lda + s * p.pitch + at], c.a_signed != 0) : 0;
        if (prepared[i * args.lda + j] != value) {
          return fail("prepare_a: row %lld has %d at %lld", static_cast<long long>(i),
                      prepared[i * args.lda + j], static_cast<long long>(j));
        }
      }
    }
  }

  // Packs all panels one behind the other; returns whether they were expanded.
  bool place_b(const KernelTable& table, const GemmCase& c, const GemmProblem& p) {
    const InfoKernels& info = *table.info;
    std::vector<int8_t> packed;
    col_sums_.clear();
    for (int64_t first = 0; first < c.n; first += info.nr) {
      const int64_t real = std::min<int64_t>(info.nr, c.n - first);
      const int64_t width = round_up(real, info.nv);
      std::vector<int32_t> sums(static_cast<size_t>(width), 0);
      for (int64_t s = 0; s < c.segments; ++s) {
        std::vector<int8_t> part(static_cast<size_t>(panel_values(c.length, width, info.kr)));
        std::vector<int32_t> part_sums(static_cast<size_t>(width));
        // Without any K there is no B to point into.
        const uint8_t* b = p.k > 0 ? p.b.data() + s * c.length * c.n + first : nullptr;
        reference_pack(b, c.n, 1, c.length, real, width, info.kr, c.b_signed ? 0 : 0x80,
                       part.data(), part_sums.data());
        packed.insert(packed.end(), part.begin(), part.end());
        for (size_t j = 0; j < sums.size(); ++j) sums[j] += part_sums[j];
      }
      col_sums_.insert(col_sums_.end(), sums.begin(), sums.end());
    }
    const auto* stored = b_.copy(packed.data(), packed.size(), side());
    b_panels_ = reinterpret_cast<const uint8_t*>(stored);
    const bool expand = c.expanded && table.gemm->expand_b != nullptr;
    if (!expand) return false;
    uint8_t* wide = expanded_.place(packed.size() * static_cast<size_t>(info.b_bytes), side());
    int64_t offset = 0;
    for (int64_t first = 0; first < c.n; first += info.nr) {
      const int64_t width = std::min<int64_t>(info.nr, round_up(c.n - first, info.nv));
      const int64_t values = panel_bytes(c, info, width);
      if (values > 0) {
        table.gemm->expand_b(stored + offset, values, wide + offset * info.b_bytes);
      }
      offset += values;
    }
    OCTAVO_CHECK(expanded_.intact(), "expand_b wrote beside its room");
    b_panels_ = wide;
    return true;
  }

  GuardedBuffer a_, prepared_, b_, expanded_, col_init_, row_a_, col_sum_, row_b_, col_zp_,
      multiplier_, row_scale_, bias_, c_;
  std::vector<int32_t> col_sums_;  // of all panels, each padded to its width
  const uint8_t* b_panels_ = nullptr;
  int64_t sides_ = 0;
  int bit_ = 0;
};

// Empty, or where two results differ and how. NaN equals NaN, else floats are equal by bits.
inline std::string difference(const GemmCase& c, const std::vector<uint8_t>& got,
                              const std::vector<uint8_t>& expected) {
  const auto output = static_cast<GemmOutput>(c.output);
  const size_t size = output_size(c.output);
  for (size_t i = 0; i < expected.size() / size; ++i) {
    const uint8_t* left = got.data() + i * size;
    const uint8_t* right = expected.data() + i * size;
    if (std::memcmp(left, right, size) == 0) continue;
    char text[128];
    const auto row = static_cast<long long>(i) / c.n, column = static_cast<long long>(i) % c.n;
    if (output == GemmOutput::kF32) {
      float x, y;
      std::memcpy(&x, left, sizeof x);
      std::memcpy(&y, right, sizeof y);
      if (std::isnan(x) && std::isnan(y)) continue;
      std::snprintf(text, sizeof text, "C[%lld][%lld] is %a, must be %a", row, column,
                    static_cast<double>(x), static_cast<double>(y));
    } else if (output == GemmOutput::kS32) {
      int32_t x, y;
      std::memcpy(&x, left, sizeof x);
      std::memcpy(&y, right, sizeof y);
      std::snprintf(text, sizeof text, "C[%lld][%lld] is %d, must be %d", row, column, x, y);
    } else {
      std::snprintf(text, sizeof text, "C[%lld][%lld] is code %d, must be %d", row, column, *left,
                    *right);
    }
    return text;
  }
  return {};
}

}  // namespace octavo
