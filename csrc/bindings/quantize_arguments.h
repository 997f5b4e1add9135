// The parameters of codes, as functions and plans that quantize and dequantize take them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "bindings/ndarray.h"

namespace octavo {

struct CodeType {
  bool is_signed;
  int32_t least, most;
};

CodeType code_type(const std::string& name);
// Throws ValueError unless all are positive and finite.
void check_scale(const Parameter<float>& scale, const char* name);

// A scale and a zero point for each channel of `layout`, or one of each for all.
struct Parameters {
  Parameter<float> scale;
  Parameter<int32_t> zero_point;
  ChannelLayout layout;
};

Parameters parse_parameters(const py::object& scale, const py::object& zero_point,
                            ChannelLayout layout, const CodeType& type, const char* dtype);

}  // namespace octavo
