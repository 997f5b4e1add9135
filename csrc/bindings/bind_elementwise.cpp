#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>

#include "bindings/context.h"
#include "bindings/ndarray.h"
#include "bindings/quantize_arguments.h"
#include "bindings/register.h"
#include "ops/elementwise.h"

namespace octavo {
namespace {

Shape shape_of(const ArrayView& array) { return Shape(array.shape, array.shape + array.ndim); }

ArrayView float_array(const py::object& x, const char* name) {
  const ArrayView view = view_of(x.ptr(), name);
  if (type_of(view) != Type::kFloat32) raise_type(name, " must be float32, got ", dtype_name(view));
  return view;
}

py::object quantize(const py::object& x, const py::object& scale, const py::object& zero_point,
                    const std::string& dtype, const py::object& axis, const py::object& out) {
  const FpModeGuard mode;
  const CodeType type = code_type(dtype);
  const ArrayView given = float_array(x, "x");
  const ChannelLayout layout = layout_of(given, axis);
  const Parameters p = parse_parameters(scale, zero_point, layout, type, dtype.c_str());
  Result result(out.ptr(), type.is_signed ? Type::kInt8 : Type::kUInt8, shape_of(given), {&given});
  const py::array values = contiguous(given, Type::kFloat32);
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_quantize(*context.table, static_cast<const float*>(values.data()), p.layout, p.scale.data(),
                 p.zero_point.data(), type.is_signed, type.least, type.most,
                 reinterpret_cast<uint8_t*>(result.data()), context.threads);
  }
  return result.finish();
}

py::object dequantize(const py::object& q, const py::object& scale, const py::object& zero_point,
                      const py::object& axis, const py::object& out) {
  const FpModeGuard mode;
  const ArrayView given = view_of(q.ptr(), "q");
  const Type dtype = type_of(given);
  if (dtype != Type::kInt8 && dtype != Type::kUInt8)
    raise_type("q must be int8 or uint8, got ", dtype_name(given));
  const CodeType type = code_type(type_name(dtype));
  const ChannelLayout layout = layout_of(given, axis);
  const Parameters p = parse_parameters(scale, zero_point, layout, type, type_name(dtype));
  Result result(out.ptr(), Type::kFloat32, shape_of(given), {&given});
  const py::array codes = contiguous(given, dtype);
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_dequantize(*context.table, static_cast<const uint8_t*>(codes.data()), p.layout,
                   type.is_signed, p.scale.data(), p.zero_point.data(),
                   reinterpret_cast<float*>(result.data()), context.threads);
  }
  return result.finish();
}

py::object requantize(const py::object& acc, const py::object& multiplier, int64_t zero_point,
                      const py::object& bias, const py::object& clip, const py::object& dtype,
                      const py::object& axis, const py::object& out) {
  const FpModeGuard mode;
  const ArrayView given = view_of(acc.ptr(), "acc");
  if (type_of(given) != Type::kInt32) raise_type("acc must be int32, got ", dtype_name(given));
  const Type out_type = parse_dtype(dtype.ptr(), {Type::kUInt8, Type::kInt8});
  const CodeType type = code_type(type_name(out_type));
  const Parameter<float> factors = float_parameter(multiplier.ptr(), "multiplier");
  Parameter<int32_t> biases;
  if (!bias.is_none()) biases = int_parameter(bias.ptr(), "bias");
  check_scale(factors, "multiplier");
  if (zero_point < type.least || zero_point > type.most)
    raise_value("zero_point must be in [", type.least, ", ", type.most, "] for ",
                type_name(out_type), ", got ", zero_point);
  // A 0-d array has no axis, and one value for all needs none.
  const bool per_channel = factors.size() > 1 || biases.size() > 1 || given.ndim > 0;
  const ChannelLayout layout = layout_of(given, per_channel ? axis : py::none());
  check_length(factors.size(), layout.channels, "multiplier", "one a channel along axis");
  if (!biases.empty())
    check_length(biases.size(), layout.channels, "bias", "one a channel along axis");
  int64_t least = type.least, most = type.most;
  if (!clip.is_none()) {
    if (!PyTuple_Check(clip.ptr()) || PyTuple_GET_SIZE(clip.ptr()) != 2)
      raise_type("clip must be a tuple (lo, hi) or None");
    const auto lo = clip.cast<py::tuple>()[0].cast<int64_t>();
    const auto hi = clip.cast<py::tuple>()[1].cast<int64_t>();
    if (lo > hi || lo < type.least || hi > type.most)
      raise_value("clip must hold codes lo <= hi in [", type.least, ", ", type.most, "], got (", lo,
                  ", ", hi, ")");
    least = lo;
    most = hi;
  }
  Result result(out.ptr(), out_type, shape_of(given), {&given});
  const py::array values = contiguous(given, Type::kInt32);
  const auto* sums = static_cast<const int32_t*>(values.data());
  const CallContext context = call_context();
  const bool one_for_all = factors.size() == 1 && biases.size() <= 1;
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_requantize(*context.table, sums, one_for_all ? ChannelLayout{1, 1, given.size()} : layout,
                   biases.data(), biases.step(), factors.data(), factors.step(),
                   static_cast<float>(least - zero_point), static_cast<float>(most - zero_point),
                   static_cast<int32_t>(zero_point), type.is_signed,
                   reinterpret_cast<uint8_t*>(result.data()), context.threads);
  }
  return result.finish();
}

py::tuple minmax(const py::object& x, const py::object& axis) {
  const ArrayView given = float_array(x, "x");
  const ChannelLayout layout = layout_of(given, axis);
  std::vector<py::ssize_t> shape;
  if (!axis.is_none()) shape.push_back(layout.channels);
  py::array_t<float> least(shape), greatest(shape);
  const py::array values = contiguous(given, Type::kFloat32);
  const CallContext context = call_context();
  bool finite;
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    finite = run_minmax(*context.table, static_cast<const float*>(values.data()), layout,
                        least.mutable_data(), greatest.mutable_data());
  }
  if (!finite) raise_value("x holds NaN or infinity; a range needs finite values");
  return py::make_tuple(least, greatest);
}

py::tuple quantize_rows(const py::object& x) {
  const ArrayView given = float_array(x, "x");
  if (given.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int64_t k = given.shape[given.ndim - 1];
  const Shape rows_shape(given.shape, given.shape + given.ndim - 1);
  int64_t rows = 1;
  for (auto length : rows_shape) rows *= length;
  py::array_t<uint8_t> q(shape_of(given).vector());
  py::array_t<float> scale(rows_shape.vector());
  py::array_t<int32_t> zero_point(rows_shape.vector());
  const py::array values = contiguous(given, Type::kFloat32);
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_quantize_rows(*context.table, static_cast<const float*>(values.data()), rows, k,
                      q.mutable_data(), scale.mutable_data(), zero_point.mutable_data(),
                      context.threads);
  }
  return py::make_tuple(q, scale, zero_point);
}

}  // namespace

void register_elementwise(py::module_& m) {
  m.def("quantize", &quantize, py::arg("x"), py::arg("scale"), py::arg("zero_point"),
        py::arg("dtype"), py::arg("axis"), py::arg("out") = py::none(),
        "Codes of a float32 array: rint(x / scale) + zero_point, clamped.");
  m.def("dequantize", &dequantize, py::arg("q"), py::arg("scale"), py::arg("zero_point"),
        py::arg("axis"), py::arg("out") = py::none(), "float32(q - zero_point) * scale.");
  m.def("requantize", &requantize, py::arg("acc"), py::arg("multiplier"), py::arg("zero_point") = 0,
        py::kw_only(), py::arg("bias") = py::none(), py::arg("clip") = py::none(),
        py::arg("dtype") = "uint8", py::arg("axis") = -1, py::arg("out") = py::none(),
        R"(Bring int32 sums to 8-bit codes: ``rint((acc + bias) * multiplier) + zero_point``.

Parameters
----------
acc : ndarray of int32
    Sums, any shape.
multiplier : float or ndarray of shape () or (C,)
    ``x_scale * w_scale / y_scale``, positive; one for all or one a channel along `axis`.
zero_point : int
    Of the result, in the range of `dtype`.
bias : int, ndarray of int32 or None
    Added to the sums (modulo 2**32), one for all or one a channel.
clip : tuple of int or None
    Bounds of the codes; a fused ReLU is ``(zero_point, 255)``.
dtype : "uint8" or "int8"
axis : int
    The channel axis.
out : ndarray or None
    Where the codes go, of `dtype` and the shape of `acc`.

Returns
-------
ndarray
    Codes, rounded half to even.

Raises
------
ValueError, TypeError
    What, got, expected.

Notes
-----
Rule 4 of the arithmetic: the sum and the product are each rounded to float32; see Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(2018), equation 5.

Examples
--------
>>> import numpy as np, octavo as oc
>>> oc.requantize(np.array([[100, -50]], np.int32), 0.1, 128)
array([[138, 123]], dtype=uint8)
)");
  m.def("minmax", &minmax, py::arg("x"), py::arg("axis"),
        "Least and greatest value, of all or of each index along `axis`.");
  m.def("quantize_rows", &quantize_rows, py::arg("x"),
        "uint8 codes of each row by its own range, with scales and zero points.");
}

}  // namespace octavo
