// Products with weights in groups on every table against naive loops: any K, any group, ragged last
// groups, every number of threads, kernels alone and through the driver. Operands lie between pages
// that may not be touched.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <thread>

#include "check.h"
#include "drivers/gemm.h"
#include "drivers/gemm_grouped.h"
#include "guard_page.h"
#include "no_memory.h"
#include "reference/grouped.h"

namespace octavo {
namespace {

// zero: 0 none, 1 one for all, 2 of each group, 3 of each group at the ends of the range
// half: scales are float16; clip: bit 0 from below, bit 1 from above
// values: 0 any, 1 the ends of every range, 2 some rows all zero or not finite, 3 tiny, 4 huge
// sides: a bit for each operand
// clang-format off: it never settles on these
#define OCTAVO_GROUPED_FIELDS(F) \
  F(m) F(n) F(k) F(group) F(bits) F(is_signed) F(zero) F(half) F(bias) F(clip) F(x_gap) F(y_gap) \
  F(values) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(GroupedCase, "grouped", OCTAVO_GROUPED_FIELDS)

constexpr int kThreadCounts[] = {1, 2, 3};

struct Problem {
  std::vector<float> x, scale, bias;
  std::vector<uint8_t> w;
  std::vector<int32_t> zero;
  int64_t groups, ldx, ldy;
  float lo, hi;
};

Problem make_problem(const GroupedCase& c) {
  Random random(static_cast<uint64_t>(c.seed));
  Problem p;
  p.groups = (c.k + c.group - 1) / c.group;
  p.ldx = c.k + c.x_gap;
  p.ldy = c.n + c.y_gap;
  const auto count = static_cast<size_t>(c.n * p.groups);
  const int64_t least = c.is_signed ? -(1 << (c.bits - 1)) : 0, most = least + (1 << c.bits) - 1;
  p.x.resize(static_cast<size_t>(c.m > 0 ? (c.m - 1) * p.ldx + c.k : 0));
  for (float& x : p.x) {
    x = static_cast<float>(random.unit() * 4 - 2);
    if (c.values == 1) x = random.chance(9) ? 0.0f : x < 0 ? -1.0f : 1.0f;
    if (c.values == 3) x *= 0x1p-140f;
    if (c.values == 4) x *= 0x1p126f;
  }
  for (int64_t i = 0; i < c.m && c.values == 2 && c.k > 0; ++i) {
    float* row = p.x.data() + i * p.ldx;
    const int64_t kind = random.below(5);
    if (kind == 0) std::fill(row, row + c.k, random.chance(2) ? -0.0f : 0.0f);
    if (kind == 1) row[random.below(c.k)] = std::numeric_limits<float>::quiet_NaN();
    if (kind == 2) row[random.below(c.k)] = -std::numeric_limits<float>::infinity();
  }
  p.w.resize(static_cast<size_t>(c.n * c.k));
  for (auto& w : p.w)
    w = static_cast<uint8_t>(c.values == 1 ? (random.chance(2) ? least : most)
                                           : random.between(least, most));
  p.scale.resize(count);
  for (float& scale : p.scale)
    scale = c.half ? static_cast<float>(random.between(1, 2047)) *
                         std::ldexp(1.0f, static_cast<int>(random.between(-24, 4)))
                   : static_cast<float>(random.unit() + 0.01);
  p.zero.resize(count);
  const auto one = static_cast<int32_t>(random.between(least, most));
  for (auto& zero : p.zero)
    zero = c.zero == 1   ? one
           : c.zero == 2 ? static_cast<int32_t>(random.between(least, most))
                         : static_cast<int32_t>(random.chance(2) ? least : most);
  p.bias.resize(static_cast<size_t>(c.n));
  for (float& bias : p.bias) bias = static_cast<float>(random.unit() * 20 - 10);
  p.lo = c.clip & 1 ? 0.0f : -std::numeric_limits<float>::infinity();
  p.hi = c.clip & 2 ? 3.0f : std::numeric_limits<float>::infinity();
  return p;
}

class GroupedTest {
 public:
  void check(const KernelTable& table, const GroupedCase& c) {
    CaseScope<GroupedCase> scope(table, c);
    const Problem p = make_problem(c);
    const ReferenceGrouped wanted = {p.x.data(),
                                     p.ldx,
                                     c.m,
                                     c.k,
                                     p.w.data(),
                                     c.is_signed != 0,
                                     c.n,
                                     c.group,
                                     p.scale.data(),
                                     c.zero ? p.zero.data() : nullptr,
                                     c.bias ? p.bias.data() : nullptr,
                                     c.clip != 0,
                                     p.lo,
                                     p.hi};
    std::vector<float> expected(static_cast<size_t>(c.m * c.n));
    reference_grouped(wanted, expected.data(), c.n);

    bit_ = 0;
    sides_ = c.sides;
    const GroupedWeights w = {w_.copy(p.w.data(), p.w.size(), side()),
                              c.n,
                              c.k,
                              c.is_signed != 0,
                              static_cast<int>(c.bits),
                              c.group,
                              scale_.copy(p.scale.data(), p.scale.size(), side()),
                              c.zero ? zero_.copy(p.zero.data(), p.zero.size(), side()) : nullptr};
    const PackedGroups packed(table, w, 2);
    check_unpack(packed, p, c);
    const float* x = x_.copy(p.x.data(), p.x.size(), side());
    std::vector<float> padded_bias = p.bias;
    padded_bias.resize(p.bias.size() + 64);
    const auto y_count = static_cast<size_t>(c.m > 0 ? (c.m - 1) * p.ldy + c.n : 0);
    const Side y_side = side();
    for (const int threads : kThreadCounts) {
      float* y = y_.place_values<float>(y_count, y_side);
      const GroupedGemm g = {
          x, c.m, p.ldx, y, p.ldy, c.bias ? padded_bias.data() : nullptr, c.clip != 0, p.lo, p.hi};
      gemm_grouped(g, packed, threads);
      compare(c, p, y, expected, "driver");
      OCTAVO_CHECK(y_.intact(), "wrote beside y");
    }
    run_kernel(table, c, p, packed, x, expected);
  }

  int64_t halves = 0, zeros = 0;

 private:
  Side side() { return sides_ >> bit_++ & 1 ? Side::kBegin : Side::kEnd; }

  void check_unpack(const PackedGroups& packed, const Problem& p, const GroupedCase& c) {
    std::vector<uint8_t> codes(p.w.size());
    std::vector<float> scale(p.scale.size());
    std::vector<int32_t> zero(p.zero.size());
    packed.unpack(codes.data(), scale.data(), zero.data());
    OCTAVO_CHECK(codes == p.w, "unpack: other codes");
    OCTAVO_CHECK(scale == p.scale, "unpack: other scales");
    OCTAVO_CHECK(zero == (c.zero ? p.zero : std::vector<int32_t>(p.zero.size())),
                 "unpack: other zero points");
    OCTAVO_CHECK(packed.is_half || !c.half, "float16 scales are kept as float32");
    halves += packed.is_half;
    zeros += packed.has_zero;
  }

  void compare(const GroupedCase& c, const Problem& p, const float* y,
               const std::vector<float>& expected, const char* what) {
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        const float got = y[i * p.ldy + j], want = expected[static_cast<size_t>(i * c.n + j)];
        if (std::memcmp(&got, &want, 4) == 0 || (std::isnan(got) && std::isnan(want))) continue;
        return fail("%s: y[%lld][%lld] is %a, must be %a", what, static_cast<long long>(i),
                    static_cast<long long>(j), static_cast<double>(got), static_cast<double>(want));
      }
      for (int64_t j = c.n; j < p.ldy && i < c.m - 1; ++j) {
        uint32_t bits;
        std::memcpy(&bits, y + i * p.ldy + j, 4);
        if (bits != 0xa5a5a5a5u) return fail("%s: wrote between the rows of y", what);
      }
    }
  }

  // Panel after panel, all operands guarded.
  void run_kernel(const KernelTable& table, const GroupedCase& c, const Problem& p,
                  const PackedGroups& b, const float* x, const std::vector<float>& expected) {
    if (c.m == 0) return;
    const GemmGroupedKernels& kernels = *table.gemm_grouped;
    const int64_t padded = b.steps * 2 * kernels.kr, last = b.last_steps * 2 * kernels.kr;
    const int64_t values = b.groups > 0 ? (b.groups - 1) * padded + last : 0;
    const int64_t prepared = b.groups * padded;
    std::vector<int8_t> q(static_cast<size_t>(c.m * prepared));
    std::vector<float> row_scale(static_cast<size_t>(c.m));
    std::vector<int32_t> start(static_cast<size_t>(c.m * b.groups));
    const GroupedRows rows = {x,
                              p.ldx,
                              c.m,
                              c.k,
                              b.group_size,
                              padded,
                              b.has_zero ? -1 : -b.common_zero,
                              q_.copy(q.data(), q.size(), side()),
                              prepared,
                              row_scale_.copy(row_scale.data(), row_scale.size(), side()),
                              start_.copy(start.data(), start.size(), side()),
                              b.groups};
    kernels.prepare(rows);
    OCTAVO_CHECK(q_.intact() && row_scale_.intact() && start_.intact(),
                 "prepare wrote beside its rooms");
    // The kernel reads no more of the last row than its groups' steps.
    const size_t read = static_cast<size_t>((c.m - 1) * prepared + values);
    const std::vector<int8_t> codes(rows.q, rows.q + read);
    const int8_t* a = q_.copy(codes.data(), codes.size(), side());

    GemmGroupedArgs args{};
    args.a = a;
    args.lda = prepared;
    args.m = c.m;
    args.row_start = rows.row_start;
    args.row_scale = rows.scale;
    args.groups = b.groups;
    args.steps = b.steps;
    args.last_steps = b.last_steps;
    args.bits = b.bits;
    args.is_half = b.is_half;
    args.has_zero = b.has_zero;
    args.ldc = p.ldy;
    args.activate = c.clip != 0;
    args.lo = p.lo;
    args.hi = p.hi;
    const auto y_count = static_cast<size_t>((c.m - 1) * p.ldy + c.n);
    float* y = y_.place_values<float>(y_count, side());
    const Side b_side = side(), bias_side = side();
    for (int64_t panel = 0; panel < b.panel_count(); ++panel) {
      const int64_t first = panel * kernels.columns;
      args.width = b.panel_width(panel);
      args.n = std::min<int64_t>(c.n - first, kernels.columns);
      args.b_prefetch = c.seed % 3 == 0 ? 4096 : 0;
      const int64_t bytes = b.panel_bytes(args.width);
      args.b = b_.copy(b.panel(panel), static_cast<size_t>(bytes), b_side);
      std::vector<float> bias(static_cast<size_t>(args.width));
      std::copy(p.bias.begin() + first, p.bias.begin() + first + args.n, bias.begin());
      if (c.bias) args.bias = bias_.copy(bias.data(), bias.size(), bias_side);
      args.c = y + first;
      kernels.run(args);
    }
    compare(c, p, y, expected, "kernel");
    OCTAVO_CHECK(y_.intact(), "the kernel wrote beside y");
  }

  GuardedBuffer x_, w_, scale_, zero_, y_, q_, row_scale_, start_, b_, bias_;
  int64_t sides_ = 0;
  int bit_ = 0;
};

GroupedCase random_grouped(Random& random) {
  GroupedCase c;
  c.bits = random.chance(3) ? 8 : 4;
  c.is_signed = random.below(2);
  c.zero = random.below(4);
  c.half = random.below(2);
  c.bias = random.below(2);
  c.clip = random.chance(2) ? random.below(4) : 0;
  c.x_gap = random.chance(2) ? random.below(20) : 0;
  c.y_gap = random.chance(2) ? random.below(20) : 0;
  const int64_t values[] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 4};
  c.values = random.pick(values);
  c.sides = static_cast<int64_t>(random.next() & 0xffff);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

// A thread that has no scratch yet, and gets none: std::bad_alloc, and then the right result.
void test_memory(const KernelTable& table) {
  GroupedCase c;
  c.m = 3;
  c.n = 50;
  c.k = 100;
  c.group = 32;
  c.bits = 4;
  CaseScope<GroupedCase> scope(table, c);
  const Problem p = make_problem(c);
  const GroupedWeights w = {p.w.data(), c.n, c.k, false, 4, c.group, p.scale.data(), nullptr};
  const PackedGroups packed(table, w, 1);
  std::vector<float> expected(static_cast<size_t>(c.m * c.n)), y(expected.size());
  reference_grouped({p.x.data(), p.ldx, c.m, c.k, p.w.data(), false, c.n, c.group, p.scale.data(),
                     nullptr, nullptr, false, 0, 0},
                    expected.data(), c.n);
  const GroupedGemm g = {p.x.data(), c.m, p.ldx, y.data(), c.n, nullptr, false, 0, 0};
  const auto throws = [](const auto& body) {
    memory_is_out = true;
    bool thrown = false;
    try {
      body();
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    memory_is_out = false;
    return thrown;
  };
  std::thread([&] {
    OCTAVO_CHECK(throws([&] { gemm_grouped(g, packed, 1); }), "no memory: nothing was thrown");
    OCTAVO_CHECK(throws([&] { PackedGroups(table, w, 1); }), "packed without memory");
    gemm_grouped(g, packed, 1);
  }).join();
  OCTAVO_CHECK(y == expected, "memory again: another result");
}

void test_grouped(const KernelTable& table) {
  const GemmGroupedKernels& kernels = *table.gemm_grouped;
  const bool small = in_qemu();
  GroupedTest test;
  Random random(7);
  const int64_t groups[] = {32, 64, 128, 1, 5, 8, 16, 33, 100, 1000};
  const int64_t depths[] = {0, 1, 7, 31, 32, 33, 64, 96, 100, 128, 129, 200, 257, 384, 515};
  // Every number of rows by the edges of panels, by every kind of group.
  for (int64_t m = 0; m <= 10; ++m) {
    for (const int64_t panels : {0, 1, 2, 3}) {
      for (int64_t edge = -1; edge <= 1; ++edge) {
        for (int64_t extra = 0; extra < kernels.columns; extra += kernels.vector) {
          GroupedCase c = random_grouped(random);
          c.m = m;
          c.n = panels * kernels.columns + extra + edge;
          c.k = random.pick(depths);
          c.group = random.pick(groups);
          if (c.n > 0) test.check(table, c);
        }
      }
    }
  }
  for (const int64_t k : depths) {
    for (const int64_t group : groups) {
      for (int64_t bits = 4; bits <= 8; bits += 4) {
        for (int repeat = 0; repeat < (small ? 1 : 6); ++repeat) {
          GroupedCase c = random_grouped(random);
          c.m = random.between(1, 8);
          c.n = random.between(1, 3 * kernels.columns);
          c.k = k;
          c.group = group;
          c.bits = bits;
          test.check(table, c);
        }
      }
    }
  }
  // The ends of every range in groups as long as they may be: no sum is too small for it.
  for (int64_t bits = 4; bits <= 8; bits += 4) {
    for (int repeat = 0; repeat < (small ? 1 : 4); ++repeat) {
      GroupedCase c = random_grouped(random);
      c.m = 1 + repeat * 2;
      c.n = 3;
      c.k = kMaxGroup;
      c.group = kMaxGroup;
      c.bits = bits;
      c.zero = 3;
      c.values = 1;
      test.check(table, c);
    }
  }
  // Many rows: the driver's blocks.
  for (int repeat = 0; repeat < (small ? 1 : 6); ++repeat) {
    GroupedCase c = random_grouped(random);
    c.m = random.between(100, 300);
    c.n = random.between(1, 3 * kernels.columns);
    c.k = random.pick(depths);
    c.group = random.pick(groups);
    test.check(table, c);
  }
  test_memory(table);
  OCTAVO_CHECK(test.halves > 0 && test.zeros > 0, "no float16 scales, or no zero points: vacuous");
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
  running.cases = 0;
}

// Every table was compared with the reference bit by bit; a form made of another's is the same.
void compare_tables(const std::vector<const KernelTable*>& tables) {
  Random random(8);
  for (int repeat = 0; repeat < 20; ++repeat) {
    GroupedCase c = random_grouped(random);
    c.m = 1;
    c.n = random.between(1, 100);
    c.k = random.between(1, 300);
    c.group = random.between(1, 80);
    const Problem p = make_problem(c);
    std::vector<uint8_t> codes = p.w;
    std::vector<float> scale = p.scale;
    std::vector<int32_t> zero = p.zero;
    for (const KernelTable* table : tables) {
      CaseScope<GroupedCase> scope(*table, c);
      const PackedGroups packed(*table,
                                {codes.data(), c.n, c.k, c.is_signed != 0, static_cast<int>(c.bits),
                                 c.group, scale.data(), zero.data()},
                                2);
      packed.unpack(codes.data(), scale.data(), zero.data());
      OCTAVO_CHECK(codes == p.w && scale == p.scale && zero == p.zero, "from form to form");
    }
  }
}

bool repeat_case(const KernelTable& table, const std::string& line) {
  GroupedCase c;
  if (!parse_case(line, c)) return false;
  GroupedTest test;
  test.check(table, c);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  octavo::set_dots_per_thread(1);  // or no product here would be shared out
  return octavo::run_tests(argc, argv, octavo::test_grouped, octavo::compare_tables,
                           octavo::repeat_case);
}
