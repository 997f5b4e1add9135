#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "bindings/context.h"
#include "bindings/epilogue_arguments.h"
#include "bindings/image_arguments.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "bindings/tensor_arguments.h"
#include "ops/activation_table.h"
#include "ops/eltwise.h"
#include "ops/pooling.h"
#include "ops/resize.h"

namespace octavo {
namespace {

// An 8-bit array, and a C-ordered native copy where it is not so itself.
struct Codes {
  ArrayView view;
  Type type;
  py::array copy = no_array();

  Codes(const py::object& object, const char* name) : view(view_of(object.ptr(), name)) {
    type = type_of(view);
    if (type != Type::kUInt8 && type != Type::kInt8)
      raise_type(name, " must be int8 or uint8, got ", dtype_name(view));
  }
  bool is_signed() const { return type == Type::kInt8; }
  const uint8_t* data() {
    copy = contiguous(view, type);
    return static_cast<const uint8_t*>(copy.data());
  }
};

uint8_t* bytes_of(Result& result) { return reinterpret_cast<uint8_t*>(result.data()); }

py::object pair(bool is_add, const py::object& a, const py::object& b, const py::object& a_scale,
                const py::object& a_zero_point, const py::object& b_scale,
                const py::object& b_zero_point, const py::object& out_scale,
                const py::object& out_zero_point, const py::object& out_dtype, const py::object& lo,
                const py::object& hi, const py::object& out) {
  const FpModeGuard mode;
  Codes left(a, "a"), right(b, "b");
  Type type;
  AddArgs args = pair_arguments(
      is_add, left.type, right.type,
      {a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, out_dtype, lo, hi},
      &type);
  int64_t a_shape[Shape::kMaxAxes], b_shape[Shape::kMaxAxes];
  const Shape shape = broadcast(left.view, right.view, a_shape, b_shape);
  Result result(out.ptr(), type, shape, {&left.view, &right.view});
  args.a = left.data();
  args.b = right.data();
  args.y = bytes_of(result);
  const Broadcast shapes(shape.size(), a_shape, b_shape);
  const CallContext context = call_context();
  {
    const NativeScope scope(shapes.size() * NativeScope::kMacsPerValue);
    const EltwiseKernels& kernels = *context.table->eltwise;
    run_pairs(*context.table, is_add ? kernels.add : kernels.multiply, args, shapes,
              context.threads);
  }
  return result.finish();
}

template <bool kAdd>
py::object pair_of(const py::object& a, const py::object& b, const py::object& a_scale,
                   const py::object& a_zero_point, const py::object& b_scale,
                   const py::object& b_zero_point, const py::object& out_scale,
                   const py::object& out_zero_point, const py::object& out_dtype,
                   const py::object& lo, const py::object& hi, const py::object& out) {
  return pair(kAdd, a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point,
              out_dtype, lo, hi, out);
}

// A table of 256 codes.
Codes table_of(const py::object& object, const char* name) {
  Codes table(object, name);
  if (table.view.ndim != 1 || table.view.shape[0] != 256)
    raise_value(name, " has shape ", shape_text(table.view.shape, table.view.ndim),
                ", expected (256,)");
  return table;
}

Shape shape_of(const ArrayView& array) { return Shape(array.shape, array.shape + array.ndim); }

py::object lookup(const py::object& x, const py::object& table, const py::object& out) {
  Codes codes(x, "x"), entries = table_of(table, "table");
  Result result(out.ptr(), entries.type, shape_of(codes.view), {&codes.view, &entries.view});
  const uint8_t *in = codes.data(), *map = entries.data();
  const CallContext context = call_context();
  {
    const NativeScope scope(codes.view.size() * NativeScope::kMacsPerValue);
    run_lookup(*context.table, in, codes.view.size(), map, bytes_of(result), context.threads);
  }
  return result.finish();
}

py::array activation_table(const std::string& name, const py::object& x_scale,
                           const py::object& x_zero_point, const py::object& x_dtype,
                           const py::object& out_scale, const py::object& out_zero_point,
                           const py::object& out_dtype, const py::object& alpha,
                           const py::object& beta) {
  const FpModeGuard mode;
  const Type x_type = code_dtype(x_dtype), type = code_dtype(out_dtype);
  const TensorQuantization x_q(x_scale, x_zero_point, x_type, "x_");
  const TensorQuantization y_q(out_scale, out_zero_point, type, "out_");
  const auto parameter = [](const py::object& object, const char* what) {
    std::optional<double> value;
    if (object.is_none()) return value;
    if (!PyNumber_Check(object.ptr()))
      raise_type(what, " must be a number or None, got ", Py_TYPE(object.ptr())->tp_name);
    value = PyFloat_AsDouble(object.ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    if (std::isnan(*value)) raise_value(what, " must not be NaN");
    return value;
  };
  const auto a = parameter(alpha, "alpha"), b = parameter(beta, "beta");
  py::array table(dtype_of(type), Shape{256});
  fill_activation_table(name, {x_q.scale, x_q.zero_point, x_type == Type::kInt8},
                        {y_q.scale, y_q.zero_point, type == Type::kInt8}, a ? &*a : nullptr,
                        b ? &*b : nullptr, static_cast<uint8_t*>(table.mutable_data()));
  return table;
}

py::object concat(const py::object& arrays, const py::object& tables, int64_t axis,
                  const py::object& out) {
  const auto sequence = [](const py::object& object) {
    auto values = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
    if (!values) throw py::error_already_set();
    return values;
  };
  const py::tuple items = sequence(arrays);
  if (items.empty()) raise_value("arrays must hold at least 1 array, got 0");
  const py::tuple maps = tables.is_none() ? py::tuple(items.size()) : sequence(tables);
  if (maps.size() != items.size())
    raise_value("tables has ", int64_t(maps.size()), " values for ", int64_t(items.size()),
                " arrays; they must be equal");
  struct Part {
    Codes codes;
    std::optional<Codes> table;
    const uint8_t *x, *map;
  };
  std::vector<Part> parts;
  for (size_t i = 0; i < items.size(); ++i) {
    Part part{Codes(items[i], "an array"), std::nullopt, nullptr, nullptr};
    if (!tables.is_none() && !maps[i].is_none()) part.table.emplace(table_of(maps[i], "a table"));
    parts.push_back(std::move(part));
  }
  const auto result_type = [](const Part& part) {
    return part.table ? part.table->type : part.codes.type;
  };
  const ArrayView& first = parts[0].codes.view;
  const Type type = result_type(parts[0]);
  if (axis < -first.ndim || axis >= first.ndim)
    raise_value("axis ", axis, " is out of range for an array of ", first.ndim, " dimensions");
  const int at = static_cast<int>(axis < 0 ? axis + first.ndim : axis);
  Shape shape = shape_of(first);
  shape[at] = 0;
  for (const Part& part : parts) {
    const ArrayView& view = part.codes.view;
    if (result_type(part) != type)
      raise_type("arrays must come to one dtype, got ", type_name(type), " and ",
                 type_name(result_type(part)));
    for (int i = 0; i < first.ndim; ++i) {
      if (view.ndim != first.ndim || (i != at && view.shape[i] != first.shape[i]))
        raise_value("arrays have shapes ", shape_text(first.shape, first.ndim), " and ",
                    shape_text(view.shape, view.ndim), "; they must differ along axis ", at,
                    " alone");
    }
    shape[at] += view.shape[at];
  }
  Result result(out.ptr(), type, shape, {});
  if (!out.is_none()) {
    const ArrayView target = view_of(out.ptr(), "out");
    for (const Part& part : parts) {
      if (may_overlap(target, part.codes.view) ||
          (part.table && may_overlap(target, part.table->view)))
        raise_value("out shares memory with an input; they must not overlap");
    }
  }
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < at; ++i) outer *= shape[i];
  for (int i = at + 1; i < shape.size(); ++i) inner *= shape[i];
  for (Part& part : parts) {
    part.x = part.codes.data();
    part.map = part.table ? part.table->data() : nullptr;
  }
  const CallContext context = call_context();
  {
    const NativeScope scope(outer * inner * shape[at] * NativeScope::kMacsPerValue);
    int64_t offset = 0;
    for (const Part& part : parts) {
      const int64_t count = part.codes.view.shape[at] * inner;
      run_place(*context.table, part.x, outer, count, part.map, bytes_of(result) + offset,
                shape[at] * inner, context.threads);
      offset += count;
    }
  }
  return result.finish();
}

// A batch of images, and what was checked of it.
struct ImageCodes : Codes {
  Images images;
  ImageCodes(const py::object& x, const std::string& layout)
      : Codes(x, "x"), images(images_of(view, layout)) {}
  Shape with_size(int64_t height, int64_t width) const {
    return image_shape(images, height, width);
  }
};

py::object max_pool(const py::object& x, const py::object& kernel, const py::object& stride,
                    const py::object& padding, const py::object& dilation, bool ceil_mode,
                    const std::string& layout, const py::object& out) {
  ImageCodes codes(x, layout);
  const Window window = window_of(codes.images, kernel, stride, padding, dilation, ceil_mode);
  Result result(out.ptr(), codes.type, codes.with_size(window.height.out, window.width.out),
                {&codes.view});
  const uint8_t* in = codes.data();
  const CallContext context = call_context();
  {
    const NativeScope scope(codes.view.size() * NativeScope::kMacsPerValue);
    run_max_pool(*context.table, in, codes.images, codes.is_signed(), window, bytes_of(result),
                 context.threads);
  }
  return result.finish();
}

py::object average_pool(const py::object& x, const py::object& x_scale,
                        const py::object& x_zero_point, const py::object& out_scale,
                        const py::object& out_zero_point, const py::object& out_dtype,
                        const py::object& kernel, const py::object& stride,
                        const py::object& padding, bool ceil_mode, bool count_include_pad,
                        const std::string& layout, const py::object& out) {
  const FpModeGuard mode;
  ImageCodes codes(x, layout);
  const Type type = code_dtype(out_dtype);
  const TensorQuantization x_q(x_scale, x_zero_point, codes.type, "x_");
  const TensorQuantization y_q(out_scale, out_zero_point, type, "out_");
  const Window window =
      window_of(codes.images, kernel, stride, padding, py::make_tuple(1, 1), ceil_mode);
  const AverageArgs average = average_arguments(window, x_q, y_q, type);
  Result result(out.ptr(), type, codes.with_size(window.height.out, window.width.out),
                {&codes.view});
  const uint8_t* in = codes.data();
  const CallContext context = call_context();
  {
    const NativeScope scope(codes.view.size() * NativeScope::kMacsPerValue);
    run_average_pool(*context.table, in, codes.images, codes.is_signed(), window, count_include_pad,
                     average, bytes_of(result), context.threads);
  }
  return result.finish();
}

template <class T>
struct Named {
  const char* name;
  T value;
};
constexpr Named<Coordinates> kCoordinates[] = {
    {"half_pixel", Coordinates::kHalfPixel},
    {"half_pixel_symmetric", Coordinates::kHalfPixel},  // the same where sizes are whole
    {"pytorch_half_pixel", Coordinates::kPytorchHalfPixel},
    {"asymmetric", Coordinates::kAsymmetric},
    {"align_corners", Coordinates::kAlignCorners},
    {"tf_half_pixel_for_nn", Coordinates::kTfHalfPixelForNn},
};
constexpr Named<NearestRounding> kRoundings[] = {
    {"round_prefer_floor", NearestRounding::kRoundPreferFloor},
    {"round_prefer_ceil", NearestRounding::kRoundPreferCeil},
    {"floor", NearestRounding::kFloor},
    {"ceil", NearestRounding::kCeil},
};
template <class T, size_t N>
T named(const Named<T> (&known)[N], const std::string& name, const char* what) {
  std::string list;
  for (const auto& item : known) {
    if (name == item.name) return item.value;
    list += (list.empty() ? "" : ", ") + std::string(item.name);
  }
  raise_value(what, " must be one of ", list, ", got '", name, "'");
}

py::object resize(const py::object& x, const py::object& size, const std::string& mode,
                  const std::string& coordinates, const std::string& rounding,
                  const py::object& x_scale, const py::object& x_zero_point,
                  const py::object& out_scale, const py::object& out_zero_point,
                  const py::object& out_dtype, const std::string& layout, const py::object& out) {
  const FpModeGuard fp_mode;
  ImageCodes codes(x, layout);
  const auto sizes = sizes_of<2>(size, "size", 1);
  if (mode != "nearest" && mode != "linear")
    raise_value("mode must be 'nearest' or 'linear', got '", mode, "'");
  const Coordinates at = named(kCoordinates, coordinates, "coordinates");
  const NearestRounding nearest = named(kRoundings, rounding, "rounding");
  const Type type = out_dtype.is_none() ? codes.type : code_dtype(out_dtype);
  const TensorQuantization x_q(x_scale, x_zero_point, codes.type, "x_");
  const TensorQuantization y_q =
      out_scale.is_none() ? x_q : TensorQuantization(out_scale, out_zero_point, type, "out_");
  check_code(y_q.zero_point, type, "out_zero_point");
  const Images& images = codes.images;
  check_has_pixels(images);
  const bool same =
      type == codes.type && x_q.scale == y_q.scale && x_q.zero_point == y_q.zero_point;
  const float multiplier = factor(double{x_q.scale} / y_q.scale, "x_scale / out_scale");
  Result result(out.ptr(), type, codes.with_size(sizes[0], sizes[1]), {&codes.view});
  const uint8_t* in = codes.data();
  const CallContext context = call_context();
  {
    const NativeScope scope(images.batch * images.channels * sizes[0] * sizes[1] *
                            NativeScope::kMacsPerValue);
    if (mode == "linear") {
      run_resize_linear(
          *context.table, in, images, LinearAxis(images.height, sizes[0], at),
          LinearAxis(images.width, sizes[1], at),
          {codes.is_signed(), type == Type::kInt8, x_q.zero_point, y_q.zero_point, multiplier},
          bytes_of(result), context.threads);
    } else {
      uint8_t table[256];
      if (!same)
        fill_activation_table("identity", {x_q.scale, x_q.zero_point, codes.is_signed()},
                              {y_q.scale, y_q.zero_point, type == Type::kInt8}, nullptr, nullptr,
                              table);
      run_resize_nearest(*context.table, in, images,
                         nearest_inputs(images.height, sizes[0], at, nearest),
                         nearest_inputs(images.width, sizes[1], at, nearest),
                         same ? nullptr : table, bytes_of(result), context.threads);
    }
  }
  return result.finish();
}

py::object argmax(const py::object& x, int64_t axis, const py::object& out) {
  Codes codes(x, "x");
  const ArrayView& view = codes.view;
  const ChannelLayout layout = layout_of(view, py::int_(axis));
  if (layout.channels < 1) raise_value("x has no values along axis ", axis);
  if (layout.channels > kLargestSize)
    raise_value("x must have less than 2**31 values along axis ", axis, ", got ", layout.channels);
  const int at = static_cast<int>(axis < 0 ? axis + view.ndim : axis);
  Shape shape;
  for (int i = 0; i < view.ndim; ++i) {
    if (i != at) shape.push_back(view.shape[i]);
  }
  Result result(out.ptr(), Type::kInt64, shape, {&view});
  const uint8_t* in = codes.data();
  const CallContext context = call_context();
  {
    const NativeScope scope(view.size() * NativeScope::kMacsPerValue);
    run_argmax(*context.table, in, layout.outer, layout.channels, layout.inner, codes.is_signed(),
               reinterpret_cast<int64_t*>(result.data()), context.threads);
  }
  return result.finish();
}

}  // namespace

void register_tensor(py::module_& m) {
  const auto define_pair = [&](const char* name, auto function, const char* doc) {
    m.def(name, function, py::arg("a"), py::arg("b"), py::arg("a_scale"), py::arg("a_zero_point"),
          py::arg("b_scale"), py::arg("b_zero_point"), py::arg("out_scale"),
          py::arg("out_zero_point"), py::arg("out_dtype"), py::kw_only(),
          py::arg("lo") = py::none(), py::arg("hi") = py::none(), py::arg("out") = py::none(), doc);
  };
  define_pair(
      "add", &pair_of<true>,
      "Codes of a + b, each an int8 or uint8 ndarray; they broadcast. `lo` and `hi` clip the "
      "sum, in real units.");
  define_pair("multiply", &pair_of<false>, "Codes of a * b; as `add`.");
  m.def("lookup", &lookup, py::arg("x"), py::arg("table"), py::arg("out") = py::none(),
        "table[x] for each code, x as the byte it is; of the table's dtype.");
  m.def(
      "activation_table", &activation_table, py::arg("name"), py::arg("x_scale"),
      py::arg("x_zero_point"), py::arg("x_dtype"), py::arg("out_scale"), py::arg("out_zero_point"),
      py::arg("out_dtype"), py::kw_only(), py::arg("alpha") = py::none(),
      py::arg("beta") = py::none(),
      "The (256,) codes of a function of one tensor, for `lookup`: identity, relu, clip (alpha to "
      "beta), leaky_relu (alpha, 0.01), elu (alpha, 1), hard_sigmoid (alpha, 0.2; beta, 0.5), "
      "hard_swish, sigmoid, silu, tanh, gelu, gelu_tanh.");
  m.def(
      "concat", &concat, py::arg("arrays"), py::arg("tables"), py::arg("axis"),
      py::arg("out") = py::none(),
      "8-bit arrays one after another along `axis`, each through its table of 256 codes (None: as "
      "they are).");
  m.def("max_pool", &max_pool, py::arg("x"), py::arg("kernel"), py::arg("stride"),
        py::arg("padding") = py::make_tuple(0, 0, 0, 0), py::arg("dilation") = py::make_tuple(1, 1),
        py::arg("ceil_mode") = false, py::arg("layout") = "NCHW", py::arg("out") = py::none(),
        "The greatest code under a window. `padding` is (top, left, bottom, right) and never wins; "
        "`stride` None is the kernel's size.");
  m.def("average_pool", &average_pool, py::arg("x"), py::arg("x_scale"), py::arg("x_zero_point"),
        py::arg("out_scale"), py::arg("out_zero_point"), py::arg("out_dtype"), py::arg("kernel"),
        py::arg("stride") = py::none(), py::arg("padding") = py::make_tuple(0, 0, 0, 0),
        py::arg("ceil_mode") = false, py::arg("count_include_pad") = false,
        py::arg("layout") = "NCHW", py::arg("out") = py::none(),
        "Codes of the average under a window; kernel None: of the whole image.");
  m.def("resize", &resize, py::arg("x"), py::arg("size"), py::arg("mode"), py::arg("coordinates"),
        py::arg("rounding"), py::arg("x_scale"), py::arg("x_zero_point"), py::arg("out_scale"),
        py::arg("out_zero_point"), py::arg("out_dtype"), py::arg("layout") = "NCHW",
        py::arg("out") = py::none(),
        "Images of another size (height, width), 'nearest' or 'linear'; `coordinates` and "
        "`rounding` (of 'nearest' alone) are named as in ONNX Resize.");
  m.def("argmax", &argmax, py::arg("x"), py::arg("axis"), py::arg("out") = py::none(),
        "int64 index of the first of the greatest codes along `axis`.");
}

}  // namespace octavo
