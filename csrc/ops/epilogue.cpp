#include "ops/epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "drivers/sizes.h"

namespace octavo {
namespace {

int32_t bias_code(float bias, double scale, int64_t channel) {
  const double code = std::nearbyint(static_cast<double>(bias) / scale);
  if (!(std::fabs(code) <= 2147483647.0))
    throw std::invalid_argument("bias[" + std::to_string(channel) + "] = " + std::to_string(bias) +
                                " is " + std::to_string(code) +
                                " at x_scale * w_scale; it must fit int32");
  return static_cast<int32_t>(code);
}

}  // namespace

CodeBounds::CodeBounds(bool is_signed, int32_t zero_point, float scale, float real_lo,
                       float real_hi) {
  const auto least = static_cast<float>((is_signed ? -128 : 0) - zero_point);
  lo = std::clamp(std::nearbyint(real_lo / scale), least, least + 255.0f);
  hi = std::clamp(std::nearbyint(real_hi / scale), least, least + 255.0f);
}

Epilogue::Epilogue(const EpilogueSpec& spec)
    : is_dynamic_(spec.is_dynamic),
      activate_(spec.activate),
      output_(spec.output),
      out_scale_(spec.out_scale),
      lo_(spec.lo),
      hi_(spec.hi),
      out_zero_point_(spec.out_zero_point) {
  const int64_t n = spec.n;
  const auto padded = static_cast<size_t>(n + kColumnPadding);
  const bool is_integer = output_ != OutputKind::kF32;
  const bool is_quantized = is_codes();
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
  const int32_t shift = spec.w_is_signed ? 0 : 128;
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
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const CodeBounds bounds(output_ == OutputKind::kS8, spec.out_zero_point, spec.out_scale,
                            activate_ ? spec.lo : -kInfinity, activate_ ? spec.hi : kInfinity);
    lo_ = bounds.lo;
    hi_ = bounds.hi;
  }
}

size_t Epilogue::nbytes() const {
  return sizeof(float) *
         (multiplier_.size() + bias_f32_.size() + bias_s32_.size() + w_zero_point_.size());
}

void Epilogue::fill(GemmC& c, int64_t first) const {
  const auto from = [first](const auto& array) {
    return array.empty() ? nullptr : array.data() + first;
  };
  switch (is_dynamic_ ? OutputKind::kF32 : output_) {
    case OutputKind::kF32:
      c.type = GemmC::Type::kF32;
      break;
    case OutputKind::kS32:
      c.type = GemmC::Type::kS32;
      break;
    case OutputKind::kU8:
      c.type = GemmC::Type::kU8;
      break;
    case OutputKind::kS8:
      c.type = GemmC::Type::kS8;
      break;
  }
  c.bias_s32 = from(bias_s32_);
  c.max_abs_bias = max_abs_bias_;
  c.b_zero_point = from(w_zero_point_);
  c.multiplier = from(multiplier_);
  c.bias_f32 = from(bias_f32_);
  c.activate = activate_;
  c.lo = lo_;
  c.hi = hi_;
  c.zero_point = out_zero_point_;
}

}  // namespace octavo
