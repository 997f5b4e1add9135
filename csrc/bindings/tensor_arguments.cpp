#include "bindings/tensor_arguments.h"

#include <algorithm>
#include <limits>

#include "bindings/epilogue_arguments.h"
#include "bindings/image_arguments.h"
#include "ops/epilogue.h"

namespace octavo {
namespace {

constexpr float kLargestFactor = 0x1p100f;
// Sums of as many codes fit int32.
constexpr int64_t kLargestWindow = (int64_t{1} << 23) - 1;

}  // namespace

TensorQuantization::TensorQuantization(const py::object& scale_object,
                                       const py::object& zero_object, Type type,
                                       const char* prefix) {
  const std::string scale_name = std::string(prefix) + "scale";
  const std::string zero_name = std::string(prefix) + "zero_point";
  scale = one_float(scale_object.ptr(), scale_name.c_str());
  zero_point = one_int(zero_object.ptr(), zero_name.c_str());
  check_scale(scale, scale_name.c_str());
  check_code(zero_point, type, zero_name.c_str());
}

Type code_dtype(const py::object& dtype) {
  return parse_dtype(dtype.ptr(), {Type::kUInt8, Type::kInt8});
}

float factor(double value, const char* what) {
  const auto rounded = static_cast<float>(value);
  if (!(rounded < kLargestFactor)) raise_value(what, " must be below 2**100, got ", value);
  return rounded;
}

AddArgs pair_arguments(bool is_add, Type a, Type b, const PairParameters& p, Type* out_type) {
  *out_type = code_dtype(p.out_dtype);
  const TensorQuantization a_q(p.a_scale, p.a_zero_point, a, "a_");
  const TensorQuantization b_q(p.b_scale, p.b_zero_point, b, "b_");
  const TensorQuantization y_q(p.out_scale, p.out_zero_point, *out_type, "out_");
  AddArgs args{};
  args.a_signed = a == Type::kInt8;
  args.b_signed = b == Type::kInt8;
  args.y_signed = *out_type == Type::kInt8;
  args.a_zero = a_q.zero_point;
  args.b_zero = b_q.zero_point;
  args.y_zero = y_q.zero_point;
  if (is_add) {
    args.a_scale = factor(double{a_q.scale} / y_q.scale, "a_scale / out_scale");
    args.b_scale = factor(double{b_q.scale} / y_q.scale, "b_scale / out_scale");
  } else {
    args.a_scale =
        factor(double{a_q.scale} * b_q.scale / y_q.scale, "a_scale * b_scale / out_scale");
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float lo = p.lo.is_none() ? -kInfinity : one_float(p.lo.ptr(), "lo");
  const float hi = p.hi.is_none() ? kInfinity : one_float(p.hi.ptr(), "hi");
  if (!(lo <= hi)) raise_value("lo must not exceed hi, got ", lo, " and ", hi);
  const CodeBounds bounds(args.y_signed, args.y_zero, y_q.scale, lo, hi);
  args.lo = bounds.lo;
  args.hi = bounds.hi;
  return args;
}

Shape broadcast(const ArrayView& a, const ArrayView& b, int64_t* a_shape, int64_t* b_shape) {
  const int axes = std::max(a.ndim, b.ndim);
  Shape shape(axes, 1);
  for (int i = 0; i < axes; ++i) {
    const int a_axis = i - (axes - a.ndim), b_axis = i - (axes - b.ndim);
    a_shape[i] = a_axis < 0 ? 1 : a.shape[a_axis];
    b_shape[i] = b_axis < 0 ? 1 : b.shape[b_axis];
    if (a_shape[i] != b_shape[i] && a_shape[i] != 1 && b_shape[i] != 1)
      raise_value("a has shape ", shape_text(a.shape, a.ndim), ", b has ",
                  shape_text(b.shape, b.ndim), "; they do not broadcast");
    shape[i] = a_shape[i] == 1 ? b_shape[i] : a_shape[i];
  }
  return shape;
}

Images images_of(const ArrayView& x, const std::string& layout) {
  Images images{};
  images.channels_last = is_channels_last(layout);
  if (x.ndim != 4)
    raise_value("x must have 4 dimensions (", layout, "), got shape ", shape_text(x.shape, x.ndim));
  const int first = images.channels_last ? 1 : 2;
  images.batch = x.shape[0];
  images.channels = x.shape[images.channels_last ? 3 : 1];
  images.height = x.shape[first];
  images.width = x.shape[first + 1];
  return images;
}

Shape image_shape(const Images& images, int64_t height, int64_t width) {
  if (images.channels_last) return {images.batch, height, width, images.channels};
  return {images.batch, images.channels, height, width};
}

void check_has_pixels(const Images& images) {
  if (images.height < 1 || images.width < 1)
    raise_value("x must have at least one pixel, got ", images.height, " x ", images.width);
}

Window window_of(const Images& images, const py::object& given, const py::object& stride,
                 const py::object& padding, const py::object& dilation, bool ceil_mode) {
  if (given.is_none()) check_has_pixels(images);
  const py::object kernel =
      given.is_none() ? py::object(py::make_tuple(images.height, images.width)) : given;
  const auto sizes = sizes_of<2>(kernel, "kernel", 1);
  const auto strides = stride.is_none() ? sizes : sizes_of<2>(stride, "stride", 1);
  const auto pads = sizes_of<4>(padding, "padding", 0);
  const auto dilations = sizes_of<2>(dilation, "dilation", 1);
  const auto axis = [&](int64_t in, size_t i, const char* name) {
    WindowAxis w{in, sizes[i], strides[i], pads[i], pads[i + 2], dilations[i], 0};
    w.out = WindowAxis::outputs(w, ceil_mode);
    if (w.out < 1)
      raise_value("kernel ", w.kernel, " with dilation ", w.dilation, " exceeds the padded ", name,
                  " ", in, " + ", w.pad_before, " + ", w.pad_after);
    if (!has_no_empty_window(w))
      raise_value("padding ", w.pad_before, " + ", w.pad_after, " of the ", name,
                  " leaves a window of kernel ", w.kernel, " with dilation ", w.dilation,
                  " without a pixel");
    return w;
  };
  return {axis(images.height, 0, "height"), axis(images.width, 1, "width")};
}

AverageArgs average_arguments(const Window& window, const TensorQuantization& x,
                              const TensorQuantization& y, Type out_type) {
  if (window.height.kernel > kLargestWindow / window.width.kernel)
    raise_value("kernel must have less than 2**23 values, got ", window.height.kernel, " x ",
                window.width.kernel);
  return {out_type == Type::kInt8, x.zero_point, y.zero_point,
          factor(double{x.scale} / y.scale, "x_scale / out_scale"), 1};
}

}  // namespace octavo
