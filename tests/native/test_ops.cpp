// ops/ on every table: products of batches, and the prepared linear operators, must be the exact
// sums of the plain operands through the epilogue of DESIGN section 4, by any number of threads.
// Where memory runs out they throw std::bad_alloc, and work as before once there is some again.
#include "ops/linear.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include "check.h"
#include "drivers/gemm_f32.h"
#include "gemm_case.h"
#include "no_memory.h"
#include "ops/float_linear.h"
#include "ops/matmul.h"
#include "reference/gemm.h"
#include "reference/quantize.h"

namespace octavo {
namespace {

constexpr int kThreadCounts[] = {1, 2, 3, 8};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
std::vector<T> filled(size_t count, Random& random, int64_t least, int64_t most) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(random.between(least, most));
  return values;
}

int32_t any_code(bool is_signed, Random& random) {
  return static_cast<int32_t>(random.between(0, 255) - (is_signed ? 128 : 0));
}

// `run` gives the result, or throws: memory, out and back again.
template <class Run>
void check_without_memory(const Run& run, const std::vector<uint8_t>& expected) {
  for (const int threads : {1, 3}) {
    bool thrown = false;
    memory_is_out = true;
    try {
      run(threads);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    memory_is_out = false;
    // Workers have scratch of their own, and may do all the tasks.
    OCTAVO_CHECK(thrown || threads > 1, "no memory: nothing was thrown");
  }
  for (const int threads : {3, 1}) {
    OCTAVO_CHECK(run(threads) == expected, "memory again, %d threads: another result", threads);
  }
}

// ---- linear

// x: 0 float32 quantized by its rows, 1 float32 quantized by one scale, 2 codes
// scales, zeros: of w: 1 one, 2 one each (zeros: 0 none); bias: 0 none, 1 float32, 2 int32
// clip: 0 none, 1 relu, 2 both ends
// clang-format off: it never settles on these
#define OCTAVO_LINEAR_FIELDS(F) \
  F(m) F(n) F(k) F(x) F(x_signed) F(w_signed) F(scales) F(zeros) F(bias) F(output) F(clip) \
  F(gap) F(seed)
// clang-format on
OCTAVO_CASE(LinearCase, "linear", OCTAVO_LINEAR_FIELDS)

class LinearTest {
 public:
  void check(const KernelTable& table, const LinearCase& c) {
    CaseScope<LinearCase> scope(table, c);
    make(c);
    const auto linear = Linear::prepare(spec_, table, 2);
    for (const int threads : kThreadCounts) {
      if (run(*linear, table, c, threads) == expected_) continue;
      return fail("wrong result, %d threads", threads);
    }
    std::vector<uint8_t> back(w_.size());
    linear->weights().unpack(back.data(), 1, c.k);
    OCTAVO_CHECK(back == w_, "unpack does not give the weights back");
  }

  void check_memory(const KernelTable& table, const LinearCase& c) {
    CaseScope<LinearCase> scope(table, c);
    make(c);
    const auto linear = Linear::prepare(spec_, table, 1);
    check_without_memory([&](int threads) { return run(*linear, table, c, threads); }, expected_);
  }

 private:
  std::vector<uint8_t> w_, codes_, expected_;
  std::vector<float> x_, w_scale_, bias_f32_;
  std::vector<int32_t> w_zero_, bias_s32_;
  LinearSpec spec_{};

  static size_t size_of(OutputKind output) {
    return output == OutputKind::kF32 || output == OutputKind::kS32 ? 4 : 1;
  }

  void make(const LinearCase& c) {
    Random random(static_cast<uint64_t>(c.seed));
    const auto m = static_cast<size_t>(c.m), n = static_cast<size_t>(c.n),
               k = static_cast<size_t>(c.k);
    const auto output = static_cast<OutputKind>(c.output);
    const bool is_dynamic = c.x == 0, is_code = size_of(output) == 1;
    const bool x_signed = !is_dynamic && c.x_signed, w_signed = c.w_signed != 0;
    w_.resize(n * k);
    codes_.resize(m * k);
    fill_operand(w_, w_signed, 0, false, random);
    fill_operand(codes_, x_signed, 0, true, random);
    const float x_scale = 0.037f;
    int32_t x_zero = any_code(x_signed, random);
    std::vector<int32_t> row_zero(m, x_zero);
    std::vector<float> row_scale(m, 1.0f);
    x_.resize(c.x == 2 ? 0 : m * k);
    for (float& x : x_) x = static_cast<float>((random.unit() - 0.4) * 200 * 0.037);
    if (c.x == 0) {
      reference_quantize_rows(x_.data(), c.k, c.m, c.k, codes_.data(), c.k, row_scale.data(),
                              row_zero.data());
    } else if (c.x == 1) {
      reference_quantize(x_.data(), c.m * c.k, &x_scale, 0, &x_zero, 0, x_signed, codes_.data());
    }
    w_scale_.resize(c.scales == 1 ? 1 : n);
    for (float& scale : w_scale_) scale = static_cast<float>(0.01 + 0.01 * random.unit());
    w_zero_.resize(c.zeros == 0 ? 0 : c.zeros == 1 ? 1 : n);
    for (int32_t& zero : w_zero_) zero = any_code(w_signed, random);
    const auto scale_at = [&](size_t j) {
      const double w = w_scale_[c.scales == 1 ? 0 : j];
      return is_dynamic ? w : double{x_scale} * w;
    };
    // Of a size that decides results, and clamps some of them.
    const double spread =
        sum_spread(c.k, x_signed, x_zero, w_signed, w_zero_.empty() ? 0 : w_zero_[0]);
    const auto out_scale = static_cast<float>(spread * 0.0006 * (is_dynamic ? 0.2 : 0.037));
    const int32_t out_zero = is_code ? any_code(output == OutputKind::kS8, random) : 0;
    bias_f32_.clear();
    bias_s32_.clear();
    if (c.bias == 1) {
      for (size_t j = 0; j < n; ++j)
        bias_f32_.push_back(static_cast<float>((random.unit() - 0.5) * 20) * out_scale);
    } else if (c.bias == 2) {
      bias_s32_ = filled<int32_t>(n, random, -100000, 100000);
    }
    spec_ = {};
    spec_.w = {w_.data(), c.n, c.k, c.k, 1, w_signed};
    spec_.x_zero_point = x_zero;
    spec_.x_is_signed = x_signed;
    EpilogueSpec& e = spec_.epilogue;
    e.n = c.n;
    e.w_scale = w_scale_.data();
    e.w_scale_count = static_cast<int64_t>(w_scale_.size());
    e.w_is_signed = w_signed;
    e.w_zero_point = w_zero_.empty() ? nullptr : w_zero_.data();
    e.w_zero_point_count = static_cast<int64_t>(w_zero_.size());
    e.bias_f32 = c.bias == 1 ? bias_f32_.data() : nullptr;
    e.bias_s32 = c.bias == 2 ? bias_s32_.data() : nullptr;
    e.is_dynamic = is_dynamic;
    e.x_scale = x_scale;
    e.output = output;
    e.out_scale = out_scale;
    e.out_zero_point = out_zero;
    e.activate = c.clip != 0;
    e.lo = 0.0f;
    e.hi = c.clip == 1 ? kInfinity : 60 * out_scale;

    // The same by the rules, on plain operands.
    std::vector<int32_t> bias(bias_s32_), b_zero(n, 0);
    const bool bias_is_integer = output != OutputKind::kF32 && !is_dynamic;
    for (size_t j = 0; j < n && c.bias == 1 && bias_is_integer; ++j)
      bias.push_back(static_cast<int32_t>(std::nearbyint(bias_f32_[j] / scale_at(j))));
    for (size_t j = 0; j < n && c.zeros; ++j) b_zero[j] = w_zero_[c.zeros == 1 ? 0 : j];
    ReferenceProduct product;
    product.m = c.m;
    product.n = c.n;
    product.segment_length = c.k;
    product.a = codes_.data();
    product.lda = c.k;
    product.a_signed = x_signed;
    product.b = w_.data();
    product.b_row_stride = 1;
    product.b_column_stride = c.k;
    product.b_signed = w_signed;
    product.a_zero_point = row_zero.data();
    product.a_zero_point_step = 1;
    product.b_zero_point = b_zero.data();
    product.b_zero_point_step = 1;
    product.bias = bias.empty() ? nullptr : bias.data();
    std::vector<float> multiplier(n);
    for (size_t j = 0; j < n; ++j)
      multiplier[j] = static_cast<float>(is_code && !is_dynamic ? scale_at(j) / out_scale  //
                                                                : scale_at(j));
    ReferenceEpilogue epilogue;
    epilogue.multiplier = multiplier.data();
    epilogue.row_scale = row_scale.data();
    epilogue.row_scale_step = 1;
    epilogue.bias = c.bias == 1 && !bias_is_integer ? bias_f32_.data() : nullptr;
    expected_.assign(m * n * size_of(output), 0);
    epilogue.activate = c.clip != 0;
    epilogue.lo = e.lo;
    epilogue.hi = e.hi;
    if (output == OutputKind::kF32 || is_dynamic) {
      std::vector<float> real(m * n);
      epilogue.output = GemmOutput::kF32;
      reference_gemm(product, epilogue, real.data(), c.n);
      if (is_code)
        reference_quantize(real.data(), c.m * c.n, &out_scale, 0, &out_zero, 0,
                           output == OutputKind::kS8, expected_.data());
      else if (!real.empty())
        std::memcpy(expected_.data(), real.data(), expected_.size());
      return;
    }
    epilogue.output = output == OutputKind::kS32  ? GemmOutput::kS32
                      : output == OutputKind::kS8 ? GemmOutput::kS8
                                                  : GemmOutput::kU8;
    const float least = output == OutputKind::kS8 ? -128.0f : 0.0f;
    const float first = least - static_cast<float>(out_zero), last = first + 255.0f;
    epilogue.lo = c.clip ? std::clamp(0.0f, first, last) : first;
    epilogue.hi = c.clip == 2 ? std::clamp(std::nearbyint(e.hi / out_scale), first, last) : last;
    epilogue.zero_point = out_zero;
    reference_gemm(product, epilogue, expected_.data(), c.n);
  }

  std::vector<uint8_t> run(const Linear& linear, const KernelTable& table, const LinearCase& c,
                           int threads) const {
    const int64_t ldx = c.k + c.gap, ldo = c.n + c.gap;
    std::vector<uint8_t> spread_codes(static_cast<size_t>(c.m * ldx));
    std::vector<float> spread_x(spread_codes.size() + 1);  // never null
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.k; ++j) {
        const auto to = static_cast<size_t>(i * ldx + j), from = static_cast<size_t>(i * c.k + j);
        spread_codes[to] = codes_[from];
        if (!x_.empty()) spread_x[to] = x_[from];
      }
    }
    const size_t size = size_of(linear.output());
    std::vector<uint8_t> out(static_cast<size_t>(c.m * ldo) * size), tight(expected_.size());
    LinearInput x{};
    x.is_float = c.x != 2;
    x.data = x.is_float ? static_cast<const void*>(spread_x.data()) : spread_codes.data();
    x.rows = c.m;
    x.row_stride = ldx;
    x.k_stride = 1;
    OCTAVO_CHECK(linear.run(x, out.data(), ldo, table, threads), "run() says that sums overflow");
    for (int64_t i = 0; i < c.m && c.n > 0; ++i) {
      std::memcpy(tight.data() + static_cast<size_t>(i * c.n) * size,
                  out.data() + static_cast<size_t>(i * ldo) * size,
                  static_cast<size_t>(c.n) * size);
    }
    return tight;
  }
};

LinearCase random_linear(Random& random) {
  LinearCase c;
  c.m = random.chance(20) ? 0 : random.between(1, random.chance(8) ? 300 : 40);
  c.n = random.between(1, random.chance(8) ? 200 : 40);
  c.k = random.chance(20) ? 0 : random.between(1, 150);
  c.x = random.below(3);
  c.x_signed = random.below(2);
  c.w_signed = random.below(2);
  c.scales = random.between(1, 2);
  c.zeros = random.below(3);
  c.output = random.below(4);
  if (c.x == 0 && c.output == static_cast<int64_t>(OutputKind::kS32)) c.output = 0;
  c.bias = random.below(c.x == 0 ? 2 : 3);  // int32 needs a scale of x that is known
  c.clip = c.output == static_cast<int64_t>(OutputKind::kS32) ? 0 : random.below(3);
  c.gap = random.chance(2) ? random.below(9) : 0;
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

// ---- matmul

// batch matrices; packed: B was packed before; zp_a, zp_b: 0 one, 1 one each; type: GemmC::Type
// clang-format off: it never settles on these
#define OCTAVO_MATMUL_FIELDS(F) \
  F(batch) F(m) F(n) F(k) F(a_signed) F(b_signed) F(packed) F(zp_a) F(zp_b) F(type) F(bias) F(seed)
// clang-format on
OCTAVO_CASE(MatmulCase, "matmul", OCTAVO_MATMUL_FIELDS)

class MatmulTest {
 public:
  void check(const KernelTable& table, const MatmulCase& c) {
    CaseScope<MatmulCase> scope(table, c);
    make(table, c);
    for (const int threads : kThreadCounts) {
      if (run(table, c, threads) == expected_) continue;
      return fail("wrong result, %d threads", threads);
    }
  }

  void check_memory(const KernelTable& table, const MatmulCase& c) {
    CaseScope<MatmulCase> scope(table, c);
    make(table, c);
    check_without_memory([&](int threads) { return run(table, c, threads); }, expected_);
  }

 private:
  std::vector<uint8_t> a_, b_, expected_;
  std::vector<int32_t> a_zero_, b_zero_, bias_;
  std::vector<float> multiplier_, bias_f32_;
  std::vector<std::unique_ptr<PackedMatrix>> packed_;
  MatmulEpilogue epilogue_{};

  static size_t size_of(GemmC::Type type) {
    return type == GemmC::Type::kS64                              ? 8
           : type == GemmC::Type::kU8 || type == GemmC::Type::kS8 ? 1
                                                                  : 4;
  }

  void make(const KernelTable& table, const MatmulCase& c) {
    Random random(static_cast<uint64_t>(c.seed));
    const auto type = static_cast<GemmC::Type>(c.type);
    const bool a_signed = c.a_signed != 0, b_signed = c.b_signed != 0;
    const bool is_code = size_of(type) == 1, is_float = type == GemmC::Type::kF32;
    a_.resize(static_cast<size_t>(c.batch * c.m * c.k));
    b_.resize(static_cast<size_t>(c.batch * c.k * c.n));
    fill_operand(a_, a_signed, 0, true, random);
    fill_operand(b_, b_signed, 0, false, random);
    a_zero_.resize(static_cast<size_t>(c.zp_a ? c.batch * c.m : c.batch));
    b_zero_.resize(static_cast<size_t>(c.zp_b ? c.batch * c.n : c.batch));
    for (int32_t& zero : a_zero_) zero = any_code(a_signed, random);
    for (int32_t& zero : b_zero_) zero = any_code(b_signed, random);
    const auto n = static_cast<size_t>(c.n);
    bias_ = filled<int32_t>(n, random, -100000, 100000);
    bias_f32_.resize(n);
    multiplier_.resize(n);
    for (size_t j = 0; j < n; ++j) {
      bias_f32_[j] = static_cast<float>(random.unit() * 20 - 10);
      multiplier_[j] = static_cast<float>((0.5 + random.unit()) * 60 /
                                          sum_spread(c.k, a_signed, 0, b_signed, 0));
    }
    epilogue_ = {};
    epilogue_.type = type;
    epilogue_.bias_s32 = c.bias && !is_float ? bias_.data() : nullptr;
    epilogue_.bias_f32 = c.bias && is_float ? bias_f32_.data() : nullptr;
    epilogue_.bias_step = epilogue_.multiplier_step = 1;
    epilogue_.multiplier = is_code || is_float ? multiplier_.data() : nullptr;
    epilogue_.zero_point = is_code ? any_code(type == GemmC::Type::kS8, random) : 0;
    const auto zero = static_cast<float>(epilogue_.zero_point);
    epilogue_.lo = (type == GemmC::Type::kS8 ? -128.0f : 0.0f) - zero;
    epilogue_.hi = epilogue_.lo + 255.0f;

    packed_.clear();
    expected_.assign(static_cast<size_t>(c.batch * c.m * c.n) * size_of(type), 0);
    for (int64_t i = 0; i < c.batch; ++i) {
      const uint8_t* b = b_.data() + i * c.k * c.n;
      if (c.packed)
        packed_.push_back(
            std::make_unique<PackedMatrix>(table, ByteMatrix{b, c.k, c.n, c.n, 1, b_signed}, 1));
      ReferenceProduct product;
      product.m = c.m;
      product.n = c.n;
      product.segment_length = c.k;
      product.a = a_.data() + i * c.m * c.k;
      product.lda = c.k;
      product.a_signed = a_signed;
      product.b = b;
      product.b_row_stride = c.n;
      product.b_signed = b_signed;
      product.a_zero_point = a_zero_.data() + i * (c.zp_a ? c.m : 1);
      product.a_zero_point_step = c.zp_a;
      product.b_zero_point = b_zero_.data() + i * (c.zp_b ? c.n : 1);
      product.b_zero_point_step = c.zp_b;
      product.bias = epilogue_.bias_s32;
      std::vector<int64_t> sums(static_cast<size_t>(c.m * c.n));
      reference_products(product, sums.data());
      uint8_t* out = expected_.data() + static_cast<size_t>(i * c.m * c.n) * size_of(type);
      if (type == GemmC::Type::kS64) {
        if (!sums.empty()) std::memcpy(out, sums.data(), sums.size() * sizeof(int64_t));
        continue;
      }
      const float one = 1.0f;
      ReferenceEpilogue e;
      e.output = is_float                   ? GemmOutput::kF32
                 : type == GemmC::Type::kU8 ? GemmOutput::kU8
                 : type == GemmC::Type::kS8 ? GemmOutput::kS8
                                            : GemmOutput::kS32;
      e.multiplier = multiplier_.data();
      e.row_scale = &one;
      e.bias = epilogue_.bias_f32;
      e.lo = epilogue_.lo;
      e.hi = epilogue_.hi;
      e.zero_point = epilogue_.zero_point;
      reference_epilogue(e, sums.data(), c.m, c.n, out, c.n);
    }
  }

  std::vector<uint8_t> run(const KernelTable& table, const MatmulCase& c, int threads) {
    std::vector<uint8_t> out(expected_.size(), 0x3c);
    std::vector<MatmulItem> items;
    for (int64_t i = 0; i < c.batch; ++i) {
      MatmulItem item{};
      item.a = {a_.data() + i * c.m * c.k, c.m, c.k, c.k, 1, c.a_signed != 0};
      item.a_zero_point = a_zero_.data() + i * (c.zp_a ? c.m : 1);
      item.a_zero_point_step = c.zp_a;
      if (c.packed) item.packed = &packed_[static_cast<size_t>(i)]->form(&table);
      item.b = {b_.data() + i * c.k * c.n, c.k, c.n, c.n, 1, c.b_signed != 0};
      item.b_zero_point = b_zero_.data() + i * (c.zp_b ? c.n : 1);
      item.b_zero_point_step = c.zp_b;
      item.c = out.data() + static_cast<size_t>(i * c.m * c.n) * size_of(epilogue_.type);
      item.ldc = c.n;
      items.push_back(item);
    }
    OCTAVO_CHECK(run_matmul(items.data(), c.batch, epilogue_, table, threads),
                 "run_matmul says that sums overflow");
    return out;
  }
};

MatmulCase random_matmul(Random& random) {
  MatmulCase c;
  c.batch = random.chance(3) ? random.between(2, 9) : 1;
  c.m = random.between(1, random.chance(8) ? 200 : 30);
  c.n = random.between(1, random.chance(8) ? 200 : 40);
  c.k = random.chance(20) ? 0 : random.between(1, 120);
  c.a_signed = random.below(2);
  c.b_signed = random.below(2);
  c.packed = random.below(2);
  c.zp_a = random.below(2);
  c.zp_b = random.below(2);
  c.type = random.below(5);
  c.bias = random.below(2);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

// ---- linear with float weights

// ints: small integers, whose sums float32 holds exactly; else any values
// clang-format off: it never settles on these
#define OCTAVO_FLOAT_LINEAR_FIELDS(F) F(m) F(n) F(k) F(half) F(ints) F(bias) F(clip) F(gap) F(seed)
// clang-format on
OCTAVO_CASE(FloatLinearCase, "float_linear", OCTAVO_FLOAT_LINEAR_FIELDS)

// An integer of magnitude below 2048 as binary16.
uint16_t half_of(int value) {
  if (value == 0) return 0;
  const int magnitude = std::abs(value);
  int exponent = 0;
  while (magnitude >> (exponent + 1)) ++exponent;
  const int fraction = (magnitude << 10 >> exponent) & 0x3ff;
  return static_cast<uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 15) << 10 | fraction);
}

class FloatLinearTest {
 public:
  // The result of every number of threads, which must be one; integers also by plain sums.
  std::vector<uint8_t> check(const KernelTable& table, const FloatLinearCase& c) {
    CaseScope<FloatLinearCase> scope(table, c);
    make(c);
    const auto linear = FloatLinear::prepare(spec_, table);
    std::vector<uint8_t> first;
    for (const int threads : kThreadCounts) {
      const std::vector<uint8_t> out = run(*linear, table, c, threads);
      if (first.empty()) first = out;
      OCTAVO_CHECK(out == first, "%d threads give another result than one", threads);
    }
    OCTAVO_CHECK(!c.ints || first == expected_, "wrong sums");
    return first;
  }

  void check_memory(const KernelTable& table, const FloatLinearCase& c) {
    CaseScope<FloatLinearCase> scope(table, c);
    make(c);
    bool thrown = false;
    memory_is_out = true;
    try {
      FloatLinear::prepare(spec_, table);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    memory_is_out = false;
    OCTAVO_CHECK(thrown, "no memory for the weights: nothing was thrown");
  }

 private:
  std::vector<float> x_, w_, bias_;
  std::vector<uint16_t> half_;
  std::vector<uint8_t> expected_;
  FloatLinearSpec spec_{};

  void make(const FloatLinearCase& c) {
    Random random(static_cast<uint64_t>(c.seed));
    const auto n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k);
    const auto value = [&] {
      return c.ints ? static_cast<float>(random.between(-8, 8))
                    : static_cast<float>(random.unit() * 2 - 1);
    };
    x_.resize(static_cast<size_t>(c.m) * k);
    w_.resize(n * k);
    half_.resize(n * k);
    bias_.resize(n);
    for (float& x : x_) x = value();
    for (float& b : bias_) b = value();
    for (size_t i = 0; i < w_.size(); ++i) {
      w_[i] = c.half ? static_cast<float>(random.between(-8, 8)) : value();
      half_[i] = half_of(static_cast<int>(w_[i]));
    }
    spec_ = {};
    spec_.w = {
        c.half ? static_cast<const void*>(half_.data()) : w_.data(), c.n, c.k, c.k, 1, c.half != 0};
    spec_.bias = c.bias ? bias_.data() : nullptr;
    spec_.activate = c.clip != 0;
    spec_.lo = 0.0f;
    spec_.hi = c.clip == 1 ? kInfinity : 6.0f;
    std::vector<float> sums;
    for (size_t i = 0; i < static_cast<size_t>(c.m); ++i) {
      for (size_t j = 0; j < n; ++j) {
        int64_t sum = c.bias ? static_cast<int64_t>(bias_[j]) : 0;
        for (size_t l = 0; l < k && c.ints; ++l)
          sum += static_cast<int64_t>(x_[i * k + l]) * static_cast<int64_t>(w_[j * k + l]);
        const auto y = static_cast<float>(sum);
        sums.push_back(c.clip ? std::clamp(y, spec_.lo, spec_.hi) : y);
      }
    }
    expected_.resize(sums.size() * sizeof(float));
    if (!sums.empty()) std::memcpy(expected_.data(), sums.data(), expected_.size());
  }

  std::vector<uint8_t> run(const FloatLinear& linear, const KernelTable& table,
                           const FloatLinearCase& c, int threads) const {
    const int64_t ldx = c.k + c.gap, ldo = c.n + c.gap;
    std::vector<float> x(static_cast<size_t>(c.m * ldx)), out(static_cast<size_t>(c.m * ldo));
    for (int64_t i = 0; i < c.m; ++i) std::copy_n(x_.begin() + i * c.k, c.k, x.begin() + i * ldx);
    linear.run(x.data(), c.m, ldx, out.data(), ldo, table, threads);
    std::vector<uint8_t> tight;
    for (int64_t i = 0; i < c.m; ++i) {
      const auto* row = reinterpret_cast<const uint8_t*>(out.data() + i * ldo);
      tight.insert(tight.end(), row, row + static_cast<size_t>(c.n) * sizeof(float));
    }
    return tight;
  }
};

FloatLinearCase random_float_linear(Random& random) {
  FloatLinearCase c;
  c.m = random.between(1, random.chance(8) ? 200 : 30);
  c.n = random.between(1, random.chance(8) ? 200 : 40);
  c.k = random.chance(20) ? 0 : random.between(1, random.chance(8) ? 1500 : 100);
  c.half = random.below(2);
  c.ints = random.below(2);
  c.bias = random.below(2);
  c.clip = random.below(3);
  c.gap = random.chance(2) ? random.below(9) : 0;
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

// -------------------------------------------------------------------------------------------------

void test_table(const KernelTable& table) {
  const int repeats = in_qemu() ? 40 : 400;
  const int64_t before = running.cases;
  Random random(11);
  LinearTest linear;
  MatmulTest matmul;
  FloatLinearTest float_linear;
  for (int i = 0; i < repeats; ++i) {
    linear.check(table, random_linear(random));
    matmul.check(table, random_matmul(random));
    float_linear.check(table, random_float_linear(random));
  }
  LinearCase rows = random_linear(random);
  rows.m = 40;
  rows.k = 150;
  rows.x = rows.bias = rows.output = 0;
  MatmulCase panels = random_matmul(random);
  panels.batch = 1;  // of several, workers may take all
  panels.packed = 0;
  std::thread([&] {  // a new thread has no scratch yet
    linear.check_memory(table, rows);
    matmul.check_memory(table, panels);
  })
      .join();
  float_linear.check_memory(table, random_float_linear(random));
  std::printf("%-12s %8lld cases\n", table.info->name,
              static_cast<long long>(running.cases - before));
}

// Float sums have no reference: their order is all that gives them their bits.
void compare_tables(const std::vector<const KernelTable*>& tables) {
  Random random(12);
  FloatLinearTest test;
  for (int i = 0; i < (in_qemu() ? 10 : 60); ++i) {
    FloatLinearCase c = random_float_linear(random);
    c.ints = 0;
    const std::vector<uint8_t> first = test.check(*tables[0], c);
    for (const KernelTable* table : tables) {
      OCTAVO_CHECK(test.check(*table, c) == first, "%s differs from %s: %s", table->info->name,
                   tables[0]->info->name, case_line(c).c_str());
    }
  }
}

bool repeat_case(const KernelTable& table, const std::string& line) {
  LinearCase linear;
  MatmulCase matmul;
  FloatLinearCase float_linear;
  if (parse_case(line, linear)) {
    LinearTest().check(table, linear);
  } else if (parse_case(line, matmul)) {
    MatmulTest().check(table, matmul);
  } else if (parse_case(line, float_linear)) {
    FloatLinearTest().check(table, float_linear);
  } else {
    return false;
  }
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using namespace octavo;
  set_dots_per_thread(1);  // or no product here would be shared out
  return run_tests(argc, argv, test_table, compare_tables, repeat_case);
}
