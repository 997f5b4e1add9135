// Depthwise convolution on every table against naive loops: any geometry, also where hardly a pixel
// of the image is under the kernel, any number of channels, every kind of output, every number of
// threads. Input and output lie between pages that may not be touched.
#include "check.h"
#include "conv_case.h"
#include "drivers/depthwise.h"

namespace octavo {
namespace {

class DepthwiseTest {
 public:
  void check(const KernelTable& table, const ConvCase& c) {
    CaseScope<ConvCase> scope(table, c);
    const ConvProblem p(c);
    const DepthwiseWeights weights(table, p.w.data(), c.w_signed != 0, c.n, c.n / c.c, c.kh, c.kw,
                                   c.zp_w ? p.stored.data() : nullptr);
    std::vector<uint8_t> unpacked(p.w.size());
    weights.unpack(unpacked.data());
    OCTAVO_CHECK(unpacked == p.w, "unpack() gives other weights than were packed");
    runs_.check(c, p, c.n, [&](const ConvGeometry& g, const ConvX& x, const ConvY& y, int threads) {
      depthwise(weights, g, x, y, threads);
      return true;
    });
  }

 private:
  ConvTest runs_;
};

void set_channels(ConvCase& d, int64_t channels, int64_t multiplier) {
  d.c = d.groups = channels;
  d.n = channels * multiplier;
}

ConvCase plain_case(int64_t h, int64_t w, int64_t c, int64_t k, int64_t stride) {
  ConvCase d;
  set_plain_geometry(d, h, w, c, c, k, stride);
  set_channels(d, c, 1);
  pad_same(d);
  return d;
}

// Values of every field that the geometry does not need.
void vary(ConvCase& d, Random& random) {
  set_random_operands(d, random);
  d.zp_w = random.chance(3) ? random.between(1, 2) : 0;
}

void test_depthwise(const KernelTable& table) {
  DepthwiseTest test;
  Random random(20260);
  const bool quick = in_qemu();
  const int64_t channels[] = {1, 3, 8, 16, 17, 24, 31, 32, 33, 40, 64, 65, 96, 127, 144, 200};

  // The kernels that hold rows, on maps of every height: they begin and end on their own paths.
  for (const int64_t k : {3, 5}) {
    for (const int64_t stride : {1, 2, 3}) {
      for (int64_t h = 1; h <= (quick ? 7 : 15); ++h) {
        ConvCase d = plain_case(h, random.between(1, 20), random.pick(channels), k, stride);
        vary(d, random);
        d.zp_w = 0;
        test.check(table, d);
        d.output = static_cast<int64_t>(GemmOutput::kU8);
        set_channels(d, random.between(1, 130), 1);
        test.check(table, d);
      }
    }
  }
  // Traps.
  for (const int64_t c : {1, 3, 17, 31, 33, 65}) {
    ConvCase d = plain_case(1, 1, c, 3, 1);  // padding as large as the kernel on one pixel
    pad(d, 3, 3, 3, 3);
    vary(d, random);
    test.check(table, d);
    d = plain_case(5, 4, c, 3, 1);  // dilation beyond the image
    d.dh = d.dw = 9;
    pad(d, 11, 11, 11, 11);
    vary(d, random);
    test.check(table, d);
    d = plain_case(20, 23, c, 2, 7);  // stride beyond the kernel
    vary(d, random);
    test.check(table, d);
    d = plain_case(9, 9, c, 3, 1);  // dilation that does not divide by the stride, nor it by that
    d.dh = 2;
    d.sh = 3;
    d.dw = 3;
    d.sw = 2;
    d.kh = 4;
    pad(d, 1, 1, 1, 1);
    vary(d, random);
    test.check(table, d);
    d = plain_case(1, quick ? 50 : 3000, c, 1, 1);  // one row, more than a tile
    d.kw = 7;
    d.dw = random.between(1, 40);
    pad(d, 0, 6, 0, 0);
    vary(d, random);
    test.check(table, d);
    d = plain_case(quick ? 40 : 400, 2, c, 1, 1);  // one column
    d.kh = 9;
    d.dh = random.between(1, 5);
    pad(d, 8, 0, 0, 0);
    vary(d, random);
    test.check(table, d);
    d = plain_case(12, 12, c, 11, 1);
    vary(d, random);
    test.check(table, d);
  }
  // Windows that do not fit: tiles of rows and columns, slabs of channels.
  if (!quick) {
    for (const int64_t c : {40, 64, 72, 520}) {
      for (const int64_t stride : {1, 2}) {
        ConvCase d = plain_case(60, 150, c, 3, stride);
        vary(d, random);
        test.check(table, d);
      }
    }
  }
  for (int i = 0; i < (quick ? 60 : 1500); ++i) {
    ConvCase d = plain_case(random.between(1, 16), random.between(1, 16),
                            random.chance(2) ? random.pick(channels) : random.between(1, 80), 1, 1);
    d.batch = random.chance(4) ? random.between(2, 3) : 1;
    if (random.chance(4)) {
      set_channels(d, random.between(1, 20), random.between(2, 5));
    }
    set_random_kernel(d, random, false);
    vary(d, random);
    test.check(table, d);
  }
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
}

// Every table has been compared with the reference.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  ConvCase d;
  if (!parse_case(line, d)) return false;
  DepthwiseTest test;
  test.check(table, d);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  set_dots_per_thread(1);  // or nothing here would be shared out
  return run_tests(argc, argv, test_depthwise, compare_tables, repeat_case);
}
