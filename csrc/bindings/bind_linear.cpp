#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <limits>
#include <memory>

#include "bindings/context.h"
#include "bindings/fastcall.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/linear.h"

namespace octavo {
namespace {

void check_scale(float value, const char* name) {
  if (!(value > 0.0f) || std::isinf(value))
    raise_value(name, " must be positive and finite, got ", value);
}

void check_code(int32_t value, Type type, const char* name) {
  const int32_t least = type == Type::kInt8 ? -128 : 0;
  if (value < least || value > least + 255)
    raise_value(name, " must be in [", least, ", ", least + 255, "] for ", type_name(type),
                ", got ", value);
}

LinearSpec::Output output_of(Type type) {
  switch (type) {
    case Type::kInt32:
      return LinearSpec::Output::kS32;
    case Type::kUInt8:
      return LinearSpec::Output::kU8;
    case Type::kInt8:
      return LinearSpec::Output::kS8;
    default:
      return LinearSpec::Output::kF32;
  }
}

Type type_of(LinearSpec::Output output) {
  switch (output) {
    case LinearSpec::Output::kS32:
      return Type::kInt32;
    case LinearSpec::Output::kU8:
      return Type::kUInt8;
    case LinearSpec::Output::kS8:
      return Type::kInt8;
    default:
      return Type::kFloat32;
  }
}

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
  if (view.ndim != 2)
    raise_value("w must have shape (out_features, in_features), got ",
                shape_text(view.shape, view.ndim));
  const int64_t n = view.shape[0];
  spec.w = {reinterpret_cast<const uint8_t*>(view.data),
            n,
            view.shape[1],
            view.strides[0],
            view.strides[1],
            w_type == Type::kInt8};

  const Parameter<float> scale = float_parameter(w_scale.ptr(), "w_scale");
  check_length(scale.size(), n, "w_scale", "one an output feature");
  for (float value : scale) check_scale(value, "w_scale");
  spec.w_scale = scale.data();
  spec.w_scale_count = static_cast<int64_t>(scale.size());
  Parameter<int32_t> zero(0);
  if (!w_zero_point.is_none()) zero = int_parameter(w_zero_point.ptr(), "w_zero_point");
  check_length(zero.size(), n, "w_zero_point", "one an output feature");
  for (int32_t value : zero) check_code(value, w_type, "w_zero_point");
  spec.w_zero_point = zero.data();
  spec.w_zero_point_count = static_cast<int64_t>(zero.size());

  spec.is_dynamic = x_scale.is_none();
  if (!spec.is_dynamic) {
    const Type x_type =
        x_dtype.is_none() ? Type::kUInt8 : parse_dtype(x_dtype.ptr(), {Type::kUInt8, Type::kInt8});
    spec.x_scale = one_float(x_scale.ptr(), "x_scale");
    check_scale(spec.x_scale, "x_scale");
    spec.x_is_signed = x_type == Type::kInt8;
    spec.x_zero_point = x_zero_point;
    check_code(spec.x_zero_point, x_type, "x_zero_point");
  }

  const Type out_type =
      parse_dtype(out_dtype.ptr(), {Type::kFloat32, Type::kInt32, Type::kUInt8, Type::kInt8});
  spec.output = output_of(out_type);
  if (spec.is_dynamic && out_type == Type::kInt32)
    raise_value("an int32 result needs x_scale: dynamic rows have no common scale");
  if (out_type == Type::kUInt8 || out_type == Type::kInt8) {
    if (out_scale.is_none())
      raise_value("a result of dtype ", type_name(out_type), " needs out_scale");
    spec.out_scale = one_float(out_scale.ptr(), "out_scale");
    check_scale(spec.out_scale, "out_scale");
    spec.out_zero_point = out_zero_point;
    check_code(spec.out_zero_point, out_type, "out_zero_point");
  }

  Parameter<float> bias_f32;
  Parameter<int32_t> bias_s32;
  if (!bias.is_none()) {
    const ArrayView b = view_of(bias.ptr(), "bias");
    const Type type = type_of(b);
    if (type != Type::kFloat32 && type != Type::kInt32)
      raise_type("bias must be float32 or int32, got ", dtype_name(b));
    if (b.ndim != 1 || b.shape[0] != n)
      raise_value("bias has shape ", shape_text(b.shape, b.ndim), ", expected ", shape_text({n}));
    if (type == Type::kFloat32) {
      bias_f32 = float_parameter(bias.ptr(), "bias");
      for (float value : bias_f32) {
        if (!std::isfinite(value)) raise_value("bias must be finite, got ", value);
      }
      spec.bias_f32 = bias_f32.data();
    } else {
      if (spec.is_dynamic) raise_type("an int32 bias needs x_scale: it is at x_scale * w_scale");
      bias_s32 = int_parameter(bias.ptr(), "bias");
      spec.bias_s32 = bias_s32.data();
    }
  }

  spec.activate = !lo.is_none() || !hi.is_none();
  spec.lo = lo.is_none() ? -std::numeric_limits<float>::infinity() : one_float(lo.ptr(), "lo");
  spec.hi = hi.is_none() ? std::numeric_limits<float>::infinity() : one_float(hi.ptr(), "hi");
  if (spec.activate && !(spec.lo <= spec.hi))
    raise_value("an activation must clip to lo <= hi, got (", spec.lo, ", ", spec.hi, ")");
  if (spec.activate && out_type == Type::kInt32) raise_value("an int32 result takes no activation");
  const CallContext context = call_context();
  const NativeScope scope(view.size() * NativeScope::kMacsPerValue);
  return Linear::prepare(spec, *context.table, context.threads);
}

PyObject* call_linear(const Linear& linear, PyObject* x_object, PyObject* out_object) {
  const ArrayView x = view_of(x_object, "x");
  if (x.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int64_t k = x.shape[x.ndim - 1];
  if (k != linear.in_features())
    raise_value("w has in_features=", linear.in_features(), ", x has ", k, "; they must be equal");
  const Type type = type_of(x);
  LinearInput input{};
  input.is_float = type == Type::kFloat32;
  const Type codes = linear.x_is_signed() ? Type::kInt8 : Type::kUInt8;
  if (!input.is_float && (linear.is_dynamic() || type != codes))
    raise_type("x must be float32", linear.is_dynamic() ? "" : " or ",
               linear.is_dynamic() ? "" : type_name(codes), ", got ", dtype_name(x));
  const int64_t value_bytes = input.is_float ? 4 : 1;

  Shape shape(x.shape, x.shape + x.ndim);
  shape.back() = linear.out_features();
  const Type out_type = type_of(linear.output());
  Result result(out_object, out_type, shape, {&x});

  // Rows one stride apart are read in place; anything else is copied.
  input.rows = 1;
  bool in_place = is_native(x);
  for (int i = 0; i + 1 < x.ndim; ++i) input.rows *= x.shape[i];
  for (int i = 0; i + 2 < x.ndim; ++i)
    in_place = in_place && x.strides[i] == x.shape[i + 1] * x.strides[i + 1];
  const int64_t row_bytes = x.ndim > 1 ? x.strides[x.ndim - 2] : k * value_bytes;
  const int64_t k_bytes = x.strides[x.ndim - 1];
  in_place = in_place && row_bytes % value_bytes == 0 &&
             (k_bytes == value_bytes || k == 1 || !input.is_float);
  py::array copy = no_array();
  if (in_place) {
    input.data = x.data;
    input.row_stride = row_bytes / value_bytes;
    input.k_stride = k == 1 ? 1 : k_bytes / value_bytes;
  } else {
    copy = contiguous(x, type);
    input.data = copy.data();
    input.row_stride = k;
    input.k_stride = 1;
  }
  const CallContext context = call_context();
  bool fits = true;
  if (input.rows > 0 && linear.out_features() > 0) {
    const NativeScope scope(input.rows * k * linear.out_features());
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
    PyObject* values[2] = {nullptr, nullptr};
    const Py_ssize_t count = PyTuple_GET_SIZE(args);
    if (!keywords || PyDict_GET_SIZE(keywords) == 0) {
      const auto parsed = signature.parse(&PyTuple_GET_ITEM(args, 0), count, nullptr);
      values[0] = parsed[0];
      values[1] = parsed[1];
    } else {
      std::vector<PyObject*> all(&PyTuple_GET_ITEM(args, 0), &PyTuple_GET_ITEM(args, 0) + count);
      py::list names;
      for (auto item : py::reinterpret_borrow<py::dict>(keywords)) {
        names.append(item.first);
        all.push_back(item.second.ptr());
      }
      const py::tuple keys(names);
      const auto parsed = signature.parse(all.data(), count, keys.ptr());
      values[0] = parsed[0];
      values[1] = parsed[1];
    }
    return call_linear(*linear, values[0], values[1]);
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
  linear.def_property_readonly("in_features", &Linear::in_features);
  linear.def_property_readonly("out_features", &Linear::out_features);
  linear.def_property_readonly("nbytes", &Linear::nbytes);
  linear.def_property_readonly("isa", [](const Linear& op) { return op.weights().isa(); });
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
