#include "bindings/quantize_arguments.h"

#include <algorithm>
#include <cmath>

namespace octavo {
namespace {

void check_zero_point(const Parameter<int32_t>& zero_point, const CodeType& type,
                      const char* dtype) {
  for (int32_t value : zero_point) {
    if (value < type.least || value > type.most)
      raise_value("zero_point must be in [", type.least, ", ", type.most, "] for ", dtype, ", got ",
                  value);
  }
}

template <class T>
void repeat(Parameter<T>& parameter, int64_t channels) {
  if (parameter.size() != 1) return;
  py::array_t<T> values(channels);
  std::fill(values.mutable_data(), values.mutable_data() + channels, parameter[0]);
  parameter = Parameter<T>(std::move(values));
}

}  // namespace

CodeType code_type(const std::string& name) {
  if (name == "uint8") return {false, 0, 255};
  if (name == "int8") return {true, -128, 127};
  if (name == "uint4") return {false, 0, 15};
  if (name == "int4") return {true, -8, 7};
  raise_value("dtype must be one of uint8, int8, uint4, int4, got ", name);
}

void check_scale(const Parameter<float>& scale, const char* name) {
  for (float value : scale) {
    if (!(value > 0.0f) || std::isinf(value))
      raise_value(name, " must be positive and finite, got ", value);
  }
}

Parameters parse_parameters(const py::object& scale, const py::object& zero_point,
                            ChannelLayout layout, const CodeType& type, const char* dtype) {
  Parameters p{float_parameter(scale.ptr(), "scale"), int_parameter(zero_point.ptr(), "zero_point"),
               layout};
  check_length(p.scale.size(), layout.channels, "scale", "one a channel along axis");
  check_length(p.zero_point.size(), layout.channels, "zero_point", "one a channel along axis");
  check_scale(p.scale, "scale");
  check_zero_point(p.zero_point, type, dtype);
  if (p.scale.size() == 1 && p.zero_point.size() == 1) {
    p.layout = {1, 1, layout.outer * layout.channels * layout.inner};
  } else {
    repeat(p.scale, layout.channels);
    repeat(p.zero_point, layout.channels);
  }
  return p;
}

}  // namespace octavo
