#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "bindings/context.h"
#include "bindings/indices.h"
#include "bindings/linear_call.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "bindings/rows_arguments.h"
#include "ops/float_pairs.h"
#include "ops/float_rows.h"
#include "ops/rotary.h"

namespace octavo {
namespace {

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

// 8-bit codes in place of float32 results. `codes`: (scale, zero point, dtype), or "rows": uint8 by
// the range of each row of the axes from `first` on.
class CodesOutput {
 public:
  CodesOutput(const py::object& codes, const py::object& out, const ArrayView& x, int first,
              std::initializer_list<const ArrayView*> inputs)
      : result_(out.ptr(), type_of_codes(codes), Shape(x.shape, x.shape + x.ndim), inputs) {
    args_.q = reinterpret_cast<uint8_t*>(result_.data());
    if (py::isinstance<py::tuple>(codes)) {
      const auto given = codes.cast<py::tuple>();
      args_.scale = one_float(given[0].ptr(), "scale");
      args_.zero_point = one_int(given[1].ptr(), "zero_point");
      args_.is_signed = type_of_codes(codes) == Type::kInt8;
    } else {
      const Shape rows(x.shape, x.shape + first);
      scale_ = py::array(dtype_of(Type::kFloat32), rows.vector());
      zero_point_ = py::array(dtype_of(Type::kInt32), rows.vector());
      args_.row_scale = static_cast<float*>(scale_.mutable_data());
      args_.row_zero_point = static_cast<int32_t*>(zero_point_.mutable_data());
    }
  }
  const RowCodes* args() const { return &args_; }
  py::object finish() {
    py::object q = result_.finish();
    return scale_ ? py::object(py::make_tuple(q, scale_, zero_point_)) : q;
  }

 private:
  static Type type_of_codes(const py::object& codes) {
    if (!py::isinstance<py::tuple>(codes)) return Type::kUInt8;
    return parse_dtype(codes.cast<py::tuple>()[2].ptr(), {Type::kUInt8, Type::kInt8});
  }

  Result result_;
  RowCodes args_{};
  py::array scale_ = no_array(), zero_point_ = no_array();
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

py::object clip(const py::object& x_object, const py::object& lo, const py::object& hi,
                const py::object& out) {
  const ArrayView given = float_view(x_object, "x");
  const Clip bounds(lo, hi);
  Result result(out.ptr(), Type::kFloat32, Shape(given.shape, given.shape + given.ndim), {&given});
  const py::array values = contiguous(given, Type::kFloat32);
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_clip(*context.table, static_cast<const float*>(values.data()), given.size(), bounds.lo,
             bounds.hi, reinterpret_cast<float*>(result.data()), context.threads);
  }
  return result.finish();
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
                   const py::object& mask_object, const py::object& codes_object,
                   const py::object& out) {
  const ArrayView given = float_view(x_object, "x");
  if (given.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int along = axis_of(axis, given.ndim);
  const Mask mask(mask_object, given);
  std::optional<CodesOutput> codes;
  std::optional<Output> y;
  if (codes_object.is_none()) {
    y.emplace(out, given, std::initializer_list<const ArrayView*>{&given, mask.view()});
  } else {
    if (along != given.ndim - 1)
      raise_value("axis is ", along, " with codes, expected the last, ", given.ndim - 1);
    codes.emplace(codes_object, out, given, along,
                  std::initializer_list<const ArrayView*>{&given, mask.view()});
  }
  const Input x(given);
  const auto steps = [&](int i) {
    return StridedRows::Steps{x.stride(i), y ? y->stride(i) : 1, mask.stride(i)};
  };
  const int64_t n = given.shape[along];
  // A row of one value is a row of values side by side.
  StridedRows rows(n, n == 1 ? StridedRows::Steps{1, 1, 1} : steps(along));
  for (int i = 0; i < given.ndim; ++i) {
    if (i != along) rows.add_axis(given.shape[i], steps(i));
  }
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y ? y->data() : nullptr;
  args.mask = mask.added();
  args.keep = mask.keep();
  args.run = 1;
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_rows(*context.table, RowFunction::kSoftmax, rows, args, codes ? codes->args() : nullptr, 1,
             context.threads);
  }
  return codes ? codes->finish() : y->array;
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

// What is added to x before a norm, and where the sum goes, as rows side by side.
class Residual {
 public:
  Residual(const py::object& object, const py::object& sum, const ArrayView& x,
           std::initializer_list<const ArrayView*> inputs) {
    const Shape shape(x.shape, x.shape + x.ndim);
    if (object.is_none()) {
      if (!sum.is_none()) raise_value("out_sum is given without a residual; expected both");
      return;
    }
    view_ = float_view(object, "residual");
    if (view_.ndim != x.ndim || !std::equal(x.shape, x.shape + x.ndim, view_.shape))
      raise_value("residual has shape ", shape_text(view_.shape, view_.ndim), ", x has ",
                  shape_text(x.shape, x.ndim), "; they must be equal");
    values_ = contiguous(view_, Type::kFloat32);
    if (sum.is_none()) return;
    sum_view_ = view_of(sum.ptr(), "out_sum");
    const bool is_residual = sum_view_.object == view_.object;
    sum_.emplace(sum.ptr(), Type::kFloat32, shape, inputs);
    if (!is_residual && may_overlap(sum_view_, view_))
      raise_value("out_sum shares memory with residual; expected that array itself, or another");
  }
  const ArrayView* view() const { return values_ ? &view_ : nullptr; }
  const ArrayView* sum_view() const { return sum_ ? &sum_view_ : nullptr; }
  void fill(FloatRowsArgs& args) {
    if (values_) args.residual = static_cast<const float*>(values_.data());
    if (sum_) args.sum = reinterpret_cast<float*>(sum_->data());
  }
  void finish() {
    if (sum_) sum_->finish();
  }

 private:
  ArrayView view_{}, sum_view_{};
  py::array values_ = no_array();
  std::optional<Result> sum_;
};

// Norms over the axes of x from `first` on: `groups` rows to an index of the axes before, each with
// weights of its own, of which `run` values side by side share one. codes: None, or as CodesOutput.
py::object norm(RowFunction function, const ArrayView& given, int first, int64_t groups,
                int64_t run, const Affine& weight, const Affine& bias, float epsilon,
                Residual& residual, const py::object& codes_object, const py::object& out) {
  const std::initializer_list<const ArrayView*> inputs = {&given, weight.view(), bias.view(),
                                                          residual.view(), residual.sum_view()};
  std::optional<CodesOutput> codes;
  std::optional<Output> y;
  if (codes_object.is_none())
    y.emplace(out, given, inputs);
  else
    codes.emplace(codes_object, out, given, first, inputs);
  Input x(given);
  // Where the axes are not one row in memory, a copy is, and the result goes through another.
  if (step_of(x.view, first) == 0) x.copy_values();
  py::object target = y ? y->array : py::none();
  if (y && step_of(y->view, first) == 0)
    y.emplace(py::none(), given, std::initializer_list<const ArrayView*>{});
  const StridedRows::Steps steps{step_of(x.view, first), y ? step_of(y->view, first) : 1, 0};
  int64_t n = 1;
  for (int i = first; i < given.ndim; ++i) n *= given.shape[i];
  n /= groups;
  StridedRows rows(n, steps);
  for (int i = 0; i < first; ++i)
    rows.add_axis(given.shape[i], {x.stride(i), y ? y->stride(i) : 1, 0});
  if (groups > 1) rows.add_axis(groups, {n * steps.x, n * steps.y, 0});
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y ? y->data() : nullptr;
  args.weight = weight.data();
  args.bias = bias.data();
  args.run = run;
  args.epsilon = epsilon;
  residual.fill(args);
  const CallContext context = call_context();
  {
    const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
    run_rows(*context.table, function, rows, args, codes ? codes->args() : nullptr, groups,
             context.threads);
  }
  residual.finish();
  if (codes) return codes->finish();
  if (!target.is(y->array)) py::module_::import("numpy").attr("copyto")(target, y->array);
  return target;
}

py::object norm_of_last_axes(RowFunction function, const py::object& x, const py::object& weight,
                             const py::object& bias, const py::object& axis, const py::object& eps,
                             const py::object& residual_object, const py::object& sum,
                             const py::object& codes, const py::object& out) {
  const ArrayView given = float_view(x, "x");
  if (given.ndim < 1) raise_value("x must have at least 1 dimension, got 0");
  const int first = axis_of(axis, given.ndim);
  const Affine w(weight, "weight", given, first, given.ndim);
  const Affine b(bias, "bias", given, first, given.ndim);
  Residual residual(residual_object, sum, given, {&given, w.view(), b.view()});
  return norm(function, given, first, 1, 1, w, b, epsilon_of(eps), residual, codes, out);
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
  Residual none(py::none(), py::none(), given, {});
  return norm(RowFunction::kLayerNorm, given, 1, groups, std::max<int64_t>(run, 1), w, b,
              epsilon_of(eps), none, py::none(), out);
}

// cos or sin: rows of one array, `rows` of them where that is not -1.
ArrayView angles_view(const ArrayView& given, const char* name, int ndim, int64_t batch,
                      int64_t tokens) {
  const bool fits =
      given.ndim == ndim && (ndim == 2 || (given.shape[0] == batch && given.shape[1] == tokens));
  if (!fits)
    raise_value(name, " has shape ", shape_text(given.shape, given.ndim), ", expected (",
                ndim == 2 ? "positions" : std::to_string(batch) + ", " + std::to_string(tokens),
                ", pairs)");
  return given;
}

void rotate(const py::object& x_object, const py::object& cos_object, const py::object& sin_object,
            const py::object& positions, bool is_interleaved, const py::object& out_object) {
  const ArrayView given = float_view(x_object, "x");
  if (given.ndim != 4)
    raise_value("x must have 4 dimensions (batch, heads, tokens, head size), got ", given.ndim);
  const int64_t batch = given.shape[0], tokens = given.shape[2];
  const int ndim = positions.is_none() ? 3 : 2;
  const ArrayView cos = angles_view(float_view(cos_object, "cos"), "cos", ndim, batch, tokens);
  const ArrayView sin = angles_view(float_view(sin_object, "sin"), "sin", ndim, batch, tokens);
  if (!std::equal(cos.shape, cos.shape + ndim, sin.shape))
    raise_value("cos has shape ", shape_text(cos.shape, ndim), ", sin has ",
                shape_text(sin.shape, ndim), "; they must be equal");
  RotaryArgs args{};
  args.batch = batch;
  args.heads = given.shape[1];
  args.tokens = tokens;
  args.length = given.shape[3];
  args.pairs = cos.shape[ndim - 1];
  args.is_interleaved = is_interleaved;
  if (2 * args.pairs > args.length)
    raise_value("cos has ", args.pairs, " pairs of values, heads have ", args.length,
                " values; expected at most half as many");
  ArrayView position_view{};
  if (!positions.is_none()) {
    position_view = view_of(positions.ptr(), "position_ids");
    if (position_view.ndim != 2 || position_view.shape[0] != batch ||
        position_view.shape[1] != tokens)
      raise_value("position_ids has shape ", shape_text(position_view.shape, position_view.ndim),
                  ", expected ", shape_text({batch, tokens}));
    args.position = checked_indices(position_view, "position_ids", cos.shape[0]);
  }
  Output y(out_object, given, {&given, &cos, &sin, positions.is_none() ? nullptr : &position_view});
  const Input x(given);
  const py::array cos_values = contiguous(cos, Type::kFloat32);
  const py::array sin_values = contiguous(sin, Type::kFloat32);
  args.x = x.data();
  args.y = y.data();
  args.cos = static_cast<const float*>(cos_values.data());
  args.sin = static_cast<const float*>(sin_values.data());
  for (int i = 0; i < 4; ++i) {
    args.x_strides[i] = x.stride(i);
    args.y_strides[i] = y.stride(i);
  }
  const CallContext context = call_context();
  const NativeScope scope(given.size() * NativeScope::kMacsPerValue);
  run_rotary(*context.table, args, context.threads);
}

}  // namespace

void register_rows(py::module_& m) {
  m.def("float_function", &float_function, py::arg("name"), py::arg("x"),
        py::arg("out") = py::none(),
        "exp, erf, tanh, sigmoid, silu, gelu or gelu_tanh of float32 values.");
  m.def("clip", &clip, py::arg("x"), py::arg("lo"), py::arg("hi"), py::arg("out") = py::none(),
        "x > lo ? x : lo, then < hi ? that : hi, of float32 values; None: no bound. NaN for NaN.");
  m.def("softmax", &softmax, py::arg("x"), py::arg("axis"), py::arg("mask") = py::none(),
        py::arg("codes") = py::none(), py::arg("out") = py::none(),
        "Softmax along `axis`; `mask` is added to x (float32), or keeps what it is not 0 for "
        "(uint8). codes: (scale, zero point, dtype) of 8-bit results.");
  const auto norm = [&m](const char* name, RowFunction function, const char* doc) {
    m.def(
        name,
        [function](const py::object& x, const py::object& weight, const py::object& bias,
                   const py::object& axis, const py::object& eps, const py::object& residual,
                   const py::object& out_sum, const py::object& codes, const py::object& out) {
          return norm_of_last_axes(function, x, weight, bias, axis, eps, residual, out_sum, codes,
                                   out);
        },
        py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("axis"), py::arg("eps"),
        py::arg("residual") = py::none(), py::arg("out_sum") = py::none(),
        py::arg("codes") = py::none(), py::arg("out") = py::none(), doc);
  };
  norm("layer_norm", RowFunction::kLayerNorm,
       "(x - mean) / sqrt(variance + eps) * weight + bias over the axes from `axis` on.");
  norm("rms_norm", RowFunction::kRmsNorm,
       "x / sqrt(mean of squares + eps) * weight + bias over the axes from `axis` on.");
  m.def("group_norm", &group_norm, py::arg("x"), py::arg("groups"), py::arg("weight"),
        py::arg("bias"), py::arg("eps"), py::arg("out") = py::none(),
        "As layer_norm, over groups of channels (axis 1) and the axes after them; weight and bias "
        "are of the channels. groups None: each channel by itself.");
  m.def("rotate", &rotate, py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("position_ids"),
        py::arg("interleaved"), py::arg("out"),
        "Rotary embedding of x (batch, heads, tokens, head size) into out.");
}

}  // namespace octavo
