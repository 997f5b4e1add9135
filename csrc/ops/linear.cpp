#include "ops/linear.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "runtime/aligned_buffer.h"
#include "runtime/thread_pool.h"

namespace octavo {
namespace {

// More than any table's row vector: arrays over columns are padded by as much.
constexpr int64_t kPadding = 64;

int32_t bias_code(float bias, double scale, int64_t channel) {
  const double code = std::nearbyint(static_cast<double>(bias) / scale);
  if (!(std::fabs(code) <= 2147483647.0))
    throw std::invalid_argument("bias[" + std::to_string(channel) + "] = " + std::to_string(bias) +
                                " is " + std::to_string(code) +
                                " at x_scale * w_scale; it must fit int32");
  return static_cast<int32_t>(code);
}

}  // namespace

std::unique_ptr<Linear> Linear::prepare(const LinearSpec& spec, const KernelTable& table,
                                        int threads) {
  return std::unique_ptr<Linear>(new Linear(spec, table, threads));
}

Linear::Linear(const LinearSpec& spec, const KernelTable& table, int threads)
    : weights_(table,
               ByteMatrix{spec.w.data, spec.w.cols, spec.w.rows, spec.w.col_stride,
                          spec.w.row_stride, spec.w.is_signed},
               threads),
      is_dynamic_(spec.is_dynamic),
      x_is_signed_(spec.x_is_signed),
      activate_(spec.activate),
      output_(spec.output),
      x_scale_(spec.x_scale),
      out_scale_(spec.out_scale),
      lo_(spec.lo),
      hi_(spec.hi),
      x_zero_point_(spec.x_zero_point),
      out_zero_point_(spec.out_zero_point) {
  const int64_t n = spec.w.rows;
  const auto padded = static_cast<size_t>(n + kPadding);
  const bool is_integer = output_ != LinearSpec::Output::kF32;
  const bool is_quantized = is_integer && output_ != LinearSpec::Output::kS32;
  auto scale_of = [&](int64_t i) {
    const double w = spec.w_scale[spec.w_scale_count == 1 ? 0 : i];
    return is_dynamic_ ? w : static_cast<double>(spec.x_scale) * w;
  };

  multiplier_.assign(padded, 1.0f);
  for (int64_t i = 0; i < n; ++i) {
    // Dynamic results are float32 first, whatever follows.
    const double y = is_quantized && !is_dynamic_ ? scale_of(i) / spec.out_scale : scale_of(i);
    multiplier_[static_cast<size_t>(i)] = static_cast<float>(y);
  }
  if (spec.bias_s32 || (spec.bias_f32 && is_integer && !is_dynamic_)) {
    bias_s32_.assign(padded, 0);
    for (int64_t i = 0; i < n; ++i) {
      const int32_t code =
          spec.bias_s32 ? spec.bias_s32[i] : bias_code(spec.bias_f32[i], scale_of(i), i);
      bias_s32_[static_cast<size_t>(i)] = code;
      max_abs_bias_ = std::max(max_abs_bias_, std::abs(int64_t{code}));
    }
  } else if (spec.bias_f32) {
    bias_f32_.assign(spec.bias_f32, spec.bias_f32 + n);
    bias_f32_.resize(padded, 0.0f);
  }
  // uint8 weights are stored 128 lower.
  const int32_t shift = spec.w.is_signed ? 0 : 128;
  bool any_zero = false;
  w_zero_point_.assign(padded, 0);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t given =
        spec.w_zero_point ? spec.w_zero_point[spec.w_zero_point_count == 1 ? 0 : i] : 0;
    w_zero_point_[static_cast<size_t>(i)] = given - shift;
    any_zero |= given != shift;
  }
  if (!any_zero) w_zero_point_.clear();

  if (is_quantized && !is_dynamic_) {
    // Clamping before rounding at rint(bound / scale) is clamping the real value at the bound.
    const float least = output_ == LinearSpec::Output::kS8 ? -128.0f : 0.0f;
    const auto zero = static_cast<float>(spec.out_zero_point);
    const float code_lo = least - zero, code_hi = least + 255.0f - zero;
    lo_ = hi_ = 0.0f;
    if (activate_) {
      lo_ = std::clamp(std::nearbyint(spec.lo / spec.out_scale), code_lo, code_hi);
      hi_ = std::clamp(std::nearbyint(spec.hi / spec.out_scale), code_lo, code_hi);
    } else {
      lo_ = code_lo;
      hi_ = code_hi;
    }
  }
  prepare_form(table);
}

void Linear::prepare_form(const KernelTable& table) const {
  const PackedB& b = weights_.form(&table);
  if (is_dynamic_) return;
  start_.get(&table, [&] {
    auto start = std::make_unique<Start>(b.padded_n);
    column_start(b, stored_a_zero_point(table, x_is_signed_, x_zero_point_),
                 bias_s32_.empty() ? nullptr : bias_s32_.data(), start->values.data());
    return start;
  });
}

size_t Linear::nbytes() const {
  return weights_.nbytes() +
         sizeof(float) * (multiplier_.size() + bias_f32_.size() + bias_s32_.size() +
                          w_zero_point_.size() + (is_dynamic_ ? 0 : multiplier_.size()));
}

bool Linear::run(const LinearInput& x, void* out, int64_t ldo, const KernelTable& table,
                 int threads) const noexcept {
  const PackedB& b = weights_.form(&table);
  const int32_t* start = nullptr;
  if (!is_dynamic_) {
    prepare_form(table);
    start = start_.get(&table, [] { return std::unique_ptr<Start>(); }).values.data();
  }

  GemmA a{};
  a.kind = !x.is_float   ? GemmA::Kind::kBytes
           : is_dynamic_ ? GemmA::Kind::kQuantizeRows
                         : GemmA::Kind::kQuantize;
  a.data = x.data;
  a.m = x.rows;
  a.row_stride = x.row_stride;
  a.k_stride = x.k_stride;
  a.is_signed = !is_dynamic_ && x_is_signed_;
  a.zero_point = &x_zero_point_;
  a.scale = x_scale_;

  GemmC c{};
  c.data = out;
  c.ldc = ldo;
  c.bias_s32 = bias_s32_.empty() ? nullptr : bias_s32_.data();
  c.max_abs_bias = max_abs_bias_;
  c.b_zero_point = w_zero_point_.empty() ? nullptr : w_zero_point_.data();
  c.multiplier = multiplier_.data();
  c.bias_f32 = bias_f32_.empty() ? nullptr : bias_f32_.data();
  c.activate = activate_;
  c.lo = lo_;
  c.hi = hi_;
  c.zero_point = out_zero_point_;
  switch (output_) {
    case LinearSpec::Output::kF32:
      c.type = GemmC::Type::kF32;
      return gemm(a, b, c, start, threads);
    case LinearSpec::Output::kS32:
      c.type = GemmC::Type::kS32;
      return gemm(a, b, c, start, threads);
    default:
      break;
  }
  const bool is_signed = output_ == LinearSpec::Output::kS8;
  if (!is_dynamic_) {
    c.type = is_signed ? GemmC::Type::kS8 : GemmC::Type::kU8;
    return gemm(a, b, c, start, threads);
  }
  // Dynamic input, integer output: the float32 result, then rule 1, a few rows at a time.
  constexpr int64_t kRows = 256;
  const int64_t n = b.n;
  c.type = GemmC::Type::kF32;
  c.ldc = n;
  for (int64_t first = 0; first < x.rows; first += kRows) {
    const int64_t rows = std::min(kRows, x.rows - first);
    auto* real = static_cast<float*>(
        scratch(ScratchSlot::kOutput, static_cast<size_t>(rows * n) * sizeof(float)));
    c.data = real;
    a.data = static_cast<const float*>(x.data) + first * x.row_stride;
    a.m = rows;
    gemm(a, b, c, start, threads);
    parallel_for(static_cast<int>(rows), rows * n > 65536 ? threads : 1, [&](int i) {
      table.quantize->quantize(real + i * n, n, &out_scale_, 0, &out_zero_point_, 0, is_signed,
                               static_cast<uint8_t*>(out) + (first + i) * ldo);
    });
  }
  return true;
}

}  // namespace octavo
