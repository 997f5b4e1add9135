#include "bindings/epilogue_arguments.h"

#include <cmath>
#include <string>

#include "bindings/linear_call.h"

namespace octavo {

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

OutputKind output_of(Type type) {
  switch (type) {
    case Type::kInt32:
      return OutputKind::kS32;
    case Type::kUInt8:
      return OutputKind::kU8;
    case Type::kInt8:
      return OutputKind::kS8;
    default:
      return OutputKind::kF32;
  }
}

Type type_of(OutputKind output) {
  switch (output) {
    case OutputKind::kS32:
      return Type::kInt32;
    case OutputKind::kU8:
      return Type::kUInt8;
    case OutputKind::kS8:
      return Type::kInt8;
    default:
      return Type::kFloat32;
  }
}

Parameter<float> float_bias(const py::object& bias, int64_t n) {
  if (bias.is_none()) return {};
  const ArrayView b = view_of(bias.ptr(), "bias");
  if (type_of(b) != Type::kFloat32) raise_type("bias must be float32, got ", dtype_name(b));
  if (b.ndim != 1 || b.shape[0] != n)
    raise_value("bias has shape ", shape_text(b.shape, b.ndim), ", expected ", shape_text({n}));
  return float_parameter(bias.ptr(), "bias");
}

EpilogueArguments::EpilogueArguments(const Objects& o, int64_t n, Type w_type, const char* output) {
  const bool is_float = w_type == Type::kFloat32 || w_type == Type::kFloat16;
  if (is_float && (!o.w_scale.is_none() || !o.x_scale.is_none()))
    raise_value("float weights take no scales: w_scale and x_scale must be None");
  scale_ = is_float ? Parameter<float>(1.0f) : float_parameter(o.w_scale.ptr(), "w_scale");
  const std::string per = std::string("one an ") + output;
  check_length(scale_.size(), n, "w_scale", per.c_str());
  for (float value : scale_) check_scale(value, "w_scale");
  spec.n = n;
  spec.w_scale = scale_.data();
  spec.w_scale_count = static_cast<int64_t>(scale_.size());
  spec.w_is_signed = w_type != Type::kUInt8;
  if (!is_float && !o.w_zero_point.is_none())
    zero_ = int_parameter(o.w_zero_point.ptr(), "w_zero_point");
  check_length(zero_.size(), n, "w_zero_point", per.c_str());
  for (int32_t value : zero_) {
    if (!is_float) check_code(value, w_type, "w_zero_point");
  }
  spec.w_zero_point = zero_.data();
  spec.w_zero_point_count = static_cast<int64_t>(zero_.size());

  spec.is_dynamic = o.x_scale.is_none();
  if (!spec.is_dynamic) {
    const Type x_type = o.x_dtype.is_none()
                            ? Type::kUInt8
                            : parse_dtype(o.x_dtype.ptr(), {Type::kUInt8, Type::kInt8});
    spec.x_scale = one_float(o.x_scale.ptr(), "x_scale");
    check_scale(spec.x_scale, "x_scale");
    x_is_signed = x_type == Type::kInt8;
    x_zero_point = o.x_zero_point;
    check_code(x_zero_point, x_type, "x_zero_point");
  }

  const Type out_type =
      parse_dtype(o.out_dtype.ptr(), {Type::kFloat32, Type::kInt32, Type::kUInt8, Type::kInt8});
  spec.output = output_of(out_type);
  if (is_float && out_type != Type::kFloat32)
    raise_value("float weights give a float32 result, not ", type_name(out_type));
  if (spec.is_dynamic && out_type == Type::kInt32)
    raise_value("an int32 result needs x_scale: without it, parts of x have scales of their own");
  if (out_type == Type::kUInt8 || out_type == Type::kInt8) {
    if (o.out_scale.is_none())
      raise_value("a result of dtype ", type_name(out_type), " needs out_scale");
    spec.out_scale = one_float(o.out_scale.ptr(), "out_scale");
    check_scale(spec.out_scale, "out_scale");
    spec.out_zero_point = o.out_zero_point;
    check_code(spec.out_zero_point, out_type, "out_zero_point");
  }

  if (!o.bias.is_none()) {
    const ArrayView b = view_of(o.bias.ptr(), "bias");
    const Type type = type_of(b);
    if (type != Type::kFloat32 && type != Type::kInt32)
      raise_type("bias must be float32 or int32, got ", dtype_name(b));
    if (b.ndim != 1 || b.shape[0] != n)
      raise_value("bias has shape ", shape_text(b.shape, b.ndim), ", expected ", shape_text({n}));
    if (type == Type::kFloat32) {
      bias_f32_ = float_parameter(o.bias.ptr(), "bias");
      for (float value : bias_f32_) {
        if (!std::isfinite(value)) raise_value("bias must be finite, got ", value);
      }
      spec.bias_f32 = bias_f32_.data();
    } else {
      if (spec.is_dynamic) raise_type("an int32 bias needs x_scale: it is at x_scale * w_scale");
      bias_s32_ = int_parameter(o.bias.ptr(), "bias");
      spec.bias_s32 = bias_s32_.data();
    }
  }

  const Clip clip(o.lo, o.hi);
  spec.activate = clip.activate;
  spec.lo = clip.lo;
  spec.hi = clip.hi;
  if (spec.activate && out_type == Type::kInt32) raise_value("an int32 result takes no activation");
}

}  // namespace octavo
