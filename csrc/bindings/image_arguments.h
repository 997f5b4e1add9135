// The arguments that operators on images have in common: sizes along axes, and the layout.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <string>

#include "bindings/ndarray.h"

namespace octavo {

// Sizes beyond this are no one's, and their products could overflow.
constexpr int64_t kLargestSize = (int64_t{1} << 31) - 1;

template <size_t N>
std::array<int64_t, N> sizes_of(const py::object& object, const char* name, int64_t least) {
  const auto values = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
  if (!values) throw py::error_already_set();
  if (values.size() != N)
    raise_value(name, " must have ", int64_t{N}, " values, got ", int64_t(values.size()));
  std::array<int64_t, N> sizes{};
  for (size_t i = 0; i < N; ++i) {
    sizes[i] = py::cast<int64_t>(values[i]);
    if (sizes[i] < least || sizes[i] > kLargestSize)
      raise_value(name, " must be at least ", least, " and below 2**31, got ", sizes[i]);
  }
  return sizes;
}

inline bool is_channels_last(const std::string& layout) {
  if (layout != "NCHW" && layout != "NHWC")
    raise_value("layout must be 'NCHW' or 'NHWC', got '", layout, "'");
  return layout == "NHWC";
}

}  // namespace octavo
