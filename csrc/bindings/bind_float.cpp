#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>

#include "bindings/linear_call.h"
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
  check_weights_shape(given);
  const py::array plain = contiguous(given, type);
  const int64_t n = given.shape[0], k = given.shape[1];
  spec.w.data = plain.data();
  spec.w.is_half = type == Type::kFloat16;
  spec.w.rows = n;
  spec.w.cols = k;
  spec.w.row_stride = k;
  spec.w.col_stride = 1;
  const Parameter<float> bias_values = float_bias(bias, n);
  spec.bias = bias_values.data();
  const Clip clip(lo, hi);
  spec.activate = clip.activate;
  spec.lo = clip.lo;
  spec.hi = clip.hi;
  const CallContext context = call_context();
  return FloatLinear::prepare(spec, *context.table);
}

Signature<2> signature{"FloatLinearOp", {"x", "out"}, 2, 1};

PyObject* float_linear_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* linear = py::handle(self).cast<const FloatLinear*>();
    const auto values = signature.parse_call(args, keywords);
    return call_float_rows(*linear, values[0], values[1]);
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
  add_linear_properties(linear);
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
