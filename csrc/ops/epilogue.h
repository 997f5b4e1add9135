// What becomes of the sums of an operator with 8-bit weights (DESIGN section 4, rules 4 and 5),
// with one scale for all outputs or one for each: prepared once.
#pragma once

#include <cstdint>
#include <vector>

#include "drivers/gemm.h"

namespace octavo {

enum class OutputKind { kF32, kS32, kU8, kS8 };

// Bounds of a code less its zero point: clamping there before rounding is clamping the real value
// to [lo, hi].
struct CodeBounds {
  CodeBounds(bool is_signed, int32_t zero_point, float scale, float lo, float hi);
  float lo, hi;
};

struct EpilogueSpec {
  int64_t n;  // outputs
  const float* w_scale;
  int64_t w_scale_count;  // 1 or n
  bool w_is_signed;
  const int32_t* w_zero_point;  // null: 0
  int64_t w_zero_point_count;   // 1 or n
  const float* bias_f32;        // null: none
  const int32_t* bias_s32;      // null: none; at x_scale * w_scale

  bool is_dynamic;  // x is quantized by its own range at each call
  float x_scale;

  OutputKind output;
  float out_scale;
  int32_t out_zero_point;

  bool activate;
  float lo, hi;  // in real units
};

class Epilogue {
 public:
  // Throws std::invalid_argument where the specification makes no sense.
  explicit Epilogue(const EpilogueSpec& spec);

  OutputKind output() const { return output_; }
  bool is_codes() const { return output_ == OutputKind::kU8 || output_ == OutputKind::kS8; }
  float out_scale() const { return out_scale_; }
  int32_t out_zero_point() const { return out_zero_point_; }
  // Over outputs, padded for every table.
  const float* multiplier() const { return multiplier_.data(); }
  const int32_t* bias_s32() const { return bias_s32_.empty() ? nullptr : bias_s32_.data(); }
  size_t nbytes() const;

  // All of c but data and ldc, for outputs [first, ...). A dynamic operator's result is float32
  // whatever is asked for: codes are made of it by rule 1.
  void fill(GemmC& c, int64_t first = 0) const;

 private:
  bool is_dynamic_, activate_;
  OutputKind output_;
  float out_scale_, lo_, hi_;
  int32_t out_zero_point_;
  // Empty: none.
  std::vector<int32_t> bias_s32_, w_zero_point_;
  std::vector<float> multiplier_, bias_f32_;
  int64_t max_abs_bias_ = 0;
};

}  // namespace octavo
