#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "bindings/context.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/float_rows.h"

namespace octavo {
namespace {

constexpr std::pair<const char*, FloatFunction> kFunctions[] = {
    {"exp", FloatFunction::kExp},           {"erf", FloatFunction::kErf},
    {"tanh", FloatFunction::kTanh},         {"sigmoid", FloatFunction::kSigmoid},
    {"silu", FloatFunction::kSilu},         {"gelu", FloatFunction::kGelu},
    {"gelu_tanh", FloatFunction::kGeluTanh}};

FloatFunction function_named(const std::string& given) {
  std::string list;
  for (const auto& [known, function] : kFunctions) {
    if (given == known) return function;
    list += std::string(list.empty() ? "" : ", ") + known;
  }
  raise_value("name must be one of ", list, ", got ", given);
}

ArrayView float_view(const py::object& object, const char* name) {
  const ArrayView view = view_of(object.ptr(), name);
  if (type_of(view) != Type::kFloat32) raise_type(name, " must be float32, got ", dtype_name(view));
  return view;
}

// An input read where it lies; a copy only of what is unaligned or of another byte order.
struct Input {
  ArrayView view;
  py::array copy = no_array();

  explicit Input(const ArrayView& given) : view(given) {
    if (!is_native(given)) copy_values();
  }
  void copy_values() {
    copy = contiguous(view, Type::kFloat32);
    view = view_of(copy.ptr(), "x");
  }
  const float* data() const { return reinterpret_cast<const float*>(view.data); }
  int64_t stride(int axis) const { return view.strides[axis] / int64_t{sizeof(float)}; }
};

// Where the result goes: `out` as it lies, or a new array.
struct Output {
  py::object array;
  ArrayView view;

  Output(const py::object& out, const ArrayView& x, std::initializer_list<const ArrayView*> inputs)
      : array(out) {
    const Shape shape(x.shape, x.shape + x.ndim);
    if (out.is_none())
      array = py::array(dtype_of(Type::kFloat32), shape.vector());
    else
      check_out(view_of(out.ptr(), "out"), Type::kFloat32, shape, inputs);
    view = view_of(array.ptr(), "out");
  }
  float* data() const { return reinterpret_cast<float*>(view.data); }
  int64_t stride(int axis) const { return view.strides[axis] / int64_t{sizeof(float)}; }
};

py::object float_function(const std::string& name, const py::object& x_object,
                          const py::object& out) {
  const FloatFunction function = function_named(name);
  const ArrayView given = float_view(x_object, "x");
  Output y(out, given, {&given});
  const Input x(given);
  StridedRows rows(1, {1, 1, 0});
  for (int i = 0; i < given.ndim; ++i) rows.add_axis(given.shape[i], {x.stride(i), y.stride(i), 0});
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_float_function(*context.table, function, rows, x.data(), y.data(), context.threads);
  }
  return y.array;
}

int axis_of(const py::object& object, int ndim) {
  const int64_t given = one_int(object.ptr(), "axis");
  if (given < -ndim || given >= ndim)
    raise_value("axis ", given, " is out of range for an array of ", ndim, " dimensions");
  return static_cast<int>(given < 0 ? given + ndim : given);
}

// A mask with the axes of x: a stride of 0 where it is broadcast.
class Mask {
 public:
  Mask(const py::object& object, const ArrayView& x) {
    if (object.is_none()) return;
    view_ = view_of(object.ptr(), "mask");
    const Type type = type_of(view_);
    if (type != Type::kUInt8 && type != Type::kFloat32)
      raise_type("mask must be uint8 or float32, got ", dtype_name(view_));
    lead_ = x.ndim - view_.ndim;
    bool fits = lead_ >= 0;
    for (int i = 0; fits && i < view_.ndim; ++i)
      fits = view_.shape[i] == x.shape[lead_ + i] || view_.shape[i] == 1;
    if (!fits)
      raise_value("mask has shape ", shape_text(view_.shape, view_.ndim), ", x has ",
                  shape_text(x.shape, x.ndim), "; it must broadcast to that");
    if (!is_native(view_)) {
      copy_ = contiguous(view_, type);
      view_ = view_of(copy_.ptr(), "mask");
    }
    (type == Type::kUInt8 ? keep_ : added_) = view_.data;
  }
  const ArrayView* view() const { return data() ? &view_ : nullptr; }
  const float* added() const { return reinterpret_cast<const float*>(added_); }
  const uint8_t* keep() const { return reinterpret_cast<const uint8_t*>(keep_); }
  int64_t stride(int axis) const {
    if (!data() || axis < lead_ || view_.shape[axis - lead_] == 1) return 0;
    return view_.strides[axis - lead_] / (keep_ ? 1 : int64_t{sizeof(float)});
  }

 private:
  const char* data() const { return keep_ ? keep_ : added_; }

  const char *keep_ = nullptr, *added_ = nullptr;
  int lead_ = 0;
  ArrayView view_{};
  py::array copy_ = no_array();
};

py::object softmax(const py::object& x_object, const py::object& axis,
                   const py::object& mask_object, const py::object& out) {
  const ArrayView given = float_view(x_object, "x");
  if (given.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int along = axis_of(axis, given.ndim);
  const Mask mask(mask_object, given);
  Output y(out, given, {&given, mask.view()});
  const Input x(given);
  const auto steps = [&](int i) {
    return StridedRows::Steps{x.stride(i), y.stride(i), mask.stride(i)};
  };
  const int64_t n = given.shape[along];
  // A row of one value is a row of values side by side.
  StridedRows rows(n, n == 1 ? StridedRows::Steps{1, 1, 1} : steps(along));
  for (int i = 0; i < given.ndim; ++i) {
    if (i != along) rows.add_axis(given.shape[i], steps(i));
  }
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y.data();
  args.mask = mask.added();
  args.keep = mask.keep();
  args.run = 1;
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_rows(*context.table, RowFunction::kSoftmax, rows, args, 1, context.threads);
  }
  return y.array;
}

// weight or bias: of the shape of axes [first, last) of x.
class Affine {
 public:
  Affine(const py::object& object, const char* name, const ArrayView& x, int first, int last) {
    if (object.is_none()) return;
    view_ = float_view(object, name);
    if (view_.ndim != last - first || !std::equal(x.shape + first, x.shape + last, view_.shape))
      raise_value(name, " has shape ", shape_text(view_.shape, view_.ndim), ", expected ",
                  shape_text(x.shape + first, last - first));
    values_ = contiguous(view_, Type::kFloat32);
  }
  const float* data() const {
    return values_ ? static_cast<const float*>(values_.data()) : nullptr;
  }
  const ArrayView* view() const { return values_ ? &view_ : nullptr; }

 private:
  ArrayView view_{};
  py::array values_ = no_array();
};

float epsilon_of(const py::object& object) {
  const float epsilon = one_float(object.ptr(), "eps");
  if (!(epsilon >= 0.0f) || std::isinf(epsilon))
    raise_value("eps must be at least 0 and finite, got ", epsilon);
  return epsilon;
}

// Axes [first, ndim) as one: the step from value to value, 0 where there is none.
int64_t step_of(const ArrayView& array, int first) {
  int64_t step = 0, reach = 0;
  for (int i = array.ndim - 1; i >= first; --i) {
    if (array.shape[i] == 1) continue;
    if (step != 0 && array.strides[i] != reach) return 0;
    if (step == 0) step = array.strides[i];
    reach = array.strides[i] * array.shape[i];
  }
  return step == 0 ? 1 : step / int64_t{sizeof(float)};
}

// Norms over the axes of x from `first` on: `groups` rows to an index of the axes before, each with
// weights of its own, of which `run` values side by side share one.
py::object norm(RowFunction function, const ArrayView& given, int first, int64_t groups,
                int64_t run, const Affine& weight, const Affine& bias, float epsilon,
                const py::object& out) {
  Output y(out, given, {&given, weight.view(), bias.view()});
  Input x(given);
  // Where the axes are not one row in memory, a copy is, and the result goes through another.
  if (step_of(x.view, first) == 0) x.copy_values();
  const py::object target = y.array;
  if (step_of(y.view, first) == 0) y = Output(py::none(), given, {});
  const StridedRows::Steps steps{step_of(x.view, first), step_of(y.view, first), 0};
  int64_t n = 1;
  for (int i = first; i < given.ndim; ++i) n *= given.shape[i];
  n /= groups;
  StridedRows rows(n, steps);
  for (int i = 0; i < first; ++i) rows.add_axis(given.shape[i], {x.stride(i), y.stride(i), 0});
  if (groups > 1) rows.add_axis(groups, {n * steps.x, n * steps.y, 0});
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y.data();
  args.weight = weight.data();
  args.bias = bias.data();
  args.run = run;
  args.epsilon = epsilon;
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_rows(*context.table, function, rows, args, groups, context.threads);
  }
  if (!target.is(y.array)) py::module_::import("numpy").attr("copyto")(target, y.array);
  return target;
}

py::object norm_of_last_axes(RowFunction function, const py::object& x, const py::object& weight,
                             const py::object& bias, const py::object& axis, const py::object& eps,
                             const py::object& out) {
  const ArrayView given = float_view(x, "x");
  if (given.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int first = axis_of(axis, given.ndim);
  const Affine w(weight, "weight", given, first, given.ndim);
  const Affine b(bias, "bias", given, first, given.ndim);
  return norm(function, given, first, 1, 1, w, b, epsilon_of(eps), out);
}

py::object group_norm(const py::object& x, const py::object& groups_object,
                      const py::object& weight, const py::object& bias, const py::object& eps,
                      const py::object& out) {
  const ArrayView given = float_view(x, "x");
  if (given.ndim < 2)
    raise_value("x must have at least 2 dimensions (batch, channels, ...), got ", given.ndim);
  const int64_t channels = given.shape[1];
  int64_t groups = std::max<int64_t>(channels, 1);
  if (!groups_object.is_none()) {
    groups = one_int(groups_object.ptr(), "groups");
    if (groups < 1 || channels % groups != 0)
      raise_value("groups must be at least 1 and divide the ", channels, " channels of x, got ",
                  groups);
  }
  const Affine w(weight, "weight", given, 1, 2), b(bias, "bias", given, 1, 2);
  int64_t run = 1;
  for (int i = 2; i < given.ndim; ++i) run *= given.shape[i];
  return norm(RowFunction::kLayerNorm, given, 1, groups, std::max<int64_t>(run, 1), w, b,
              epsilon_of(eps), out);
}

}  // namespace

void register_rows(py::module_& m) {
  m.def("float_function", &float_function, py::arg("name"), py::arg("x"),
        py::arg("out") = py::none(),
        "exp, erf, tanh, sigmoid, silu, gelu or gelu_tanh of float32 values.");
  m.def("softmax", &softmax, py::arg("x"), py::arg("axis"), py::arg("mask") = py::none(),
        py::arg("out") = py::none(),
        "Softmax along `axis`; `mask` is added to x (float32), or keeps what it is not 0 for "
        "(uint8).");
  const auto norm = [&m](const char* name, RowFunction function, const char* doc) {
    m.def(
        name,
        [function](const py::object& x, const py::object& weight, const py::object& bias,
                   const py::object& axis, const py::object& eps, const py::object& out) {
          return norm_of_last_axes(function, x, weight, bias, axis, eps, out);
        },
        py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("axis"), py::arg("eps"),
        py::arg("out") = py::none(), doc);
  };
  norm("layer_norm", RowFunction::kLayerNorm,
       "(x - mean) / sqrt(variance + eps) * weight + bias over the axes from `axis` on.");
  norm("rms_norm", RowFunction::kRmsNorm,
       "x / sqrt(mean of squares + eps) * weight + bias over the axes from `axis` on.");
  m.def("group_norm", &group_norm, py::arg("x"), py::arg("groups"), py::arg("weight"),
        py::arg("bias"), py::arg("eps"), py::arg("out") = py::none(),
        "As layer_norm, over groups of channels (axis 1) and the axes after them; weight and bias "
        "are of the channels. groups None: each channel by itself.");
}

}  // namespace octavo
