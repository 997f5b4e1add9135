#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <limits>
#include <memory>

#include "bindings/context.h"
#include "bindings/epilogue_arguments.h"
#include "bindings/fastcall.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/grouped_linear.h"

namespace octavo {
namespace {

void check_groups(const ArrayView& array, const char* name, int64_t n, int64_t groups) {
  if (array.ndim != 2 || array.shape[0] != n || array.shape[1] != groups)
    raise_value(name, " has shape ", shape_text(array.shape, array.ndim), ", expected ",
                shape_text({n, groups}));
}

template <class T>
void check_range(const T* values, int64_t count, int32_t least, int32_t most, const char* name,
                 int bits) {
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] < least || values[i] > most)
      raise_value(name, " must be in [", least, ", ", most, "] for ", bits, " bits, got ",
                  static_cast<int32_t>(values[i]));
  }
}

std::unique_ptr<GroupedLinear> make_grouped_linear(const py::object& w, const py::object& scale,
                                                   const py::object& zero_point, int64_t group_size,
                                                   int bits, const py::object& bias,
                                                   const py::object& lo, const py::object& hi) {
  const FpModeGuard mode;
  GroupedLinearSpec spec{};
  if (bits != 4 && bits != 8) raise_value("bits must be 4 or 8, got ", bits);
  if (group_size < 1) raise_value("group_size must be at least 1, got ", group_size);
  const ArrayView given = view_of(w.ptr(), "w");
  const Type type = type_of(given);
  if (type != Type::kInt8 && type != Type::kUInt8)
    raise_type("w must be int8 or uint8, got ", dtype_name(given));
  if (given.ndim != 2)
    raise_value("w must have shape (out_features, in_features), got ",
                shape_text(given.shape, given.ndim));
  const int64_t n = given.shape[0], k = given.shape[1];
  const int64_t groups = k / group_size + (k % group_size != 0);
  const bool is_signed = type == Type::kInt8;
  const int32_t least = is_signed ? -(1 << (bits - 1)) : 0, most = least + (1 << bits) - 1;
  const py::array codes = contiguous(given, type);
  if (is_signed)
    check_range(static_cast<const int8_t*>(codes.data()), n * k, least, most, "w", bits);
  else
    check_range(static_cast<const uint8_t*>(codes.data()), n * k, least, most, "w", bits);

  const ArrayView scales = view_of(scale.ptr(), "scale");
  const Type scale_type = type_of(scales);
  if (scale_type != Type::kFloat32 && scale_type != Type::kFloat16)
    raise_type("scale must be float32 or float16, got ", dtype_name(scales));
  check_groups(scales, "scale", n, groups);
  const py::object wide =
      scale_type == Type::kFloat32 ? scale : py::object(scale.attr("astype")("float32"));
  const py::array scale_values = contiguous(view_of(wide.ptr(), "scale"), Type::kFloat32);
  const auto* scale_data = static_cast<const float*>(scale_values.data());
  for (int64_t i = 0; i < n * groups; ++i) check_scale(scale_data[i], "scale");

  py::array zeros = no_array();
  if (!zero_point.is_none()) {
    const ArrayView z = view_of(zero_point.ptr(), "zero_point");
    if (type_of(z) != Type::kInt32) raise_type("zero_point must be int32, got ", dtype_name(z));
    check_groups(z, "zero_point", n, groups);
    zeros = contiguous(z, Type::kInt32);
    check_range(static_cast<const int32_t*>(zeros.data()), n * groups, least, most, "zero_point",
                bits);
    spec.w.zero_point = static_cast<const int32_t*>(zeros.data());
  }
  Parameter<float> bias_values;
  if (!bias.is_none()) {
    const ArrayView b = view_of(bias.ptr(), "bias");
    if (type_of(b) != Type::kFloat32) raise_type("bias must be float32, got ", dtype_name(b));
    if (b.ndim != 1 || b.shape[0] != n)
      raise_value("bias has shape ", shape_text(b.shape, b.ndim), ", expected ", shape_text({n}));
    bias_values = float_parameter(bias.ptr(), "bias");
    spec.bias = bias_values.data();
  }
  spec.w.codes = static_cast<const uint8_t*>(codes.data());
  spec.w.n = n;
  spec.w.k = k;
  spec.w.is_signed = is_signed;
  spec.w.bits = bits;
  spec.w.group_size = group_size;
  spec.w.scale = scale_data;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  spec.activate = !lo.is_none() || !hi.is_none();
  spec.lo = lo.is_none() ? -kInfinity : one_float(lo.ptr(), "lo");
  spec.hi = hi.is_none() ? kInfinity : one_float(hi.ptr(), "hi");
  if (spec.activate && !(spec.lo <= spec.hi))
    raise_value("an activation must clip to lo <= hi, got (", spec.lo, ", ", spec.hi, ")");
  const CallContext context = call_context();
  return GroupedLinear::prepare(spec, *context.table, context.threads);
}

PyObject* call_grouped_linear(const GroupedLinear& linear, PyObject* x_object,
                              PyObject* out_object) {
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

Signature<2> signature{"GroupedLinearOp", {"x", "out"}, 2, 1};

PyObject* grouped_linear_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* linear = py::handle(self).cast<const GroupedLinear*>();
    const auto values = signature.parse_call(args, keywords);
    return call_grouped_linear(*linear, values[0], values[1]);
  });
}

}  // namespace

void register_grouped(py::module_& m) {
  py::class_<GroupedLinear> linear(
      m, "GroupedLinearOp",
      "A prepared linear operator, y = clip(x * w^T + bias), with weights of 4 or 8 bits that have "
      "a scale (and a zero point) for each group along in_features; rows of x become int8.",
      py::custom_type_setup([](PyHeapTypeObject* heap_type) {
        heap_type->ht_type.tp_call = grouped_linear_tp_call;
      }));
  linear.def(py::init(&make_grouped_linear), py::arg("w"), py::arg("scale"), py::arg("zero_point"),
             py::arg("group_size"), py::kw_only(), py::arg("bits"), py::arg("bias") = py::none(),
             py::arg("lo") = py::none(), py::arg("hi") = py::none());
  linear.def_property_readonly("in_features", &GroupedLinear::in_features);
  linear.def_property_readonly("out_features", &GroupedLinear::out_features);
  linear.def_property_readonly("nbytes", &GroupedLinear::nbytes);
  linear.def_property_readonly("isa", &GroupedLinear::isa);
  linear.def(
      "unpack",
      [](const GroupedLinear& op) {
        py::array array(dtype_of(op.is_signed() ? Type::kInt8 : Type::kUInt8),
                        Shape{op.out_features(), op.in_features()}.vector());
        op.unpack(static_cast<uint8_t*>(array.mutable_data()));
        return array;
      },
      "The (out_features, in_features) codes, one a byte, exactly.");
  signature.intern();
}

}  // namespace octavo
