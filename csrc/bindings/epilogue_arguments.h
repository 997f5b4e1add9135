// The arguments that operators with 8-bit weights have in common: scales, bias, result, activation.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/ndarray.h"
#include "ops/epilogue.h"

namespace octavo {

void check_scale(float value, const char* name);
void check_code(int32_t value, Type type, const char* name);
OutputKind output_of(Type type);
Type type_of(OutputKind output);

// Reads and checks them; what `spec` points to lives as long as this object.
class EpilogueArguments {
 public:
  struct Objects {
    const py::object &w_scale, &w_zero_point, &bias, &x_scale, &x_dtype, &out_dtype, &out_scale,
        &lo, &hi;
    int32_t x_zero_point, out_zero_point;
  };
  // `output`: what one of n outputs is called in messages.
  EpilogueArguments(const Objects& objects, int64_t n, Type w_type, const char* output);
  EpilogueArguments(const EpilogueArguments&) = delete;
  EpilogueArguments& operator=(const EpilogueArguments&) = delete;

  EpilogueSpec spec{};
  bool x_is_signed = false;
  int32_t x_zero_point = 0;

 private:
  Parameter<float> scale_, bias_f32_;
  Parameter<int32_t> zero_{0}, bias_s32_;
};

}  // namespace octavo
