#include "bindings/conv_call.h"

namespace octavo {

Type result_type(const Conv& conv) {
  if (conv.output() == OutputKind::kF32) return Type::kFloat32;
  if (conv.output() == OutputKind::kS32) return Type::kInt32;
  return conv.result_is_signed() ? Type::kInt8 : Type::kUInt8;
}

Conv::Shape shape_of(const Conv& conv, const Shape& sizes) {
  if (conv.spec().channels_last) return {sizes[0], sizes[3], sizes[1], sizes[2]};
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

Shape result_shape(const Conv& conv, const Shape& x) {
  if (x.size() != 4)
    raise_value("x must have 4 dimensions (",
                conv.spec().channels_last ? "batch, height, width, channels"
                                          : "batch, channels, height, width",
                "), got ", shape_text(x));
  const Conv::Shape shape = shape_of(conv, x);
  if (shape.channels != conv.spec().in_c)
    raise_value("w has in_channels=", conv.spec().in_c, ", x has ", shape.channels,
                " channels (its ", conv.spec().channels_last ? "last" : "second",
                " axis); they must be equal");
  const Conv::Shape y = conv.output_shape(shape);
  int64_t values = 8;
  for (int64_t size : {y.batch, y.channels, y.height, y.width}) {
    if (__builtin_mul_overflow(values, size, &values))
      raise_value("the result would have ", y.batch, " x ", y.channels, " x ", y.height, " x ",
                  y.width, " values, more than memory can hold");
  }
  if (conv.spec().channels_last) return {y.batch, y.height, y.width, y.channels};
  return {y.batch, y.channels, y.height, y.width};
}

Type residual_type(const Conv& conv) {
  return conv.spec().residual.is_signed ? Type::kInt8 : Type::kUInt8;
}

Type code_type(const Conv& conv) { return conv.spec().x_is_signed ? Type::kInt8 : Type::kUInt8; }

bool takes(const Conv& conv, Type type) {
  return type == Type::kFloat32 || (!conv.is_dynamic() && type == code_type(conv));
}

int64_t macs_of(const Conv& conv, const Shape& result) {
  const ConvSpec& spec = conv.spec();
  return result[0] * result[1] * result[2] * result[3] * spec.kernel_h * spec.kernel_w *
         (spec.in_c / spec.groups);
}

}  // namespace octavo
