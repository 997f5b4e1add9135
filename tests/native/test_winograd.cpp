// Convolution by Winograd's algorithm against naive loops, on each table that has it: any padding,
// maps of even and odd size, codes at the ends of their ranges, every kind of output, every number
// of threads. Input and output lie between pages that may not be touched. What conv() gives must be
// the same, whichever way it takes.
#include "check.h"
#include "conv_case.h"
#include "drivers/winograd.h"

namespace octavo {
namespace {

constexpr int64_t kTaps = 3;

class WinogradTest {
 public:
  void check(const KernelTable& table, const ConvCase& c) {
    CaseScope<ConvCase> scope(table, c);
    const ConvProblem p(c);
    const KernelValues values = {
        p.w.data(), {c.c * kTaps * kTaps, kTaps * kTaps, kTaps, 1}, c.w_signed != 0, false};
    const ConvWeights weights(table, values, c.n, c.c, kTaps, kTaps, 1, 1);
    const int64_t padded = weights.packed().padded_n;
    const bool is_here = table.winograd->outputs && c.c >= 16 && c.c <= 768 && c.c % 2 == 0;
    runs_.check(
        c, p, padded, [&](const ConvGeometry& g, const ConvX& x, const ConvY& y, int threads) {
          OCTAVO_CHECK(winograd_applies(weights, g, y) == is_here, "%lld channels: applies is %d",
                       static_cast<long long>(c.c), !is_here);
          if (!is_here) return conv(weights, g, x, y, nullptr, threads);
          winograd(weights, g, x, y, threads);
          return true;
        });
    if (!is_here) return;
    runs_.check(c, p, padded,
                [&](const ConvGeometry& g, const ConvX& x, const ConvY& y, int threads) {
                  return conv(weights, g, x, y, nullptr, threads);
                });
  }

 private:
  ConvTest runs_;
};

ConvCase plain_case(int64_t h, int64_t w, int64_t c, int64_t n, Random& random) {
  ConvCase d;
  set_plain_geometry(d, h, w, c, n, kTaps, 1);
  pad_same(d);
  set_random_operands(d, random);
  d.zp_w = 0;
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
      ConvCase d = plain_case(3, 4, quick ? 128 : 768, 9, random);
      d.values = values;
      d.x_signed = x_signed;
      d.w_signed = 1;
      d.output = static_cast<int64_t>(GemmOutput::kS32);
      test.check(table, d);
    }
  }
  // Where other ways must be taken.
  for (const int64_t c : {1, 3, 14, 15, 17, 33, 770}) {
    ConvCase d = plain_case(6, 5, c, 17, random);
    test.check(table, d);
  }
  // Every small map: tiles cut off below and on the right, in all or no part inside the image.
  for (int64_t h = 1; h <= (quick ? 5 : 9); ++h) {
    for (int64_t w = 1; w <= (quick ? 5 : 9); ++w) {
      ConvCase d = plain_case(h, w, random.pick(channels), random.between(1, 40), random);
      test.check(table, d);
    }
  }
  // Blocks that span images; spans of columns; panels shared out.
  for (int64_t i = 0; i < (quick ? 1 : 4); ++i) {
    ConvCase d = plain_case(5, 6, 48, 150, random);
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
    ConvCase d = plain_case(random.between(1, 14), random.between(1, 14), random.pick(channels),
                            random.between(1, 70), random);
    d.batch = random.chance(4) ? random.between(2, 4) : 1;
    pad(d, random.below(5), random.below(5), random.below(5), random.below(5));
    test.check(table, d);
  }
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
}

// Every table has been compared with the reference.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  ConvCase d;
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
