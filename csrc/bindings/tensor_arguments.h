// The arguments of operators on 8-bit tensors, as their functions and plans take them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "bindings/ndarray.h"
#include "ops/pooling.h"

namespace octavo {

// Scale and zero point of codes of `type`; `prefix` stands before their names in messages.
struct TensorQuantization {
  float scale;
  int32_t zero_point;

  TensorQuantization(const py::object& scale, const py::object& zero_point, Type type,
                     const char* prefix);
};

Type code_dtype(const py::object& dtype);

// `value` is what `what` comes to: below 2^100, so that no product of codes is infinite.
float factor(double value, const char* what);

// How two tensors become one.
struct PairParameters {
  const py::object &a_scale, &a_zero_point, &b_scale, &b_zero_point, &out_scale, &out_zero_point,
      &out_dtype, &lo, &hi;
};
// Without arrays and count. *out_type: of the result.
AddArgs pair_arguments(bool is_add, Type a, Type b, const PairParameters& parameters,
                       Type* out_type);
// The shape that a and b broadcast to; theirs with as many axes in a_shape and b_shape.
Shape broadcast(const ArrayView& a, const ArrayView& b, int64_t* a_shape, int64_t* b_shape);

// A batch of images of this shape.
Images images_of(const ArrayView& x, const std::string& layout);
Shape image_shape(const Images& images, int64_t height, int64_t width);
void check_has_pixels(const Images& images);
// stride None: the kernel's size. kernel None: the whole image.
Window window_of(const Images& images, const py::object& kernel, const py::object& stride,
                 const py::object& padding, const py::object& dilation, bool ceil_mode);
// Of windows of less than 2^23 values.
AverageArgs average_arguments(const Window& window, const TensorQuantization& x,
                              const TensorQuantization& y, Type out_type);

}  // namespace octavo
