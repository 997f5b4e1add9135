// libFuzzer target: the bytes choose a product and its operands; every table that this machine
// supports must give what the reference gives.
//
//   clang++-19 -fsanitize=fuzzer,address,undefined ...; fuzz_gemm -max_total_time=30 corpus/gemm
//
// A seed in the corpus is what a crash file is: the fields of GemmCase, two bytes each, then the
// bytes of A and B.
#include <cstdlib>

#include "check.h"
#include "fuzz_bytes.h"
#include "gemm_case.h"

namespace octavo {
namespace {

GemmCase read_case(Bytes& bytes) {
  GemmCase c;
  c.m = 1 + bytes.below(40);
  c.n = 1 + bytes.below(200);
  c.segments = 1 + bytes.below(3);
  c.length = bytes.below(200);
  c.pitch_extra = bytes.below(20);
  c.lda_extra = bytes.below(60) - 20;
  c.a_signed = bytes.below(2);
  c.b_signed = bytes.below(2);
  c.zp_a = bytes.below(4);
  c.zp_b = bytes.below(3);
  c.zp_wide = bytes.below(2);
  c.output = bytes.below(4);
  c.bias = bytes.below(2);
  c.clip = bytes.below(4);
  c.row_scale_step = bytes.below(2);
  c.expanded = bytes.below(2);
  c.two_panels = bytes.below(2);
  c.prefetch = bytes.below(2);
  c.ldc_extra = bytes.below(20);
  c.values = bytes.below(8);
  c.scales = bytes.below(3);
  c.sides = bytes.below(65536);
  c.seed = bytes.below(65536);
  return c;
}

}  // namespace
}  // namespace octavo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace octavo;
  running.program = "test_kernels";  // which repeats a case whose operands the seed alone made
  Bytes bytes(data, size);
  const GemmCase c = read_case(bytes);
  GemmProblem problem = make_problem(c);
  bytes.overwrite(problem.a);
  bytes.overwrite(problem.b);
  const std::vector<uint8_t> expected = expected_output(c, problem);
  static GemmRunner runner;
  for (const KernelTable* table : all_tables()) {
    if (!is_supported(*table)) continue;
    CaseScope<GemmCase> scope(*table, c);
    const std::string where = difference(c, runner.run(*table, c, problem), expected);
    OCTAVO_CHECK(where.empty(), "gemm: %s", where.c_str());
    if (running.failures > 0) std::abort();
  }
  return 0;
}
