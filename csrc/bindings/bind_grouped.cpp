#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>

#include "bindings/epilogue_arguments.h"
#include "bindings/linear_call.h"
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
  check_weights_shape(given);
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
  const Parameter<float> bias_values = float_bias(bias, n);
  spec.bias = bias_values.data();
  spec.w.codes = static_cast<const uint8_t*>(codes.data());
  spec.w.n = n;
  spec.w.k = k;
  spec.w.is_signed = is_signed;
  spec.w.bits = bits;
  spec.w.group_size = group_size;
  spec.w.scale = scale_data;
  const Clip clip(lo, hi);
  spec.activate = clip.activate;
  spec.lo = clip.lo;
  spec.hi = clip.hi;
  const CallContext context = call_context();
  return GroupedLinear::prepare(spec, *context.table, context.threads);
}

Signature<2> signature{"GroupedLinearOp", {"x", "out"}, 2, 1};

PyObject* grouped_linear_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* linear = py::handle(self).cast<const GroupedLinear*>();
    const auto values = signature.parse_call(args, keywords);
    return call_float_rows(*linear, values[0], values[1]);
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
  add_linear_properties(linear);
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
