// drivers/ on every table: what pack and gemm make of whole matrices, at any strides, block sizes
// and numbers of threads, must be the exact sums of the plain operands through the epilogue of
// DESIGN section 4; also where sums pass int32, and wherever the rows are cut in two.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "drivers/gemm.h"
#include "drivers/packed.h"
#include "gemm_case.h"
#include "guard_page.h"
#include "reference/gemm.h"
#include "reference/quantize.h"

namespace octavo {
namespace {

// kind: of A: 0 bytes, 1 float32 quantized by one scale, 2 float32 quantized row by row
// order: 0 row-major with a gap, 1 transposed, 2 rows backwards, 3 columns backwards
// zp_a: 0 one for all rows, 1 one each; zp_b: 0 none, 1 one each
// type: GemmC::Type; start: column_start() is given; values as in gemm_case.h
// bias: 0 none, 1 usual, 2 near the ends of int32
// clang-format off: it never settles on these
#define OCTAVO_DRIVER_FIELDS(F) \
  F(kind) F(m) F(n) F(k) F(a_signed) F(b_signed) F(a_order) F(b_order) F(gap) F(zp_a) \
  F(zp_b) F(type) F(bias) F(clip) F(start) F(ldc_extra) F(values) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(DriverCase, "driver", OCTAVO_DRIVER_FIELDS)

constexpr int kThreadCounts[] = {1, 2, 3, 8};

// A matrix of bytes somewhere in memory; `origin` is the offset of its first value.
struct Layout {
  int64_t row_stride, column_stride, origin, extent;
};

Layout lay_out(int64_t rows, int64_t columns, int64_t order, int64_t gap) {
  Layout l = {columns + gap, 1, 0, 0};
  if (order == 1) l.row_stride = 1, l.column_stride = rows + gap;
  if (order == 2) l.row_stride = -l.row_stride;
  if (order == 3) l.column_stride = -1;
  if (rows == 0 || columns == 0) return l;
  const int64_t row_reach = (rows - 1) * l.row_stride;
  const int64_t column_reach = (columns - 1) * l.column_stride;
  const int64_t zero = 0;
  l.origin = -std::min(row_reach, zero) - std::min(column_reach, zero);
  l.extent = l.origin + std::max(row_reach, zero) + std::max(column_reach, zero) + 1;
  return l;
}

size_t type_size(GemmC::Type type) {
  switch (type) {
    case GemmC::Type::kS64:
      return 8;
    case GemmC::Type::kU8:
    case GemmC::Type::kS8:
      return 1;
    default:
      return 4;
  }
}

class DriverTest {
 public:
  int64_t inner = 0, codes = 0, overflows = 0;

  void check(const KernelTable& table, const DriverCase& c) {
    CaseScope<DriverCase> scope(table, c);
    make(c);
    check_table(table, c);
  }

 private:
  GuardedBuffer a_memory_, b_memory_, c_memory_;
  // The operands, plain: codes of A (m x k) and B (k x n), row-major.
  std::vector<uint8_t> a_, b_;
  std::vector<float> x_;  // kinds 1 and 2: what the codes of A are made of
  std::vector<int32_t> a_zero_, b_zero_, bias_s32_;
  std::vector<float> row_scale_, multiplier_, bias_f32_;
  float x_scale_ = 1, lo_ = 0, hi_ = 0;
  int32_t zero_point_ = 0;
  bool fits_ = true;               // int32 holds every sum
  std::vector<uint8_t> expected_;  // m x n, tight

  static Side side(const DriverCase& c, int bit) {
    return (c.sides >> bit) & 1 ? Side::kBegin : Side::kEnd;
  }

  void make(const DriverCase& c) {
    Random random(static_cast<uint64_t>(c.seed));
    const auto m = static_cast<size_t>(c.m), n = static_cast<size_t>(c.n),
               k = static_cast<size_t>(c.k);
    const auto type = static_cast<GemmC::Type>(c.type);
    const bool a_signed = c.a_signed != 0, b_signed = c.b_signed != 0;
    // Beside extreme operands, zero points that make the largest differences.
    const auto code = [&](bool is_signed) {
      const int64_t any = random.between(0, 255), end = random.chance(2) ? 0 : 255;
      return static_cast<int32_t>((c.values && random.chance(2) ? end : any) -
                                  (is_signed ? 128 : 0));
    };
    a_.assign(m * k, 0);
    b_.assign(k * n, 0);
    fill_operand(a_, a_signed, c.values, true, random);
    fill_operand(b_, b_signed, c.values, false, random);
    a_zero_.assign(m, code(a_signed));
    for (int32_t& zero : a_zero_) zero = c.zp_a ? code(a_signed) : zero;
    row_scale_.assign(m, 1.0f);
    if (c.kind != 0) {
      x_.resize(m * k);
      x_scale_ = static_cast<float>(0.01 + random.unit());
      for (float& x : x_) x = static_cast<float>((random.unit() - 0.4) * 200) * x_scale_;
      if (!x_.empty() && random.chance(4)) {
        x_[static_cast<size_t>(random.below(static_cast<int64_t>(x_.size())))] =
            std::numeric_limits<float>::quiet_NaN();
      }
      if (c.kind == 1) {
        reference_quantize(x_.data(), c.m * c.k, &x_scale_, 0, a_zero_.data(), 0, a_signed,
                           a_.data());
      } else {
        std::fill(a_zero_.begin(), a_zero_.end(), 0);
        reference_quantize_rows(x_.data(), c.k, c.m, c.k, a_.data(), c.k, row_scale_.data(),
                                a_zero_.data());
      }
    }
    b_zero_.assign(n, 0);
    for (int32_t& zero : b_zero_) zero = c.zp_b ? code(b_signed) : 0;
    bias_s32_.assign(n, 0);
    bias_f32_.assign(n, 0.0f);
    multiplier_.assign(n, 1.0f);
    const double spread =
        sum_spread(c.k, a_signed, m ? a_zero_[0] : 0, b_signed, n ? b_zero_[0] : 0);
    for (size_t j = 0; j < n; ++j) {
      if (c.bias == 1) bias_s32_[j] = static_cast<int32_t>(random.between(-100000, 100000));
      if (c.bias == 2) {
        bias_s32_[j] = random.chance(2) ? INT32_MAX - static_cast<int32_t>(random.below(1000))
                                        : INT32_MIN + static_cast<int32_t>(random.below(1000));
      }
      bias_f32_[j] = static_cast<float>(random.unit() * 20 - 10);
      multiplier_[j] = static_cast<float>(60 / spread * std::exp2(4 * random.unit() - 2));
    }

    ReferenceProduct product;
    product.m = c.m;
    product.n = c.n;
    product.segment_length = c.k;
    product.a = a_.data();
    product.lda = c.k;
    product.a_signed = a_signed;
    product.b = b_.data();
    product.b_row_stride = c.n;
    product.b_signed = b_signed;
    product.a_zero_point = a_zero_.data();
    product.a_zero_point_step = 1;
    product.b_zero_point = b_zero_.data();
    product.b_zero_point_step = 1;
    if (type != GemmC::Type::kF32) product.bias = bias_s32_.data();
    std::vector<int64_t> sums(m * n);
    reference_products(product, sums.data());
    fits_ = std::all_of(sums.begin(), sums.end(), [](int64_t sum) { return sum == wrap(sum); });

    ReferenceEpilogue epilogue;
    epilogue.multiplier = multiplier_.data();
    epilogue.row_scale = row_scale_.data();
    epilogue.row_scale_step = 1;
    if (c.bias) epilogue.bias = bias_f32_.data();
    const bool is_signed = type == GemmC::Type::kS8;
    if (type == GemmC::Type::kF32) {
      epilogue.output = GemmOutput::kF32;
      epilogue.activate = c.clip != 0;
      lo_ = 0.0f;
      hi_ = c.clip == 1 ? std::numeric_limits<float>::infinity() : 6.0f;
    } else {
      epilogue.output = is_signed ? GemmOutput::kS8 : GemmOutput::kU8;
      zero_point_ = code(is_signed);
      const int64_t least = (is_signed ? -128 : 0) - zero_point_;
      lo_ = static_cast<float>(least + (c.clip ? 20 : 0));
      hi_ = static_cast<float>(least + 255 - (c.clip ? 20 : 0));
    }
    epilogue.lo = lo_;
    epilogue.hi = hi_;
    epilogue.zero_point = zero_point_;
    expected_.assign(m * n * type_size(type), 0);
    if (type == GemmC::Type::kS64) {
      if (!sums.empty()) std::memcpy(expected_.data(), sums.data(), expected_.size());
      return;
    }
    if (type == GemmC::Type::kS32) epilogue.output = GemmOutput::kS32;
    reference_epilogue(epilogue, sums.data(), c.m, c.n, expected_.data(), c.n);
    if (type_size(type) != 1 || c.values != 0) return;
    for (const uint8_t out : expected_) {
      const auto value = static_cast<float>(code_value(out, is_signed) - zero_point_);
      ++codes;
      inner += value > lo_ && value < hi_;
    }
  }

  void check_table(const KernelTable& table, const DriverCase& c) {
    const Layout bl = lay_out(c.k, c.n, c.b_order, c.gap);
    uint8_t* b_bytes = b_memory_.place(static_cast<size_t>(bl.extent), side(c, 0)) + bl.origin;
    for (int64_t i = 0; i < c.k; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        b_bytes[i * bl.row_stride + j * bl.column_stride] = b_[static_cast<size_t>(i * c.n + j)];
      }
    }
    const ByteMatrix matrix = {b_bytes, c.k, c.n, bl.row_stride, bl.column_stride, c.b_signed != 0};
    const OwnedPackedB owned(table, matrix, 1 + static_cast<int>(c.seed % 3));
    const PackedB& packed = owned.view();
    std::vector<uint8_t> back(b_.size(), 0x3c);
    unpack(packed, back.data(), c.n, 1);
    OCTAVO_CHECK(back == b_, "unpack does not give B back");

    // A as gemm is given it: codes at any strides, or float32 rows with a gap.
    const Layout al = c.kind == 0 ? lay_out(c.m, c.k, c.a_order, c.gap)
                                  : lay_out(c.m, c.k, c.a_order == 2 ? 2 : 0, c.gap);
    GemmA a = {};
    a.m = c.m;
    a.row_stride = al.row_stride;
    a.k_stride = al.column_stride;
    a.is_signed = c.kind == 2 ? false : c.a_signed != 0;
    a.zero_point = a_zero_.data();
    a.zero_point_step = c.kind == 0 ? c.zp_a : 0;
    a.scale = x_scale_;
    if (c.kind == 0) {
      a.kind = GemmA::Kind::kBytes;
      uint8_t* bytes = a_memory_.place(static_cast<size_t>(al.extent), side(c, 1)) + al.origin;
      for (int64_t i = 0; i < c.m; ++i) {
        for (int64_t j = 0; j < c.k; ++j) {
          bytes[i * al.row_stride + j * al.column_stride] = a_[static_cast<size_t>(i * c.k + j)];
        }
      }
      a.data = bytes;
    } else {
      a.kind = c.kind == 1 ? GemmA::Kind::kQuantize : GemmA::Kind::kQuantizeRows;
      auto* x =
          a_memory_.place_values<float>(static_cast<size_t>(al.extent), side(c, 1)) + al.origin;
      for (int64_t i = 0; i < c.m; ++i) {
        for (int64_t j = 0; j < c.k; ++j) {
          x[i * al.row_stride + j] = x_[static_cast<size_t>(i * c.k + j)];
        }
      }
      a.data = x;
    }

    const auto padded = static_cast<size_t>(packed.padded_n);
    std::vector<int32_t> bias(bias_s32_), b_zero(b_zero_), start(padded);
    std::vector<float> multiplier(multiplier_), bias_f32(bias_f32_);
    for (int32_t& zero : b_zero) zero -= c.b_signed ? 0 : 128;
    const bool zeros = std::all_of(b_zero.begin(), b_zero.end(), [](int32_t z) { return z == 0; });
    bias.resize(padded, 77);
    b_zero.resize(padded, 77);
    multiplier.resize(padded, 77.0f);
    bias_f32.resize(padded, 77.0f);
    GemmC out = {};
    out.type = static_cast<GemmC::Type>(c.type);
    out.ldc = c.n + c.ldc_extra;
    const bool is_float = out.type == GemmC::Type::kF32;
    if (c.bias && !is_float) {
      out.bias_s32 = bias.data();
      for (const int32_t value : bias_s32_) {
        out.max_abs_bias = std::max(out.max_abs_bias, std::abs(int64_t{value}));
      }
    }
    if (!zeros) out.b_zero_point = b_zero.data();
    if (type_size(out.type) == 1 || is_float) out.multiplier = multiplier.data();
    if (c.bias && is_float) out.bias_f32 = bias_f32.data();
    out.activate = is_float && c.clip != 0;
    out.lo = lo_;
    out.hi = hi_;
    out.zero_point = is_float ? 0 : zero_point_;
    const int32_t* given = nullptr;
    if (c.start && c.kind != 2 && a.zero_point_step == 0) {
      column_start(packed, stored_a_zero_point(table, a.is_signed, a_zero_[0]), out.bias_s32,
                   start.data());
      given = start.data();
    }

    for (const int threads : kThreadCounts) {
      if (!check_result(c, a, packed, out, given, 0, c.m, threads)) return;
    }
    // The same rows in two calls.
    const int64_t cut = c.m > 1 ? 1 + c.seed % (c.m - 1) : c.m;
    if (check_result(c, a, packed, out, given, 0, cut, 2) && cut < c.m) {
      check_result(c, a, packed, out, given, cut, c.m, 1);
    }
  }

  // Rows [first, last) of C by `threads` threads.
  bool check_result(const DriverCase& c, GemmA a, const PackedB& packed, GemmC out,
                    const int32_t* start, int64_t first, int64_t last, int threads) {
    const int64_t rows = last - first;
    const size_t size = type_size(out.type);
    const size_t extent =
        rows > 0 && c.n > 0 ? static_cast<size_t>((rows - 1) * out.ldc + c.n) * size : 0;
    uint8_t* memory = c_memory_.place(extent, side(c, 2));
    a.m = rows;
    a.data =
        c.kind == 0
            ? static_cast<const void*>(static_cast<const uint8_t*>(a.data) + first * a.row_stride)
            : static_cast<const float*>(a.data) + first * a.row_stride;
    if (a.zero_point_step) a.zero_point += first;
    out.data = memory;
    const bool fits = gemm(a, packed, out, start, threads);
    const auto where = [&](const char* what) {
      fail("%s, rows %lld to %lld, %d threads", what, static_cast<long long>(first),
           static_cast<long long>(last), threads);
      return false;
    };
    if (!c_memory_.intact()) return where("written beside C");
    if (out.type == GemmC::Type::kS32 && !fits_) {
      // The rows that overflow may be the other ones.
      if (rows == c.m && fits) return where("a sum beyond int32 went unnoticed");
      overflows += rows == c.m;
      return true;
    }
    if (!fits) return where("every sum fits int32, gemm says not");
    for (int64_t i = 0; i < rows && extent > 0; ++i) {
      const uint8_t* row = memory + static_cast<size_t>(i * out.ldc) * size;
      const uint8_t* right = expected_.data() + static_cast<size_t>((first + i) * c.n) * size;
      for (int64_t j = 0; j < c.n; ++j) {
        const size_t at = static_cast<size_t>(j) * size;
        if (std::memcmp(row + at, right + at, size) == 0) continue;
        if (out.type == GemmC::Type::kF32) {
          float x, y;
          std::memcpy(&x, row + at, sizeof x);
          std::memcpy(&y, right + at, sizeof y);
          if (std::isnan(x) && std::isnan(y)) continue;
          std::fprintf(stderr, "  C[%lld][%lld] is %a, must be %a\n",
                       static_cast<long long>(first + i), static_cast<long long>(j),
                       static_cast<double>(x), static_cast<double>(y));
        } else {
          std::fprintf(stderr, "  C[%lld][%lld] is %lld, must be %lld\n",
                       static_cast<long long>(first + i), static_cast<long long>(j),
                       integer(row + at, out.type), integer(right + at, out.type));
        }
        return where("wrong value");
      }
      const uint8_t* gap = row + static_cast<size_t>(c.n) * size;
      for (size_t j = 0; i + 1 < rows && j < static_cast<size_t>(c.ldc_extra) * size; ++j) {
        if (gap[j] != GuardedBuffer::kCanary) return where("written beyond column n");
      }
    }
    return true;
  }

  static long long integer(const uint8_t* bytes, GemmC::Type type) {
    int64_t wide = 0;
    int32_t narrow = 0;
    switch (type) {
      case GemmC::Type::kS64:
        std::memcpy(&wide, bytes, sizeof wide);
        return wide;
      case GemmC::Type::kS32:
        std::memcpy(&narrow, bytes, sizeof narrow);
        return narrow;
      default:
        return code_value(*bytes, type == GemmC::Type::kS8);
    }
  }
};

DriverCase random_driver(Random& random) {
  DriverCase c;
  c.kind = random.chance(2) ? 0 : random.between(1, 2);
  c.a_signed = c.kind == 2 ? 0 : random.below(2);
  c.b_signed = random.chance(3) ? 0 : 1;
  c.a_order = random.below(4);
  c.b_order = random.below(4);
  c.gap = random.chance(2) ? random.below(20) : 0;
  c.zp_a = c.kind == 0 ? random.below(2) : 0;
  c.zp_b = random.below(2);
  // Rows with a scale each have float32 results.
  c.type = c.kind == 2 ? static_cast<int64_t>(GemmC::Type::kF32) : random.below(5);
  c.bias = random.chance(8) ? 2 : random.below(2);
  c.clip = random.chance(2) ? random.below(3) : 0;
  c.start = random.below(2);
  c.ldc_extra = random.chance(2) ? random.below(9) : 0;
  c.values = random.chance(3) ? 1 : 0;
  c.sides = random.below(8);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

void test_gemm(const KernelTable& table) {
  const bool small = in_qemu();
  DriverTest test;
  Random random(5);
  const int64_t nr = table.info->nr;
  const int64_t before = running.cases;

  for (int i = 0; i < (small ? 60 : 700); ++i) {
    DriverCase c = random_driver(random);
    c.m = random.chance(20) ? 0 : random.between(1, small ? 20 : 60);
    c.n = random.chance(20) ? 0 : random.between(1, 3 * nr);
    c.k = random.chance(20) ? 0 : random.between(1, 150);
    test.check(table, c);
  }
  // More rows than any block, odd ones left over, and shares of panels or rows for eight threads.
  for (const int64_t m : {97, 131, 300, 517}) {
    for (int repeat = 0; repeat < (small ? 1 : 8); ++repeat) {
      DriverCase c = random_driver(random);
      c.m = small ? m / 3 : m;
      c.n = random.between(1, nr + 20);
      c.k = random.between(60, 130);
      test.check(table, c);
    }
  }
  // Few rows over more panels than L2 holds: two panels at once, prefetch.
  for (int64_t m = 1; m <= 9 && !small; ++m) {
    DriverCase c = random_driver(random);
    c.m = m;
    c.n = 5 * nr + 7;
    c.k = 4001;
    if (m % 2 && c.kind != 2) c.type = static_cast<int64_t>(GemmC::Type::kS32);
    test.check(table, c);
  }
  // Few rows, which several threads prepare together.
  for (int repeat = 0; repeat < (small ? 2 : 12); ++repeat) {
    DriverCase c = random_driver(random);
    c.m = random.between(9, 47);
    c.n = random.between(nr, 2 * nr);
    c.k = small ? 2003 : random.between(2000, 5000);
    test.check(table, c);
  }
  // Every K around the point where int32 may no longer do, with the largest sums and others.
  for (const int64_t k : {32767, 32768, 32769, 33024, 33025, 33026, 65537, 70001}) {
    for (int64_t values = 0; values <= 6; ++values) {
      if (small && values != 5) continue;
      for (int repeat = 0; repeat < 2; ++repeat) {
        DriverCase c = random_driver(random);
        c.kind = 0;
        c.m = random.between(1, 3);
        c.n = random.between(1, 3);
        c.k = k;
        c.values = values;
        c.type = repeat ? random.below(5) : static_cast<int64_t>(GemmC::Type::kS32);
        test.check(table, c);
      }
    }
  }
  // No K: zero points have nothing to act on, and the rows of A are not read.
  for (int repeat = 0; repeat < 40; ++repeat) {
    DriverCase c = random_driver(random);
    c.m = random.between(1, 20);
    c.n = random.between(1, nr + 5);
    c.k = 0;
    c.zp_b = 1;
    if (c.kind != 2) c.type = repeat % 5;
    test.check(table, c);
  }
  // A bias that leaves no room.
  for (int repeat = 0; repeat < 20; ++repeat) {
    DriverCase c = random_driver(random);
    c.kind = 0;
    c.m = random.between(1, 12);
    c.n = random.between(1, 20);
    c.k = random.between(0, 40);
    c.bias = 2;
    c.type = repeat % 5;
    test.check(table, c);
  }
  std::printf("%-12s %8lld cases, %lld with sums beyond int32\n", table.info->name,
              static_cast<long long>(running.cases - before),
              static_cast<long long>(test.overflows));
  OCTAVO_CHECK(test.overflows > 0, "no sum passed int32: that path was not tested");
  OCTAVO_CHECK(test.inner * 4 > test.codes, "%lld of %lld codes are not clamped: vacuous",
               static_cast<long long>(test.inner), static_cast<long long>(test.codes));
}

// A matrix packed for one table gives every other table's form.
void test_forms(const std::vector<const KernelTable*>& tables) {
  Random random(6);
  for (int i = 0; i < 20; ++i) {
    const int64_t k = random.between(0, 70), n = random.between(1, 150);
    std::vector<uint8_t> plain(static_cast<size_t>(k * n));
    fill_operand(plain, true, 0, false, random);
    const ByteMatrix b = {plain.data(), k, n, n, 1, random.chance(2)};
    const auto count = static_cast<int64_t>(tables.size());
    const PackedMatrix matrix(*tables[static_cast<size_t>(random.below(count))], b, 2);
    for (const KernelTable* table : tables) {
      running.isa = table->info->name;
      const OwnedPackedB direct(*table, b, 1);
      const PackedB& form = matrix.form(table);
      OCTAVO_CHECK(form.table == table, "form() gives another table's");
      const size_t bytes = static_cast<size_t>(form.padded_n * form.groups * table->info->kr);
      OCTAVO_CHECK(std::memcmp(form.panels, direct.view().panels, bytes) == 0 &&
                       std::memcmp(form.col_sum, direct.view().col_sum,
                                   static_cast<size_t>(form.padded_n) * 4) == 0,
                   "form() of %lld x %lld differs from packing it", static_cast<long long>(k),
                   static_cast<long long>(n));
    }
    std::vector<uint8_t> back(plain.size());
    matrix.unpack(back.data(), n, 1);
    OCTAVO_CHECK(back == plain, "unpack of %lld x %lld", static_cast<long long>(k),
                 static_cast<long long>(n));
  }
}

bool repeat_case(const KernelTable& table, const std::string& line) {
  DriverCase c;
  if (!parse_case(line, c)) return false;
  DriverTest().check(table, c);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  set_dots_per_thread(1);  // or no product here would be shared out
  return run_tests(argc, argv, test_gemm, test_forms, repeat_case);
}
