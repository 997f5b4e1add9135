#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>

#include "bindings/context.h"
#include "bindings/conv_call.h"
#include "bindings/epilogue_arguments.h"
#include "bindings/fastcall.h"
#include "bindings/image_arguments.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/conv.h"

namespace octavo {
namespace {

// (scale, zero_point, dtype, ...) of a quantized tensor.
ConvSpec::Quantization quantization_of(const py::tuple& values, const char* name) {
  ConvSpec::Quantization q{};
  const std::string scale = std::string(name) + " scale", zero = std::string(name) + " zero point";
  const py::object scale_object = values[0], zero_object = values[1], dtype = values[2];
  const Type type = parse_dtype(dtype.ptr(), {Type::kUInt8, Type::kInt8});
  q.scale = one_float(scale_object.ptr(), scale.c_str());
  check_scale(q.scale, scale.c_str());
  q.zero_point = one_int(zero_object.ptr(), zero.c_str());
  check_code(q.zero_point, type, zero.c_str());
  q.is_signed = type == Type::kInt8;
  return q;
}

py::tuple tuple_of(const py::object& object, const char* name, size_t size) {
  const auto values = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
  if (!values) throw py::error_already_set();
  if (values.size() != size)
    raise_value(name, " must have ", int64_t(size), " values, got ", int64_t(values.size()));
  return values;
}

ConvSpec::Weights weights_of(const ArrayView& w) {
  switch (type_of(w)) {
    case Type::kInt8:
      return ConvSpec::Weights::kS8;
    case Type::kUInt8:
      return ConvSpec::Weights::kU8;
    case Type::kFloat32:
      return ConvSpec::Weights::kF32;
    case Type::kFloat16:
      return ConvSpec::Weights::kF16;
    default:
      raise_type("w must be int8, uint8, float32 or float16, got ", dtype_name(w));
  }
}

Type type_of(ConvSpec::Weights weights) {
  switch (weights) {
    case ConvSpec::Weights::kS8:
      return Type::kInt8;
    case ConvSpec::Weights::kU8:
      return Type::kUInt8;
    case ConvSpec::Weights::kF32:
      return Type::kFloat32;
    default:
      return Type::kFloat16;
  }
}

std::unique_ptr<Conv> make_conv(const py::object& w, const py::object& w_scale,
                                const py::object& w_zero_point, const py::object& bias,
                                const py::object& stride, const py::object& padding, bool same,
                                const py::object& dilation, int64_t groups, bool transposed,
                                const py::object& output_padding, const std::string& layout,
                                const py::object& x_scale, int32_t x_zero_point,
                                const py::object& x_dtype, const py::object& out_dtype,
                                const py::object& out_scale, int32_t out_zero_point,
                                const py::object& lo, const py::object& hi, const py::object& table,
                                const py::object& table_scale, int32_t table_zero_point,
                                const py::object& residual, const py::object& sum) {
  const FpModeGuard mode;
  ConvSpec spec{};
  const ArrayView view = view_of(w.ptr(), "w");
  const Type w_type = type_of(view);
  spec.weights = weights_of(view);
  if (view.ndim != 4)
    raise_value("w must have 4 dimensions (out, in / groups, height, width), got ",
                shape_text(view.shape, view.ndim));
  if (groups < 1 || groups > kLargestSize) raise_value("groups must be at least 1, got ", groups);
  spec.groups = groups;
  spec.transposed = transposed;
  if (transposed) {
    spec.in_c = view.shape[0];
    if (spec.in_c % groups != 0)
      raise_value("w has ", spec.in_c, " input channels; groups=", groups, " must divide them");
    spec.out_c = view.shape[1] * groups;
  } else {
    spec.out_c = view.shape[0];
    if (spec.out_c % groups != 0)
      raise_value("w has ", spec.out_c, " output channels; groups=", groups, " must divide them");
    spec.in_c = view.shape[1] * groups;
  }
  spec.kernel_h = view.shape[2];
  spec.kernel_w = view.shape[3];
  if (view.size() == 0)
    raise_value("w must not be empty, got shape ", shape_text(view.shape, view.ndim));
  const py::array plain = contiguous(view, w_type);
  spec.w = plain.data();

  const auto strides = sizes_of<2>(stride, "stride", 1);
  const auto dilations = sizes_of<2>(dilation, "dilation", 1);
  const auto more = sizes_of<2>(output_padding, "output_padding", 0);
  spec.stride_h = strides[0];
  spec.stride_w = strides[1];
  spec.dilation_h = dilations[0];
  spec.dilation_w = dilations[1];
  spec.padding = sizes_of<4>(padding, "padding", 0);
  spec.same = same;
  if (same && transposed) raise_value("a transposed convolution takes no padding='same'");
  spec.output_padding_h = more[0];
  spec.output_padding_w = more[1];
  for (int i = 0; i < 2; ++i) {
    const auto at = static_cast<size_t>(i);
    if (more[at] != 0 && (!transposed || more[at] >= std::max(strides[at], dilations[at])))
      raise_value("output_padding must be below the stride or the dilation of a transposed ",
                  "convolution, got ", more[at], " with stride ", strides[at], " and dilation ",
                  dilations[at]);
  }
  spec.channels_last = is_channels_last(layout);

  const EpilogueArguments arguments({w_scale, w_zero_point, bias, x_scale, x_dtype, out_dtype,
                                     out_scale, lo, hi, x_zero_point, out_zero_point},
                                    spec.out_c, w_type, "output channel");
  spec.epilogue = arguments.spec;
  spec.x_is_signed = arguments.x_is_signed;
  spec.x_zero_point = arguments.x_zero_point;

  const bool is_codes =
      spec.epilogue.output == OutputKind::kU8 || spec.epilogue.output == OutputKind::kS8;
  py::array table_codes = no_array();
  if (!table.is_none()) {
    if (!is_codes) raise_value("a table needs a result of dtype uint8 or int8");
    const ArrayView t = view_of(table.ptr(), "table");
    const Type type = type_of(t);
    if ((type != Type::kInt8 && type != Type::kUInt8) || t.ndim != 1 || t.shape[0] != 256)
      raise_value("table must hold 256 codes, uint8 or int8, got ", dtype_name(t), " of shape ",
                  shape_text(t.shape, t.ndim));
    table_codes = contiguous(t, type);
    spec.table = static_cast<const uint8_t*>(table_codes.data());
    spec.tabled.is_signed = type == Type::kInt8;
    if (!residual.is_none() && table_scale.is_none())
      raise_value("a table before a residual needs table_scale: how its codes are read");
    if (!table_scale.is_none()) {
      spec.tabled.scale = one_float(table_scale.ptr(), "table_scale");
      check_scale(spec.tabled.scale, "table_scale");
      check_code(table_zero_point, type, "table_zero_point");
      spec.tabled.zero_point = table_zero_point;
    }
  }
  if (residual.is_none() != sum.is_none())
    raise_value(
        "residual and sum go together: one says how the second tensor is read, the other "
        "how the sum is quantized");
  if (!residual.is_none()) {
    if (!is_codes) raise_value("a residual needs a result of dtype uint8 or int8");
    spec.has_residual = true;
    spec.residual = quantization_of(tuple_of(residual, "residual", 3), "residual");
    const py::tuple values = tuple_of(sum, "sum", 5);
    spec.sum = quantization_of(values, "sum");
    const py::object sum_lo = values[3], sum_hi = values[4];
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    spec.sum_lo = sum_lo.is_none() ? -kInfinity : one_float(sum_lo.ptr(), "sum lo");
    spec.sum_hi = sum_hi.is_none() ? kInfinity : one_float(sum_hi.ptr(), "sum hi");
    if (!(spec.sum_lo <= spec.sum_hi))
      raise_value("sum must clip to lo <= hi, got (", spec.sum_lo, ", ", spec.sum_hi, ")");
  }
  const CallContext context = call_context();
  const NativeScope scope(view.size() * NativeScope::kMacsPerValue);
  return Conv::prepare(spec, *context.table, context.threads);
}

PyObject* call_conv(const Conv& conv, PyObject* x_object, PyObject* out_object,
                    PyObject* residual_object) {
  const ArrayView x = view_of(x_object, "x");
  const Shape x_shape(x.shape, x.shape + x.ndim);
  const Shape shape = result_shape(conv, x_shape);
  const Type type = type_of(x);
  Conv::Input input{};
  input.is_float = type == Type::kFloat32;
  if (!takes(conv, type))
    raise_type("x must be float32", conv.is_dynamic() ? "" : " or ",
               conv.is_dynamic() ? "" : type_name(code_type(conv)), ", got ", dtype_name(x));
  input.shape = shape_of(conv, x_shape);

  const bool has_residual = residual_object && residual_object != Py_None;
  if (has_residual != conv.spec().has_residual)
    raise_value(has_residual ? "residual given to an operator that was prepared without"
                             : "the operator was prepared for a residual, got none");
  ArrayView residual{};
  py::array residual_copy = no_array();
  if (has_residual) {
    residual = view_of(residual_object, "residual");
    const Type wanted = residual_type(conv);
    if (type_of(residual) != wanted)
      raise_type("residual must be ", type_name(wanted), ", got ", dtype_name(residual));
    if (residual.ndim != 4 || !std::equal(shape.begin(), shape.end(), residual.shape))
      raise_value("residual has shape ", shape_text(residual.shape, residual.ndim), ", expected ",
                  shape_text(shape));
  }
  Result result = has_residual ? Result(out_object, result_type(conv), shape, {&x, &residual})
                               : Result(out_object, result_type(conv), shape, {&x});
  py::array copy = no_array();
  if (is_contiguous(x) && is_native(x)) {
    input.data = x.data;
  } else {
    copy = contiguous(x, type);
    input.data = copy.data();
  }
  const auto* residual_data = reinterpret_cast<const uint8_t*>(residual.data);
  if (has_residual && !is_contiguous(residual)) {
    residual_copy = contiguous(residual, type_of(residual));
    residual_data = static_cast<const uint8_t*>(residual_copy.data());
  }
  const CallContext context = call_context();
  bool fits = true;
  {
    const NativeScope scope(macs_of(conv, shape));
    fits = conv.run(input, residual_data, result.data(), *context.table, context.threads);
  }
  if (!fits) throw std::overflow_error("a result does not fit int32; ask for a float32 result");
  return result.finish().release().ptr();
}

Signature<3> signature{"ConvOp", {"x", "out", "residual"}, 3, 1};

PyObject* conv_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* conv = py::handle(self).cast<const Conv*>();
    const auto values = signature.parse_call(args, keywords);
    return call_conv(*conv, values[0], values[1], values[2]);
  });
}

}  // namespace

void register_conv(py::module_& m) {
  py::class_<Conv> conv(
      m, "ConvOp",
      "A prepared convolution with weights in 8 bits, or (w_scale None) in float32 or float16.",
      py::custom_type_setup(
          [](PyHeapTypeObject* heap_type) { heap_type->ht_type.tp_call = conv_tp_call; }));
  conv.def(py::init(&make_conv), py::arg("w"), py::arg("w_scale"), py::arg("w_zero_point"),
           py::kw_only(), py::arg("bias") = py::none(), py::arg("stride") = py::make_tuple(1, 1),
           py::arg("padding") = py::make_tuple(0, 0, 0, 0), py::arg("same") = false,
           py::arg("dilation") = py::make_tuple(1, 1), py::arg("groups") = 1,
           py::arg("transposed") = false, py::arg("output_padding") = py::make_tuple(0, 0),
           py::arg("layout") = "NCHW", py::arg("x_scale") = py::none(), py::arg("x_zero_point") = 0,
           py::arg("x_dtype") = py::none(), py::arg("out_dtype") = "float32",
           py::arg("out_scale") = py::none(), py::arg("out_zero_point") = 0,
           py::arg("lo") = py::none(), py::arg("hi") = py::none(), py::arg("table") = py::none(),
           py::arg("table_scale") = py::none(), py::arg("table_zero_point") = 0,
           py::arg("residual") = py::none(), py::arg("sum") = py::none());
  conv.def_property_readonly("in_channels", [](const Conv& op) { return op.spec().in_c; });
  conv.def_property_readonly("out_channels", [](const Conv& op) { return op.spec().out_c; });
  conv.def_property_readonly("kernel_size", [](const Conv& op) {
    return py::make_tuple(op.spec().kernel_h, op.spec().kernel_w);
  });
  conv.def_property_readonly("nbytes", &Conv::nbytes);
  conv.def_property_readonly("isa", &Conv::isa);
  conv.def(
      "output_shape",
      [](const Conv& op, const py::object& shape) {
        const auto sizes = sizes_of<4>(shape, "shape", 0);
        const Shape y = result_shape(op, Shape(sizes.begin(), sizes.end()));
        return py::make_tuple(y[0], y[1], y[2], y[3]);
      },
      py::arg("shape"), "The shape of the result for x of this shape.");
  conv.def(
      "unpack",
      [](const Conv& op) {
        const ConvSpec& s = op.spec();
        py::array array(
            dtype_of(type_of(s.weights)),
            Shape{s.transposed ? s.in_c : s.out_c, (s.transposed ? s.out_c : s.in_c) / s.groups,
                  s.kernel_h, s.kernel_w});
        op.unpack(array.mutable_data());
        return array;
      },
      "The codes of the weights, exactly, in the shape they were given in.");
  signature.intern();
}

}  // namespace octavo
