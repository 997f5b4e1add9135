// What the linear operators' bindings have in common.
#pragma once

#include <pybind11/pybind11.h>

#include <limits>

#include "bindings/context.h"
#include "bindings/fastcall.h"
#include "bindings/ndarray.h"
#include "ops/linear.h"

namespace octavo {

// The shape of the result for x (..., in_features); throws where x is not so.
template <class Op>
Shape linear_shape(const Op& op, const ArrayView& x) {
  if (x.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int64_t k = x.shape[x.ndim - 1];
  if (k != op.in_features())
    raise_value("w has in_features=", op.in_features(), ", x has ", k, "; they must be equal");
  Shape shape(x.shape, x.shape + x.ndim);
  shape.back() = op.out_features();
  return shape;
}

// Throws unless w has two dimensions.
inline void check_weights_shape(const ArrayView& w) {
  if (w.ndim != 2)
    raise_value("w must have shape (out_features, in_features), got ", shape_text(w.shape, w.ndim));
}

inline Type code_type(const Linear& linear) {
  return linear.x_is_signed() ? Type::kInt8 : Type::kUInt8;
}

// Whether it was prepared for values of this type.
inline bool takes(const Linear& linear, Type type) {
  return type == Type::kFloat32 || (!linear.is_dynamic() && type == code_type(linear));
}

// The ends of a clip; None is an open one.
struct Clip {
  Clip(const py::object& low, const py::object& high)
      : activate(!low.is_none() || !high.is_none()),
        lo(low.is_none() ? -kInfinity : one_float(low.ptr(), "lo")),
        hi(high.is_none() ? kInfinity : one_float(high.ptr(), "hi")) {
    if (!(lo <= hi)) raise_value("an activation must clip to lo <= hi, got (", lo, ", ", hi, ")");
  }
  bool activate;
  float lo, hi;

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
};

// float32 of n values, or None: not given.
Parameter<float> float_bias(const py::object& bias, int64_t n);

// Runs an operator on float32 rows.
template <class Op>
PyObject* call_float_rows(const Op& op, PyObject* x_object, PyObject* out_object) {
  const ArrayView x = view_of(x_object, "x");
  const Shape shape = linear_shape(op, x);
  if (type_of(x) != Type::kFloat32) raise_type("x must be float32, got ", dtype_name(x));
  Result result(out_object, Type::kFloat32, shape, {&x});
  const Rows rows = rows_of(x, Type::kFloat32, true);
  const CallContext context = call_context();
  if (rows.count > 0 && op.out_features() > 0) {
    const NativeScope scope(rows.count * op.in_features() * op.out_features());
    op.run(static_cast<const float*>(rows.data), rows.count, rows.row_stride,
           reinterpret_cast<float*>(result.data()), op.out_features(), *context.table,
           context.threads);
  }
  return result.finish().release().ptr();
}

// Properties of every linear operator's class.
template <class Op>
void add_linear_properties(py::class_<Op>& linear) {
  linear.def_property_readonly("in_features", &Op::in_features);
  linear.def_property_readonly("out_features", &Op::out_features);
  linear.def_property_readonly("nbytes", &Op::nbytes);
  linear.def_property_readonly("isa", &Op::isa);
}

}  // namespace octavo
