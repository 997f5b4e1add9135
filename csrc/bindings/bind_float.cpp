#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <limits>
#include <memory>

#include "bindings/context.h"
#include "bindings/fastcall.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/float_linear.h"

namespace octavo {
namespace {

std::unique_ptr<FloatLinear> make_float_linear(const py::object& w, const py::object& bias,
                                               const py::object& lo, const py::object& hi) {
  const FpModeGuard mode;
  FloatLinearSpec spec{};
  const ArrayView given = view_of(w.ptr(), "w");
  const Type type = type_of(given);
  if (type != Type::kFloat16 && type != Type::kFloat32)
    raise_type("w must be float32 or float16, got ", dtype_name(given));
  if (given.ndim != 2)
    raise_value("w must have shape (out_features, in_features), got ",
                shape_text(given.shape, given.ndim));
  const py::array plain = contiguous(given, type);
  const int64_t n = given.shape[0], k = given.shape[1];
  spec.w.data = plain.data();
  spec.w.is_half = type == Type::kFloat16;
  spec.w.rows = n;
  spec.w.cols = k;
  spec.w.row_stride = k;
  spec.w.col_stride = 1;
  Parameter<float> bias_values;
  if (!bias.is_none()) {
    const ArrayView b = view_of(bias.ptr(), "bias");
    if (type_of(b) != Type::kFloat32) raise_type("bias must be float32, got ", dtype_name(b));
    if (b.ndim != 1 || b.shape[0] != n)
      raise_value("bias has shape ", shape_text(b.shape, b.ndim), ", expected ", shape_text({n}));
    bias_values = float_parameter(bias.ptr(), "bias");
    spec.bias = bias_values.data();
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  spec.activate = !lo.is_none() || !hi.is_none();
  spec.lo = lo.is_none() ? -kInfinity : one_float(lo.ptr(), "lo");
  spec.hi = hi.is_none() ? kInfinity : one_float(hi.ptr(), "hi");
  if (spec.activate && !(spec.lo <= spec.hi))
    raise_value("an activation must clip to lo <= hi, got (", spec.lo, ", ", spec.hi, ")");
  const CallContext context = call_context();
  return FloatLinear::prepare(spec, *context.table);
}

PyObject* call_float_linear(const FloatLinear& linear, PyObject* x_object, PyObject* out_object) {
  const ArrayView x = view_of(x_object, "x");
  if (x.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int64_t k = x.shape[x.ndim - 1];
  if (k != linear.in_features())
    raise_value("w has in_features=", linear.in_features(), ", x has ", k, "; they must be equal");
  if (type_of(x) != Type::kFloat32) raise_type("x must be float32, got ", dtype_name(x));
  Shape shape(x.shape, x.shape + x.ndim);
  shape.back() = linear.out_features();
  Result result(out_object, Type::kFloat32, shape, {&x});
  const Rows rows = rows_of(x, Type::kFloat32, true);
  const CallContext context = call_context();
  if (rows.count > 0 && linear.out_features() > 0) {
    const NativeScope scope(rows.count * k * linear.out_features());
    linear.run(static_cast<const float*>(rows.data), rows.count, rows.row_stride,
               reinterpret_cast<float*>(result.data()), linear.out_features(), *context.table,
               context.threads);
  }
  return result.finish().release().ptr();
}

Signature<2> signature{"FloatLinearOp", {"x", "out"}, 2, 1};

PyObject* float_linear_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* linear = py::handle(self).cast<const FloatLinear*>();
    const auto values = signature.parse_call(args, keywords);
    return call_float_linear(*linear, values[0], values[1]);
  });
}

}  // namespace

void register_float(py::module_& m) {
  py::class_<FloatLinear> linear(
      m, "FloatLinearOp",
      "A prepared linear operator: y = clip(x * w^T + bias), w in float32 or float16.",
      py::custom_type_setup(
          [](PyHeapTypeObject* heap_type) { heap_type->ht_type.tp_call = float_linear_tp_call; }));
  linear.def(py::init(&make_float_linear), py::arg("w"), py::kw_only(),
             py::arg("bias") = py::none(), py::arg("lo") = py::none(), py::arg("hi") = py::none());
  linear.def_property_readonly("in_features", &FloatLinear::in_features);
  linear.def_property_readonly("out_features", &FloatLinear::out_features);
  linear.def_property_readonly("nbytes", &FloatLinear::nbytes);
  linear.def_property_readonly("isa", &FloatLinear::isa);
  linear.def(
      "unpack",
      [](const FloatLinear& op) {
        py::array array(dtype_of(op.is_half() ? Type::kFloat16 : Type::kFloat32),
                        Shape{op.out_features(), op.in_features()}.vector());
        op.unpack(array.mutable_data());
        return array;
      },
      "The (out_features, in_features) weights, bit for bit.");
  signature.intern();
}

}  // namespace octavo
