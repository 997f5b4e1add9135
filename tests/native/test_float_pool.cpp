// Windows of float32 images on every table, to the bit against plain loops, between guard pages.
#include <cmath>
#include <limits>

#include "check.h"
#include "guard_page.h"
#include "reference/float_pool.h"

namespace octavo {
namespace {

// kind: 0 the greatest, 1 the average, 2 the mean over all pixels (of rows * columns)
// values: 0 any, 1 with NaN, infinities and zeros of both signs
// clang-format off: it never settles on these
#define POOL_FIELDS(X) \
  X(kind) X(rows) X(columns) X(outputs) X(channels) X(stride) X(gap) X(values) X(sides) X(seed)
// clang-format on
OCTAVO_CASE(PoolCase, "float_pool", POOL_FIELDS)

bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

struct PoolTest {
  GuardedBuffer x_, y_;
  int64_t nans = 0, zeros = 0;

  void check(const KernelTable& table, const PoolCase& c) {
    CaseScope<PoolCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    const bool mean = c.kind == 2;
    FloatPoolArgs args{};
    args.rows = c.rows;
    args.columns = c.columns;
    args.outputs = mean ? 1 : c.outputs;
    args.channels = c.channels;
    args.column_step = c.channels + c.gap;
    args.x_step = c.stride * args.column_step;
    args.row_step = (c.columns + c.stride * c.outputs) * args.column_step;
    args.y_step = c.channels + c.gap;
    const int64_t pixels = c.rows * c.columns;
    const int64_t count = mean ? pixels * c.channels
                               : (c.rows - 1) * args.row_step + (c.columns - 1) * args.column_step +
                                     (c.outputs - 1) * args.x_step + c.channels;
    std::vector<float> values(static_cast<size_t>(count));
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float special[] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity, 0.0f,
                             -0.0f};
    for (float& v : values)
      v = c.values == 1 && random.chance(9) ? random.pick(special)
                                            : static_cast<float>(random.unit() * 8 - 4);
    const float* x = x_.copy(values.data(), values.size(), c.sides & 1 ? Side::kBegin : Side::kEnd);
    const int64_t written = (args.outputs - 1) * args.y_step + c.channels;
    float* y = y_.place_values<float>(static_cast<size_t>(written),
                                      c.sides & 2 ? Side::kBegin : Side::kEnd);
    std::vector<float> before(y, y + written);
    args.x = x;
    args.y = y;
    const float divisor = static_cast<float>(pixels + c.gap);
    if (c.kind == 0) table.float_pool->max(args);
    if (c.kind == 1) table.float_pool->average(args, divisor);
    if (mean) table.float_pool->mean(x, pixels, c.channels, y);
    for (int64_t i = 0; i < written; ++i) {
      const int64_t o = i / args.y_step, channel = i % args.y_step;
      const float expected = channel >= c.channels ? before[static_cast<size_t>(i)]
                             : c.kind == 0         ? reference_max(args, o, channel)
                             : c.kind == 1         ? reference_average(args, divisor, o, channel)
                                           : reference_pixel_mean(x, pixels, c.channels, channel);
      OCTAVO_CHECK(same(y[i], expected), "value %lld: %a, expected %a", static_cast<long long>(i),
                   y[i], expected);
      nans += std::isnan(y[i]);
      zeros += y[i] == 0.0f;
    }
    OCTAVO_CHECK(x_.intact() && y_.intact(), "something beside an operand was written");
  }
};

void test_pool(const KernelTable& table) {
  PoolTest test;
  Random random(17);
  for (int i = 0; i < (in_qemu() ? 300 : 3000); ++i) {
    PoolCase c;
    c.kind = random.below(3);
    c.rows = random.between(1, c.kind == 2 ? 14 : 4);
    c.columns = random.between(1, c.kind == 2 ? 14 : 4);
    c.outputs = random.between(1, 5);
    c.channels = random.chance(4) ? random.between(60, 150) : random.between(1, 40);
    c.stride = random.between(1, 3);
    c.gap = random.below(3);
    c.values = random.below(2);
    c.sides = random.below(4);
    c.seed = static_cast<int64_t>(random.next() >> 1);
    test.check(table, c);
  }
  OCTAVO_CHECK(test.nans > 0 && test.zeros > 0, "no NaN, or no zero: vacuous");
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
  running.cases = 0;
}

// Each was compared with the reference.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  PoolCase c;
  if (!parse_case(line, c)) return false;
  PoolTest test;
  test.check(table, c);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  return octavo::run_tests(argc, argv, octavo::test_pool, octavo::compare_tables,
                           octavo::repeat_case);
}
