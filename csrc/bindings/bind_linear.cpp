#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>

#include "bindings/epilogue_arguments.h"
#include "bindings/linear_call.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/linear.h"

namespace octavo {
namespace {

std::unique_ptr<Linear> make_linear(const py::object& w, const py::object& w_scale,
                                    const py::object& w_zero_point, const py::object& bias,
                                    const py::object& x_scale, int32_t x_zero_point,
                                    const py::object& x_dtype, const py::object& out_dtype,
                                    const py::object& out_scale, int32_t out_zero_point,
                                    const py::object& lo, const py::object& hi) {
  const FpModeGuard mode;
  LinearSpec spec{};
  const ArrayView view = view_of(w.ptr(), "w");
  const Type w_type = type_of(view);
  if (w_type != Type::kInt8 && w_type != Type::kUInt8)
    raise_type("w must be int8 or uint8, got ", dtype_name(view));
  check_weights_shape(view);
  const int64_t n = view.shape[0];
  spec.w = {reinterpret_cast<const uint8_t*>(view.data),
            n,
            view.shape[1],
            view.strides[0],
            view.strides[1],
            w_type == Type::kInt8};

  const EpilogueArguments arguments({w_scale, w_zero_point, bias, x_scale, x_dtype, out_dtype,
                                     out_scale, lo, hi, x_zero_point, out_zero_point},
                                    n, w_type, "output feature");
  spec.epilogue = arguments.spec;
  spec.x_is_signed = arguments.x_is_signed;
  spec.x_zero_point = arguments.x_zero_point;
  const CallContext context = call_context();
  const NativeScope scope(view.size() * NativeScope::kMacsPerValue);
  return Linear::prepare(spec, *context.table, context.threads);
}

// A parameter of each row of x.
py::array row_parameter(PyObject* object, const char* name, Type type, const ArrayView& x) {
  const ArrayView view = view_of(object, name);
  if (type_of(view) != type)
    raise_type(name, " must be ", type_name(type), ", got ", dtype_name(view));
  if (view.ndim != x.ndim - 1 || !std::equal(view.shape, view.shape + view.ndim, x.shape))
    raise_value(name, " has shape ", shape_text(view.shape, view.ndim), ", expected ",
                shape_text(x.shape, x.ndim - 1));
  return contiguous(view, type);
}

// scale_object, zero_point_object: null, or one of each for each row of codes.
PyObject* call_linear(const Linear& linear, PyObject* x_object, PyObject* out_object,
                      PyObject* scale_object, PyObject* zero_point_object) {
  const ArrayView x = view_of(x_object, "x");
  const Shape shape = linear_shape(linear, x);
  const Type type = type_of(x);
  LinearInput input{};
  input.is_float = type == Type::kFloat32;
  py::array row_scale = no_array(), row_zero_point = no_array();
  if (scale_object) {
    if (!linear.is_dynamic() || type != Type::kUInt8)
      raise_type(
          "x with a scale for each row must be uint8, of an operator that has no scale of x");
    row_scale = row_parameter(scale_object, "x_scale", Type::kFloat32, x);
    row_zero_point = row_parameter(zero_point_object, "x_zero_point", Type::kInt32, x);
    input.row_scale = static_cast<const float*>(row_scale.data());
    input.row_zero_point = static_cast<const int32_t*>(row_zero_point.data());
    for (int64_t i = 0; i < row_zero_point.size(); ++i) {
      if (input.row_zero_point[i] < 0 || input.row_zero_point[i] > 255)
        raise_value("x_zero_point must be in [0, 255], got ", input.row_zero_point[i]);
    }
  }
  if (!input.row_scale && !takes(linear, type))
    raise_type("x must be float32", linear.is_dynamic() ? "" : " or ",
               linear.is_dynamic() ? "" : type_name(code_type(linear)), ", got ", dtype_name(x));

  const Type out_type = type_of(linear.output());
  Result result(out_object, out_type, shape, {&x});

  const Rows rows = rows_of(x, type, input.is_float);
  input.data = rows.data;
  input.rows = rows.count;
  input.row_stride = rows.row_stride;
  input.k_stride = rows.value_stride;
  const CallContext context = call_context();
  bool fits = true;
  if (input.rows > 0 && linear.out_features() > 0) {
    const NativeScope scope(input.rows * linear.in_features() * linear.out_features());
    fits = linear.run(input, result.data(), linear.out_features(), *context.table, context.threads);
  }
  if (!fits) throw std::overflow_error("a result does not fit int32; ask for a float32 result");
  return result.finish().release().ptr();
}

Signature<2> signature{"LinearOp", {"x", "out"}, 2, 1};

// tp_call by vectorcall would need a field in the object; tp_call itself is fast enough.
PyObject* linear_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* linear = py::handle(self).cast<const Linear*>();
    const auto values = signature.parse_call(args, keywords);
    return call_linear(*linear, values[0], values[1], nullptr, nullptr);
  });
}

}  // namespace

void register_linear(py::module_& m) {
  py::class_<Linear> linear(
      m, "LinearOp", "A prepared linear operator: y = activation(x * w^T + bias), w in 8 bits.",
      py::custom_type_setup(
          [](PyHeapTypeObject* heap_type) { heap_type->ht_type.tp_call = linear_tp_call; }));
  linear.def(py::init(&make_linear), py::arg("w"), py::arg("w_scale"), py::arg("w_zero_point"),
             py::kw_only(), py::arg("bias") = py::none(), py::arg("x_scale") = py::none(),
             py::arg("x_zero_point") = 0, py::arg("x_dtype") = py::none(),
             py::arg("out_dtype") = "float32", py::arg("out_scale") = py::none(),
             py::arg("out_zero_point") = 0, py::arg("lo") = py::none(), py::arg("hi") = py::none());
  add_linear_properties(linear);
  linear.def(
      "run_rows",
      [](const Linear& op, const py::object& x, const py::object& scale,
         const py::object& zero_point, const py::object& out) {
        return py::reinterpret_steal<py::object>(
            call_linear(op, x.ptr(), out.ptr(), scale.ptr(), zero_point.ptr()));
      },
      py::arg("x"), py::arg("scale"), py::arg("zero_point"), py::arg("out") = py::none(),
      "Rows that were quantized to uint8 as the operator would: a scale and a zero point for "
      "each.");
  linear.def(
      "unpack",
      [](const Linear& op) {
        const PackedMatrix& w = op.weights();
        py::array array(dtype_of(w.is_signed() ? Type::kInt8 : Type::kUInt8),
                        Shape{w.cols(), w.rows()});
        w.unpack(static_cast<uint8_t*>(array.mutable_data()), 1, w.rows());
        return array;
      },
      "The (out_features, in_features) codes, exactly.");
  signature.intern();
}

}  // namespace octavo
