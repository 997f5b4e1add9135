// libFuzzer target: the bytes choose a convolution and its operands; every driver that computes it
// must give what the reference gives, on every table that this machine supports.
//
//   clang++-19 -fsanitize=fuzzer,address,undefined ...; fuzz_conv -max_total_time=30 corpus/conv
//
// A seed in the corpus is what a crash file is: the fields that read_case() takes, two bytes each,
// then bytes of x and of the weights.
#include <algorithm>
#include <cstdlib>

#include "check.h"
#include "conv_case.h"
#include "drivers/conv.h"
#include "drivers/depthwise.h"
#include "drivers/winograd.h"
#include "fuzz_bytes.h"
#include "runtime/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t kMostMacs = 200'000;  // so that naive loops take milliseconds

bool is_depthwise(const ConvCase& c) { return c.groups > 1 && c.groups == c.c; }

// At least 1, at most `most`, and no more than the budget leaves.
int64_t count_within(int64_t budget, int64_t most, Bytes& bytes) {
  return 1 + bytes.below(std::clamp<int64_t>(budget, 1, most));
}

ConvCase read_case(Bytes& bytes) {
  enum Kind { kDense, kGroups, kDepthwise, kCut };
  const auto kind = static_cast<Kind>(bytes.below(4));
  ConvCase c;
  c.batch = 1 + bytes.below(3);
  c.h = 1 + bytes.below(20);
  c.w = 1 + bytes.below(40);
  c.kh = 1 + bytes.below(7);
  c.kw = 1 + bytes.below(7);
  c.sh = 1 + bytes.below(4);
  c.sw = 1 + bytes.below(4);
  c.dh = 1 + bytes.below(5);
  c.dw = 1 + bytes.below(5);
  const int64_t top = bytes.below(16), left = bytes.below(16);
  const int64_t bottom = bytes.below(16), right = bytes.below(16);
  pad(c, top, left, bottom, right);
  if (kind == kCut) {  // begins inside the image or far from it, as transposed convolution has it
    c.top = top - 12;
    c.left = left - 12;
    c.oh = 1 + bottom;
    c.ow = 1 + right;
  }
  const int64_t budget = kMostMacs / (c.batch * c.oh * c.ow * c.kh * c.kw);
  if (kind == kDepthwise) {
    c.c = c.groups = 1 + count_within(budget, 140, bytes);
    c.n = c.c * count_within(budget / c.c, 3, bytes);
  } else {
    c.groups = kind == kGroups ? 2 + bytes.below(7) : 1;
    const int64_t group_in = count_within(budget / c.groups, 80, bytes);
    c.c = c.groups * group_in;
    c.n = c.groups * count_within(budget / c.c, kind == kGroups ? 16 : 120, bytes);
  }
  c.x_signed = bytes.below(2);
  c.w_signed = bytes.below(2);
  // Where groups are blocks of a diagonal there are no zero points.
  c.zp_w = c.groups == 1 || is_depthwise(c) ? bytes.below(3) : 0;
  c.output = bytes.below(4);
  c.bias = bytes.below(is_depthwise(c) ? 2 : 3);  // depthwise() trusts that int32 holds the sums
  c.clip = bytes.below(3);
  c.values = bytes.below(7);
  c.start = bytes.below(2);
  c.gap = bytes.below(70);
  c.gaps = bytes.below(64);
  c.finish = bytes.below(2);
  c.sides = bytes.below(8);
  c.seed = bytes.below(65536);
  return c;
}

class FuzzTest {
 public:
  void check(const KernelTable& table, const ConvCase& c, const ConvProblem& p) {
    if (is_depthwise(c)) {
      const DepthwiseWeights weights(table, p.w.data(), c.w_signed != 0, c.n, c.n / c.c, c.kh, c.kw,
                                     c.zp_w ? p.stored.data() : nullptr);
      return runs_.check(c, p, c.n, [&](const auto& g, const auto& x, const auto& y, int threads) {
        depthwise(weights, g, x, y, threads);
        return true;
      });
    }
    const int64_t taps = c.kh * c.kw;
    const KernelValues values = {
        p.w.data(), {c.c / c.groups * taps, taps, c.kw, 1}, c.w_signed != 0, false};
    const ConvWeights weights(table, values, c.n, c.c, c.kh, c.kw, c.groups, 2);
    const PackedB& b = weights.packed();
    std::vector<int32_t> bias(p.bias_s32), start;
    if (c.start) {
      const bool has_bias = c.bias && static_cast<GemmOutput>(c.output) != GemmOutput::kF32;
      start.resize(static_cast<size_t>(b.padded_n));
      bias.resize(start.size());
      column_start(b, stored_a_zero_point(table, c.x_signed != 0, p.za),
                   has_bias ? bias.data() : nullptr, start.data());
    }
    runs_.check(c, p, b.padded_n, [&](const auto& g, const auto& x, const auto& y, int threads) {
      return conv(weights, g, x, y, c.start ? start.data() : nullptr, threads);
    });
    if (c.bias == 2) return;  // int32 may not hold the sums
    // conv() takes it where it pays.
    runs_.check(c, p, b.padded_n, [&](const auto& g, const auto& x, const auto& y, int threads) {
      if (!winograd_applies(weights, g, y)) return conv(weights, g, x, y, nullptr, threads);
      winograd(weights, g, x, y, threads);
      return true;
    });
  }

 private:
  ConvTest runs_;
};

}  // namespace
}  // namespace octavo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace octavo;
  set_dots_per_thread(1);  // or nothing here would be shared out
  Bytes bytes(data, size);
  const ConvCase c = read_case(bytes);
  // Which repeats a case whose operands the seed alone made.
  running.program = is_depthwise(c) ? "test_depthwise" : "test_conv";
  const ConvProblem problem(c, [&](std::vector<uint8_t>& operand) { bytes.overwrite(operand); });
  static FuzzTest test;
  for (const KernelTable* table : all_tables()) {
    if (!is_supported(*table)) continue;
    CaseScope<ConvCase> scope(*table, c);
    test.check(*table, c, problem);
    if (running.failures > 0) std::abort();
  }
  return 0;
}
