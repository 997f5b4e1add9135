#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/context.h"
#include "bindings/conv_call.h"
#include "bindings/epilogue_arguments.h"
#include "bindings/fastcall.h"
#include "bindings/linear_call.h"
#include "bindings/ndarray.h"
#include "bindings/quantize_arguments.h"
#include "bindings/recurrent_call.h"
#include "bindings/register.h"
#include "bindings/rows_arguments.h"
#include "bindings/tensor_arguments.h"
#include "ops/float_linear.h"
#include "ops/grouped_linear.h"
#include "plan/plan.h"
#include "plan/steps.h"

namespace octavo {
namespace {

int64_t bytes_of(Type type) {
  switch (type) {
    case Type::kInt8:
    case Type::kUInt8:
      return 1;
    case Type::kFloat16:
      return 2;
    case Type::kInt64:
      return 8;
    default:
      return 4;
  }
}

Type known_type(const ArrayView& array) {
  const Type type = type_of(array);
  if (type == Type::kOther) raise_type("a plan holds no arrays of ", dtype_name(array));
  return type;
}

// An array that a call takes or gives.
struct Border {
  Type type;
  py::dtype dtype;
  Shape shape;
};

// A plan, and the Python objects that its steps point to.
class BoundPlan {
 public:
  BoundPlan(std::unique_ptr<Plan> plan, std::vector<Border> inputs, std::vector<Border> outputs,
            std::vector<py::object> kept)
      : plan_(std::move(plan)),
        inputs_(std::move(inputs)),
        outputs_(std::move(outputs)),
        kept_(std::move(kept)) {}

  const Plan& plan() const { return *plan_; }
  py::object call(const py::tuple& args) const;

 private:
  std::unique_ptr<Plan> plan_;
  std::vector<Border> inputs_, outputs_;
  std::vector<py::object> kept_;
};

py::object empty_array(const Border& border) {
  auto& api = py::detail::npy_api::get();
  py::dtype dtype = border.dtype;
  auto array = py::reinterpret_steal<py::object>(
      api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype.release().ptr(), border.shape.size(),
                                border.shape.data(), nullptr, nullptr, 0, nullptr));
  if (!array) throw py::error_already_set();
  return array;
}

py::object BoundPlan::call(const py::tuple& args) const {
  if (args.size() != inputs_.size())
    raise_type("the plan takes ", int64_t(inputs_.size()), " arrays, got ", int64_t(args.size()));
  std::vector<const void*> inputs(inputs_.size());
  std::vector<void*> outputs(outputs_.size());
  std::vector<py::array> copies;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    PyObject* object = PyTuple_GET_ITEM(args.ptr(), static_cast<py::ssize_t>(i));
    const Border& border = inputs_[i];
    if (!is_ndarray(object)) return py::none();
    const ArrayView view = view_of(object, "an input");
    if (type_of(view) != border.type || view.ndim != border.shape.size() ||
        !std::equal(border.shape.begin(), border.shape.end(), view.shape))
      return py::none();
    if (is_contiguous(view) && is_native(view)) {
      inputs[i] = view.data;
    } else {
      copies.push_back(contiguous(view, border.type));
      inputs[i] = copies.back().data();
    }
  }
  py::tuple results(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    py::object array = empty_array(outputs_[i]);
    outputs[i] = view_of(array.ptr(), "a result").data;
    PyTuple_SET_ITEM(results.ptr(), static_cast<py::ssize_t>(i), array.release().ptr());
  }
  const CallContext context = call_context();
  bool fits;
  {
    const NativeScope scope(plan_->macs());
    fits = plan_->run(inputs.data(), outputs.data(), *context.table, context.threads);
  }
  if (!fits) return py::none();
  return std::move(results);
}

using Numbers = py::typing::Tuple<py::int_, py::ellipsis>;

// Takes steps as Python describes them; values are numbers.
class Draft {
 public:
  int input(const py::object& dtype, const py::object& shape);
  int constant(const py::object& array);
  py::str dtype(int x) const { return type_name(type(x)); }
  py::tuple shape(int x) const;
  // Steps, of what is no copy.
  int64_t steps() const { return steps_; }

  int conv(const py::object& op, int x, const py::object& residual);
  int linear(const py::object& op, int x);
  int pair(bool is_add, int a, int b, const PairParameters& parameters);
  int lookup(int x, const py::object& table);
  int concat(const std::vector<int>& values, const py::object& tables, int64_t axis);
  int max_pool(int x, const py::object& kernel, const py::object& stride, const py::object& padding,
               const py::object& dilation, bool ceil_mode, const std::string& layout);
  int average_pool(int x, const py::object& x_scale, const py::object& x_zero_point,
                   const py::object& out_scale, const py::object& out_zero_point,
                   const py::object& out_dtype, const py::object& kernel, const py::object& stride,
                   const py::object& padding, bool ceil_mode, bool count_include_pad,
                   const std::string& layout);
  int float_max_pool(int x, const py::object& kernel, const py::object& stride,
                     const py::object& padding, bool ceil_mode);
  int float_average_pool(int x, const py::object& kernel, const py::object& stride,
                         const py::object& padding, bool ceil_mode, bool count_include_pad);
  int float_mean(int x);
  int nearest(int x, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns);
  int quantize(int x, const py::object& scale, const py::object& zero_point,
               const std::string& dtype, const py::object& axis);
  int dequantize(int x, const py::object& scale, const py::object& zero_point,
                 const py::object& axis);
  int float_pair(const std::string& name, int a, int b);
  int clip(int x, const py::object& lo, const py::object& hi);
  int square_root(int x);
  int float_function(const std::string& name, int x);
  int softmax(int x, int64_t axis);
  int norm(RowFunction function, int x, const py::object& weight, const py::object& bias,
           int64_t axis, const py::object& eps);
  int matmul(int a, int b, int32_t a_zero_point, int32_t b_zero_point, const py::object& multiplier,
             int32_t zero_point, const py::object& dtype);
  int product(int a, int b);
  Numbers recurrent(const py::object& op, int x, const py::object& initial_h,
                    const py::object& initial_c);
  int reshape(int x, const py::object& shape);
  int transpose(int x, const py::object& axes);
  int slice(int x, int64_t axis, int64_t start, int64_t length, int64_t step);

  std::unique_ptr<BoundPlan> finish(const std::vector<int>& outputs,
                                    const std::shared_ptr<ArenaPool>& arenas);

 private:
  Type type(int x) const { return types_.at(static_cast<size_t>(x)); }
  // Its shape alone.
  ArrayView view(int x) const;
  Shape shape_of(int x) const;
  int64_t work(const Shape& shape) const;
  int result(Type type, const Shape& shape);
  int codes(int x, const char* name);
  int floats(int x, const char* name);
  int same(int x, int made);  // a value that is not the result of a step
  const uint8_t* table_of(const py::object& table, Type* type, py::array* kept) const;
  template <class Op>
  const Op* keep(const py::object& op);
  int axis_of(int x, int64_t axis) const;

  PlanBuilder builder_;
  std::vector<Type> types_;
  std::vector<std::vector<py::ssize_t>> shapes_;
  std::vector<int> inputs_;
  std::vector<py::object> kept_;
  int64_t steps_ = 0;
};

std::vector<int64_t> lengths_of(const Shape& shape) { return {shape.begin(), shape.end()}; }

Shape shape_argument(const py::object& object) {
  const auto values = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
  if (!values) throw py::error_already_set();
  if (values.size() > Shape::kMaxAxes)
    raise_value("shape has ", int64_t(values.size()), " axes, expected at most ",
                int64_t{Shape::kMaxAxes});
  Shape shape;
  int64_t size = 8;
  for (const py::handle value : values) {
    const auto length = value.cast<int64_t>();
    if (length < 0 || __builtin_mul_overflow(size, std::max<int64_t>(length, 1), &size))
      raise_value("shape must hold lengths of at least 0, of a size that memory can hold");
    shape.push_back(static_cast<py::ssize_t>(length));
  }
  return shape;
}

ArrayView Draft::view(int x) const {
  const auto& shape = shapes_.at(static_cast<size_t>(x));
  return {nullptr, nullptr, static_cast<int>(shape.size()), shape.data(), nullptr};
}

Shape Draft::shape_of(int x) const {
  const ArrayView v = view(x);
  return Shape(v.shape, v.shape + v.ndim);
}

py::tuple Draft::shape(int x) const {
  const auto& lengths = shapes_.at(static_cast<size_t>(x));
  py::tuple shape(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) shape[i] = lengths[i];
  return shape;
}

int64_t Draft::work(const Shape& shape) const {
  int64_t size = NativeScope::kMacsPerValue;
  for (const auto length : shape) size *= length;
  return size;
}

int Draft::result(Type type, const Shape& shape) {
  const int id = builder_.result(bytes_of(type), lengths_of(shape));
  ++steps_;
  types_.resize(builder_.size());
  shapes_.resize(builder_.size());
  types_.back() = type;
  shapes_.back() = shape.vector();
  return id;
}

// `made` has the values of x in another place or shape.
int Draft::same(int x, int made) {
  types_.resize(builder_.size(), type(x));
  shapes_.resize(builder_.size());
  const auto& lengths = builder_.value(made).shape;
  shapes_[static_cast<size_t>(made)].assign(lengths.begin(), lengths.end());
  return made;
}

int Draft::codes(int x, const char* name) {
  if (type(x) != Type::kInt8 && type(x) != Type::kUInt8)
    raise_type(name, " must be int8 or uint8, got ", type_name(type(x)));
  return same(x, builder_.contiguous(x));
}

int Draft::floats(int x, const char* name) {
  if (type(x) != Type::kFloat32) raise_type(name, " must be float32, got ", type_name(type(x)));
  return same(x, builder_.contiguous(x));
}

template <class Op>
const Op* Draft::keep(const py::object& op) {
  const auto* held = op.cast<const Op*>();
  if (!held) raise_type("op must be an operator, got None");
  kept_.push_back(op);
  return held;
}

int Draft::axis_of(int x, int64_t axis) const {
  const int ndim = view(x).ndim;
  if (axis < -ndim || axis >= ndim)
    raise_value("axis ", axis, " is out of range for an array of ", int64_t{ndim}, " dimensions");
  return static_cast<int>(axis < 0 ? axis + ndim : axis);
}

int Draft::input(const py::object& dtype, const py::object& shape_object) {
  const Type type = parse_dtype(dtype.ptr(), {Type::kInt8, Type::kUInt8, Type::kInt32, Type::kInt64,
                                              Type::kFloat32, Type::kFloat16});
  const Shape shape = shape_argument(shape_object);
  const int id = builder_.input(bytes_of(type), lengths_of(shape));
  types_.push_back(type);
  shapes_.push_back(shape.vector());
  inputs_.push_back(id);
  return id;
}

int Draft::constant(const py::object& object) {
  const ArrayView given = view_of(object.ptr(), "array");
  const Type type = known_type(given);
  const py::array plain = contiguous(given, type);
  const Shape shape(given.shape, given.shape + given.ndim);
  const int id = builder_.constant(plain.data(), bytes_of(type), lengths_of(shape));
  kept_.push_back(plain);
  types_.push_back(type);
  shapes_.push_back(shape.vector());
  return id;
}

int Draft::conv(const py::object& object, int x, const py::object& residual) {
  const Conv& op = *keep<Conv>(object);
  if (!takes(op, type(x)))
    raise_type("x is ", type_name(type(x)), ", which the operator was not prepared for");
  if (residual.is_none() == op.spec().has_residual)
    raise_value(residual.is_none() ? "the operator was prepared for a residual, got none"
                                   : "residual given to an operator that was prepared without");
  const Shape y_shape = result_shape(op, shape_of(x));
  const bool is_float = type(x) == Type::kFloat32;
  const ConvStep step{&op, octavo::shape_of(op, shape_of(x)), is_float};
  const int in = same(x, builder_.contiguous(x));
  if (residual.is_none()) {
    const int y = result(result_type(op), y_shape);
    builder_.add(step, {in}, {y}, macs_of(op, y_shape));
    return y;
  }
  const auto r = residual.cast<int>();
  const Shape given = shape_of(r);
  if (type(r) != residual_type(op) ||
      !std::equal(y_shape.begin(), y_shape.end(), given.begin(), given.end()))
    raise_value("residual is ", type_name(type(r)), " of shape ", shape_text(given), ", expected ",
                type_name(residual_type(op)), " of shape ", shape_text(y_shape));
  const int added = codes(r, "residual");
  const int y = result(result_type(op), y_shape);
  builder_.add(step, {in, added}, {y}, macs_of(op, y_shape));
  return y;
}

int64_t rows_of(const Shape& shape) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

int Draft::linear(const py::object& object, int x) {
  const int64_t rows = rows_of(shape_of(x));
  const auto add = [&](const auto& op, Type out, const auto& step) {
    const Shape y_shape = linear_shape(op, view(x));
    const int in = same(x, builder_.contiguous(x));
    const int y = result(out, y_shape);
    builder_.add(step, {in}, {y}, rows * op.in_features() * op.out_features());
    return y;
  };
  if (py::isinstance<Linear>(object)) {
    const Linear& op = *keep<Linear>(object);
    if (!takes(op, type(x)))
      raise_type("x is ", type_name(type(x)), ", which the operator was not prepared for");
    return add(op, type_of(op.output()), LinearStep{&op, type(x) == Type::kFloat32, rows});
  }
  const int in = floats(x, "x");
  x = in;
  if (py::isinstance<FloatLinear>(object)) {
    const FloatLinear& op = *keep<FloatLinear>(object);
    return add(op, Type::kFloat32, FloatRowsStep<FloatLinear>{&op, rows});
  }
  const GroupedLinear& op = *keep<GroupedLinear>(object);
  return add(op, Type::kFloat32, FloatRowsStep<GroupedLinear>{&op, rows});
}

int Draft::pair(bool is_add, int a, int b, const PairParameters& parameters) {
  const int left = codes(a, "a"), right = codes(b, "b");
  Type out = Type::kOther;
  const AddArgs args = pair_arguments(is_add, type(left), type(right), parameters, &out);
  int64_t a_shape[Shape::kMaxAxes], b_shape[Shape::kMaxAxes];
  const Shape shape = broadcast(view(left), view(right), a_shape, b_shape);
  const int y = result(out, shape);
  builder_.add(PairStep{args, Broadcast(shape.size(), a_shape, b_shape), is_add}, {left, right},
               {y}, work(shape));
  return y;
}

// 256 codes, which live as long as `kept`.
const uint8_t* Draft::table_of(const py::object& object, Type* type, py::array* kept) const {
  const ArrayView table = view_of(object.ptr(), "table");
  *type = type_of(table);
  if ((*type != Type::kInt8 && *type != Type::kUInt8) || table.ndim != 1 || table.shape[0] != 256)
    raise_type("table must hold 256 codes, uint8 or int8, got ", dtype_name(table), " of shape ",
               shape_text(table.shape, table.ndim));
  *kept = contiguous(table, *type);
  return static_cast<const uint8_t*>(kept->data());
}

int Draft::lookup(int x, const py::object& table) {
  const int in = codes(x, "x");
  const Shape shape = shape_of(in);
  LookupStep step{work(shape) / NativeScope::kMacsPerValue, {}};
  Type out;
  py::array kept = no_array();
  std::copy_n(table_of(table, &out, &kept), step.codes.size(), step.codes.begin());
  const int y = result(out, shape);
  builder_.add(step, {in}, {y}, work(shape));
  return y;
}

int Draft::concat(const std::vector<int>& values, const py::object& tables, int64_t axis) {
  if (values.empty()) raise_value("values must hold at least 1 value, got 0");
  const py::list maps(tables);
  if (maps.size() != values.size())
    raise_value("tables has ", int64_t(maps.size()), " values for ", int64_t(values.size()),
                " values; they must be equal");
  const int at = axis_of(values[0], axis);
  Shape shape = shape_of(values[0]);
  shape[at] = 0;
  std::vector<PlaceStep> steps;
  std::vector<int> reads;
  Type type_of_all = Type::kOther;
  for (size_t i = 0; i < values.size(); ++i) {
    PlaceStep step{};
    step.has_table = !py::object(maps[i]).is_none();
    const int in = step.has_table ? codes(values[i], "a value that goes through a table")
                                  : same(values[i], builder_.contiguous(values[i]));
    Type out = type(in);
    if (step.has_table) {
      py::array kept = no_array();
      std::copy_n(table_of(maps[i], &out, &kept), step.codes.size(), step.codes.begin());
    }
    const Shape given = shape_of(in);
    bool fits = given.size() == shape.size() && (i == 0 || out == type_of_all);
    for (int k = 0; fits && k < shape.size(); ++k) fits = k == at || given[k] == shape[k];
    if (!fits)
      raise_value("values must have one dtype, and shapes that differ along axis ", int64_t{at},
                  " alone, got ", type_name(out), " of shape ", shape_text(given));
    type_of_all = out;
    step.count = given[at];
    step.offset = shape[at];
    shape[at] += given[at];
    steps.push_back(step);
    reads.push_back(in);
  }
  int64_t outer = 1, inner = bytes_of(type_of_all);
  for (int i = 0; i < at; ++i) outer *= shape[i];
  for (int i = at + 1; i < shape.size(); ++i) inner *= shape[i];
  const int y = result(type_of_all, shape);
  for (size_t i = 0; i < steps.size(); ++i) {
    PlaceStep& step = steps[i];
    step.rows = outer;
    step.count *= inner;
    step.offset *= inner;
    step.y_stride = shape[at] * inner;
    builder_.add(step, {reads[i]}, {y}, outer * step.count * NativeScope::kMacsPerValue);
  }
  return y;
}

int Draft::max_pool(int x, const py::object& kernel, const py::object& stride,
                    const py::object& padding, const py::object& dilation, bool ceil_mode,
                    const std::string& layout) {
  const int in = codes(x, "x");
  const Images images = images_of(view(in), layout);
  const Window window = window_of(images, kernel, stride, padding, dilation, ceil_mode);
  const int y = result(type(in), image_shape(images, window.height.out, window.width.out));
  builder_.add(MaxPoolStep{images, type(in) == Type::kInt8, window}, {in}, {y}, work(shape_of(in)));
  return y;
}

int Draft::average_pool(int x, const py::object& x_scale, const py::object& x_zero_point,
                        const py::object& out_scale, const py::object& out_zero_point,
                        const py::object& out_dtype, const py::object& kernel,
                        const py::object& stride, const py::object& padding, bool ceil_mode,
                        bool count_include_pad, const std::string& layout) {
  const int in = codes(x, "x");
  const Images images = images_of(view(in), layout);
  const Type out = code_dtype(out_dtype);
  const TensorQuantization x_q(x_scale, x_zero_point, type(in), "x_");
  const TensorQuantization y_q(out_scale, out_zero_point, out, "out_");
  const Window window = window_of(images, kernel, stride, padding, py::make_tuple(1, 1), ceil_mode);
  const AverageArgs average = average_arguments(window, x_q, y_q, out);
  const int y = result(out, image_shape(images, window.height.out, window.width.out));
  builder_.add(AveragePoolStep{images, type(in) == Type::kInt8, window, count_include_pad, average},
               {in}, {y}, work(shape_of(in)));
  return y;
}

int Draft::float_max_pool(int x, const py::object& kernel, const py::object& stride,
                          const py::object& padding, bool ceil_mode) {
  const int in = floats(x, "x");
  const Images images = images_of(view(in), "NHWC");
  const Window window = window_of(images, kernel, stride, padding, py::make_tuple(1, 1), ceil_mode);
  const int y = result(Type::kFloat32, image_shape(images, window.height.out, window.width.out));
  builder_.add(FloatMaxPoolStep{images, window}, {in}, {y}, work(shape_of(in)));
  return y;
}

int Draft::float_average_pool(int x, const py::object& kernel, const py::object& stride,
                              const py::object& padding, bool ceil_mode, bool count_include_pad) {
  const int in = floats(x, "x");
  const Images images = images_of(view(in), "NHWC");
  const Window window = window_of(images, kernel, stride, padding, py::make_tuple(1, 1), ceil_mode);
  const int y = result(Type::kFloat32, image_shape(images, window.height.out, window.width.out));
  builder_.add(FloatAveragePoolStep{images, window, count_include_pad}, {in}, {y},
               work(shape_of(in)));
  return y;
}

int Draft::float_mean(int x) {
  const int in = floats(x, "x");
  const Images images = images_of(view(in), "NHWC");
  check_has_pixels(images);
  const int y = result(Type::kFloat32, image_shape(images, 1, 1));
  builder_.add(FloatMeanStep{images}, {in}, {y}, work(shape_of(in)));
  return y;
}

int Draft::nearest(int x, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  const int in = same(x, builder_.contiguous(x));
  Images images = images_of(view(in), "NHWC");
  const auto check = [](const std::vector<int64_t>& indices, int64_t size, const char* name) {
    for (const int64_t index : indices) {
      if (index < 0 || index >= size)
        raise_value(name, " must hold indices from 0 to ", size - 1, ", got ", index);
    }
  };
  check(rows, images.height, "rows");
  check(columns, images.width, "columns");
  const int y = result(type(in), image_shape(images, static_cast<int64_t>(rows.size()),
                                             static_cast<int64_t>(columns.size())));
  images.channels *= bytes_of(type(in));
  builder_.add(NearestStep{images, rows, columns}, {in}, {y}, work(shape_of(y)));
  return y;
}

CodesParameters parameters_of(const Parameters& p, bool is_signed) {
  return {p.layout,
          {p.scale.begin(), p.scale.end()},
          {p.zero_point.begin(), p.zero_point.end()},
          is_signed};
}

int Draft::quantize(int x, const py::object& scale, const py::object& zero_point,
                    const std::string& dtype, const py::object& axis) {
  const int in = floats(x, "x");
  const Type out = code_dtype(py::str(dtype));
  const CodeType codes = code_type(dtype);
  const Parameters p =
      parse_parameters(scale, zero_point, layout_of(view(in), axis), codes, dtype.c_str());
  const int y = result(out, shape_of(in));
  builder_.add(QuantizeStep{parameters_of(p, codes.is_signed)}, {in}, {y}, work(shape_of(in)));
  return y;
}

int Draft::dequantize(int x, const py::object& scale, const py::object& zero_point,
                      const py::object& axis) {
  const int in = codes(x, "x");
  const char* dtype = type_name(type(in));
  const CodeType codes = code_type(dtype);
  const Parameters p = parse_parameters(scale, zero_point, layout_of(view(in), axis), codes, dtype);
  const int y = result(Type::kFloat32, shape_of(in));
  builder_.add(DequantizeStep{parameters_of(p, codes.is_signed)}, {in}, {y}, work(shape_of(in)));
  return y;
}

int Draft::float_pair(const std::string& name, int a, int b) {
  constexpr std::pair<const char*, FloatPair> kPairs[] = {{"add", FloatPair::kAdd},
                                                          {"subtract", FloatPair::kSubtract},
                                                          {"multiply", FloatPair::kMultiply},
                                                          {"divide", FloatPair::kDivide}};
  const auto* const found = std::find_if(std::begin(kPairs), std::end(kPairs),
                                         [&](const auto& known) { return name == known.first; });
  if (found == std::end(kPairs))
    raise_value("name must be one of add, subtract, multiply, divide, got ", name);
  const int left = floats(a, "a"), right = floats(b, "b");
  int64_t a_shape[Shape::kMaxAxes], b_shape[Shape::kMaxAxes];
  const Shape shape = broadcast(view(left), view(right), a_shape, b_shape);
  const int y = result(Type::kFloat32, shape);
  builder_.add(FloatPairStep{found->second, Broadcast(shape.size(), a_shape, b_shape)},
               {left, right}, {y}, work(shape));
  return y;
}

int Draft::clip(int x, const py::object& lo, const py::object& hi) {
  const int in = floats(x, "x");
  const Clip bounds(lo, hi);
  const Shape shape = shape_of(in);
  const int y = result(Type::kFloat32, shape);
  builder_.add(ClipStep{work(shape) / NativeScope::kMacsPerValue, bounds.lo, bounds.hi}, {in}, {y},
               work(shape));
  return y;
}

// Strides of a value in its own values; those of the result in C order.
StridedRows::Steps steps_of(const PlanValue& x, const std::vector<int64_t>& y, size_t axis) {
  return {x.strides[axis] / x.value_bytes, y[axis], 0};
}

int Draft::square_root(int x) {
  const int in = floats(x, "x");
  const Shape shape = shape_of(in);
  const int y = result(Type::kFloat32, shape);
  builder_.add(SquareRootStep{work(shape) / NativeScope::kMacsPerValue}, {in}, {y}, work(shape));
  return y;
}

int Draft::float_function(const std::string& name, int x) {
  const FloatFunction function = function_named(name);
  if (type(x) != Type::kFloat32) raise_type("x must be float32, got ", type_name(type(x)));
  const Shape shape = shape_of(x);
  const PlanValue& value = builder_.value(x);
  const auto dense = dense_strides(value.shape, 1);
  StridedRows rows(1, {1, 1, 0});
  for (size_t i = 0; i < dense.size(); ++i)
    rows.add_axis(value.shape[i], steps_of(value, dense, i));
  const int y = result(Type::kFloat32, shape);
  builder_.add(FloatFunctionStep{function, rows}, {x}, {y}, work(shape));
  return y;
}

int Draft::softmax(int x, int64_t axis) {
  if (type(x) != Type::kFloat32) raise_type("x must be float32, got ", type_name(type(x)));
  const auto along = static_cast<size_t>(axis_of(x, axis));
  const Shape shape = shape_of(x);
  const PlanValue& value = builder_.value(x);
  const auto dense = dense_strides(value.shape, 1);
  const int64_t n = value.shape[along];
  // A row of one value is a row of values side by side.
  StridedRows rows(n, n == 1 ? StridedRows::Steps{1, 1, 1} : steps_of(value, dense, along));
  for (size_t i = 0; i < dense.size(); ++i) {
    if (i != along) rows.add_axis(value.shape[i], steps_of(value, dense, i));
  }
  FloatRowsArgs args{};
  args.run = 1;
  const int y = result(Type::kFloat32, shape);
  builder_.add(RowsStep{RowFunction::kSoftmax, rows, args, false, false}, {x}, {y}, work(shape));
  return y;
}

int Draft::norm(RowFunction function, int x, const py::object& weight, const py::object& bias,
                int64_t axis, const py::object& eps) {
  const int in = floats(x, "x");
  const int first = axis_of(in, axis);
  const Shape shape = shape_of(in);
  std::vector<int> reads = {in};
  const auto affine = [&](const py::object& object, const char* name) {
    if (object.is_none()) return;
    const int id = floats(object.cast<int>(), name);
    const Shape given = shape_of(id);
    if (!std::equal(shape.begin() + first, shape.end(), given.begin(), given.end()))
      raise_value(name, " has shape ", shape_text(given), ", expected that of the axes from ",
                  int64_t{first}, " on of ", shape_text(shape));
    reads.push_back(id);
  };
  affine(weight, "weight");
  affine(bias, "bias");
  int64_t n = 1, count = 1;
  for (int i = 0; i < shape.size(); ++i) (i < first ? count : n) *= shape[i];
  StridedRows rows(n, {1, 1, 0});
  rows.add_axis(count, {n, n, 0});
  FloatRowsArgs args{};
  args.run = 1;
  args.epsilon = epsilon_of(eps);
  const int y = result(Type::kFloat32, shape);
  builder_.add(RowsStep{function, rows, args, !weight.is_none(), !bias.is_none()}, reads, {y},
               work(shape));
  return y;
}

// Matrices of the last two axes of two values, whose axes before broadcast.
struct Matrices {
  int64_t rows, inner, columns;
  Shape shape;  // of the result
  std::vector<MatmulStep::Offsets> offsets;
};

Matrices matrices_of(const PlanValue& a, const PlanValue& b, int64_t c_bytes) {
  const size_t a_axes = a.shape.size(), b_axes = b.shape.size();
  if (a_axes < 2 || b_axes < 2) raise_value("a and b must have 2 dimensions or more");
  Matrices m{a.shape[a_axes - 2], a.shape[a_axes - 1], b.shape[b_axes - 1], {}, {}};
  if (b.shape[b_axes - 2] != m.inner)
    raise_value("a.shape[-1] is ", m.inner, ", b.shape[-2] is ", b.shape[b_axes - 2],
                "; they must be equal");
  const size_t axes = std::max(a_axes, b_axes) - 2;
  std::vector<int64_t> shape, a_strides, b_strides;
  int64_t count = 1;
  for (size_t i = 0; i < axes; ++i) {
    const auto of = [&](const PlanValue& x, std::vector<int64_t>& strides) {
      const size_t lead = axes + 2 - x.shape.size();
      const int64_t length = i < lead ? 1 : x.shape[i - lead];
      strides.push_back(length == 1 ? 0 : x.strides[i - lead]);
      return length;
    };
    const int64_t a_length = of(a, a_strides), b_length = of(b, b_strides);
    if (a_length != b_length && a_length != 1 && b_length != 1)
      raise_value("a and b have ", a_length, " and ", b_length,
                  " matrices along an axis; they do not broadcast");
    shape.push_back(a_length == 1 ? b_length : a_length);
    m.shape.push_back(static_cast<py::ssize_t>(shape.back()));
    count *= shape.back();
  }
  m.shape.push_back(static_cast<py::ssize_t>(m.rows));
  m.shape.push_back(static_cast<py::ssize_t>(m.columns));
  for (int64_t i = 0; i < count; ++i) {
    MatmulStep::Offsets at{0, 0, i * m.rows * m.columns * c_bytes};
    int64_t rest = i;
    for (size_t axis = axes; axis-- > 0; rest /= shape[axis]) {
      at.a += rest % shape[axis] * a_strides[axis];
      at.b += rest % shape[axis] * b_strides[axis];
    }
    m.offsets.push_back(at);
  }
  return m;
}

int Draft::matmul(int a, int b, int32_t a_zero_point, int32_t b_zero_point,
                  const py::object& multiplier, int32_t zero_point, const py::object& dtype) {
  const Type out = parse_dtype(dtype.ptr(), {Type::kUInt8, Type::kInt8, Type::kFloat32});
  for (int x : {a, b}) {
    if (type(x) != Type::kInt8 && type(x) != Type::kUInt8)
      raise_type("a and b must be int8 or uint8, got ", type_name(type(x)));
    check_code(x == a ? a_zero_point : b_zero_point, type(x), "a zero point");
  }
  MatmulStep step{};
  step.multiplier = one_float(multiplier.ptr(), "multiplier");
  check_scale(step.multiplier, "multiplier");
  step.a_zero_point = a_zero_point;
  step.b_zero_point = b_zero_point;
  if (out == Type::kFloat32) {
    step.epilogue.type = GemmC::Type::kF32;
  } else {
    check_code(zero_point, out, "zero_point");
    const int32_t least = out == Type::kInt8 ? -128 : 0;
    step.epilogue.type = out == Type::kInt8 ? GemmC::Type::kS8 : GemmC::Type::kU8;
    step.epilogue.zero_point = zero_point;
    step.epilogue.lo = static_cast<float>(least - zero_point);
    step.epilogue.hi = static_cast<float>(least + 255 - zero_point);
  }
  const PlanValue left = builder_.value(a), right = builder_.value(b);
  Matrices m = matrices_of(left, right, bytes_of(out));
  const auto matrix = [](const PlanValue& x, bool is_signed) {
    const size_t last = x.shape.size() - 1;
    const int64_t column = x.shape[last] == 1 ? 1 : x.strides[last];
    return ByteMatrix{nullptr, x.shape[last - 1], x.shape[last], x.strides[last - 1],
                      column,  is_signed};
  };
  MatmulItem item{};
  item.a = matrix(left, type(a) == Type::kInt8);
  item.b = matrix(right, type(b) == Type::kInt8);
  item.ldc = m.columns;
  const auto count = static_cast<int64_t>(m.offsets.size());
  const bool is_empty = m.rows == 0 || m.columns == 0;
  step.items.assign(is_empty ? 0 : m.offsets.size(), item);
  step.offsets = std::move(m.offsets);
  const int y = result(out, m.shape);
  builder_.add(std::move(step), {a, b}, {y}, count * m.rows * m.inner * m.columns);
  return y;
}

int Draft::product(int a, int b) {
  const int left = floats(a, "a");
  if (type(b) != Type::kFloat32) raise_type("b must be float32, got ", type_name(type(b)));
  const PlanValue &x = builder_.value(left), &w = builder_.value(b);
  Matrices m = matrices_of(x, w, sizeof(float));
  const size_t last = w.shape.size() - 1;
  FloatMatmulStep step{{m.rows, m.inner, m.columns, m.inner, w.strides[last - 1] / w.value_bytes,
                        w.strides[last] / w.value_bytes},
                       std::move(m.offsets)};
  const auto count = static_cast<int64_t>(step.offsets.size());
  if (w.size() == m.inner * m.columns) {  // all matrices by one: the rows of one product
    step.shape.rows *= count;
    step.offsets.resize(std::min<size_t>(step.offsets.size(), 1));
  }
  if (m.rows == 0 || m.columns == 0) step.offsets.clear();
  const int y = result(Type::kFloat32, m.shape);
  builder_.add(std::move(step), {left, b}, {y}, count * m.rows * m.inner * m.columns);
  return y;
}

Numbers Draft::recurrent(const py::object& object, int x, const py::object& initial_h,
                         const py::object& initial_c) {
  const RecurrentObject& op = *keep<RecurrentObject>(object);
  const bool is_lstm = op.op.is_lstm();
  std::vector<int> reads = {floats(x, "x")};
  const RecurrentShapes shapes(op, shape_of(x));
  const auto state = [&](const py::object& given, const char* name) {
    if (given.is_none()) return;
    reads.push_back(floats(given.cast<int>(), name));
    const Shape shape = shape_of(reads.back());
    if (!std::equal(shape.begin(), shape.end(), shapes.state.begin(), shapes.state.end()))
      raise_value(name, " has shape ", shape_text(shape), ", expected ", shape_text(shapes.state));
  };
  state(initial_h, "initial_h");
  if (is_lstm) state(initial_c, "initial_c");
  std::vector<int> writes = {result(Type::kFloat32, shapes.sequence),
                             result(Type::kFloat32, shapes.state)};
  if (is_lstm) writes.push_back(result(Type::kFloat32, shapes.state));
  builder_.add(RecurrentStep{&op.op, shapes.call, shapes.state_size(), !initial_h.is_none(),
                             is_lstm && !initial_c.is_none()},
               reads, writes, shapes.macs);
  py::tuple made(writes.size());
  for (size_t i = 0; i < writes.size(); ++i) made[i] = writes[i];
  return Numbers(std::move(made));
}

int Draft::reshape(int x, const py::object& shape_object) {
  const Shape shape = shape_argument(shape_object);
  if (work(shape) != work(shape_of(x)))
    raise_value("x has shape ", shape_text(shape_of(x)), ", which does not reshape to ",
                shape_text(shape));
  const int in = same(x, builder_.contiguous(x));
  auto lengths = lengths_of(shape);
  auto strides = dense_strides(lengths, builder_.value(in).value_bytes);
  return same(x, builder_.view(in, 0, std::move(lengths), std::move(strides)));
}

int Draft::transpose(int x, const py::object& axes) {
  const PlanValue& value = builder_.value(x);
  const Shape order = shape_argument(axes);
  std::vector<int64_t> shape, strides;
  std::vector<char> seen(value.shape.size(), 0);
  for (const auto axis : order) {
    const auto at = static_cast<size_t>(axis);
    if (at >= seen.size() || seen[at]) break;
    seen[at] = 1;
    shape.push_back(value.shape[at]);
    strides.push_back(value.strides[at]);
  }
  if (shape.size() != value.shape.size() || static_cast<size_t>(order.size()) != shape.size())
    raise_value("axes must be an order of the ", int64_t(value.shape.size()), " axes of x, got ",
                shape_text(order));
  return same(x, builder_.view(x, 0, std::move(shape), std::move(strides)));
}

int Draft::slice(int x, int64_t axis, int64_t start, int64_t length, int64_t step) {
  const PlanValue& value = builder_.value(x);
  const auto at = static_cast<size_t>(axis_of(x, axis));
  const int64_t last = start + (length - 1) * step;
  if (length < 0 || (length > 0 && (start < 0 || start >= value.shape[at] || last < 0 ||
                                    last >= value.shape[at])))
    raise_value("a slice of ", length, " from ", start, " in steps of ", step,
                " leaves an axis of length ", value.shape[at]);
  std::vector<int64_t> shape = value.shape, strides = value.strides;
  const int64_t offset = length > 0 ? start * strides[at] : 0;
  shape[at] = length;
  strides[at] *= step;
  return same(x, builder_.view(x, offset, std::move(shape), std::move(strides)));
}

std::unique_ptr<BoundPlan> Draft::finish(const std::vector<int>& outputs,
                                         const std::shared_ptr<ArenaPool>& arenas) {
  std::vector<Border> given, made;
  const auto border = [&](int id) { return Border{type(id), dtype_of(type(id)), shape_of(id)}; };
  for (int id : inputs_) given.push_back(border(id));
  std::vector<int> taken;
  for (int id : outputs) {
    taken.push_back(same(id, builder_.as_output(id, taken)));
    made.push_back(border(taken.back()));
  }
  auto plan = std::make_unique<BoundPlan>(std::move(builder_).finish(taken, arenas),
                                          std::move(given), std::move(made), std::move(kept_));
  *this = Draft();
  return plan;
}

PyObject* plan_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    if (keywords && PyDict_GET_SIZE(keywords) > 0) raise_type("a plan takes no keywords");
    const auto* plan = py::handle(self).cast<const BoundPlan*>();
    return plan->call(py::reinterpret_borrow<py::tuple>(args)).release().ptr();
  });
}

}  // namespace

void register_plan(py::module_& m) {
  py::class_<BoundPlan> plan(
      m, "Plan",
      "Operators, one after another, on arrays of known shapes: called with the inputs, it returns "
      "a tuple of new arrays; None where inputs are not of those shapes and dtypes, or where a "
      "result does not fit int32.",
      py::custom_type_setup(
          [](PyHeapTypeObject* heap_type) { heap_type->ht_type.tp_call = plan_tp_call; }));
  plan.def_property_readonly(
      "nbytes", [](const BoundPlan& p) { return p.plan().arena_bytes(); },
      "Bytes of the memory that a call takes for what lies between its inputs and outputs.");
  plan.def_property_readonly("steps", [](const BoundPlan& p) { return p.plan().step_count(); });

  py::class_<ArenaPool, std::shared_ptr<ArenaPool>> arenas(
      m, "ArenaPool", "Memory that plans share, and that calls at the same time do not.");
  arenas.def(py::init<>());

  py::class_<Draft> draft(
      m, "PlanBuilder",
      "A plan in the making. Values are numbers, which its functions return; steps run in the "
      "order "
      "they were added in. Arguments are those of the functions and operators of the same names.");
  draft.def(py::init<>());
  draft.def("input", &Draft::input, py::arg("dtype"), py::arg("shape"));
  draft.def("constant", &Draft::constant, py::arg("array"));
  draft.def("dtype", &Draft::dtype, py::arg("x"));
  draft.def("shape", &Draft::shape, py::arg("x"));
  draft.def_property_readonly("steps", &Draft::steps, "How many steps compute something.");
  draft.def("conv", &Draft::conv, py::arg("op"), py::arg("x"), py::arg("residual") = py::none());
  draft.def("linear", &Draft::linear, py::arg("op"), py::arg("x"));
  const auto pair = [&](const char* name, bool is_add) {
    draft.def(
        name,
        [is_add](Draft& d, int a, int b, const py::object& a_scale, const py::object& a_zero_point,
                 const py::object& b_scale, const py::object& b_zero_point,
                 const py::object& out_scale, const py::object& out_zero_point,
                 const py::object& out_dtype, const py::object& lo, const py::object& hi) {
          return d.pair(is_add, a, b,
                        {a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point,
                         out_dtype, lo, hi});
        },
        py::arg("a"), py::arg("b"), py::arg("a_scale"), py::arg("a_zero_point"), py::arg("b_scale"),
        py::arg("b_zero_point"), py::arg("out_scale"), py::arg("out_zero_point"),
        py::arg("out_dtype"), py::kw_only(), py::arg("lo") = py::none(),
        py::arg("hi") = py::none());
  };
  pair("add", true);
  pair("multiply", false);
  draft.def("lookup", &Draft::lookup, py::arg("x"), py::arg("table"));
  draft.def("concat", &Draft::concat, py::arg("values"), py::arg("tables"), py::arg("axis"),
            "As the function of codes; values without a table are of any dtype.");
  draft.def("max_pool", &Draft::max_pool, py::arg("x"), py::arg("kernel"), py::arg("stride"),
            py::arg("padding") = py::make_tuple(0, 0, 0, 0),
            py::arg("dilation") = py::make_tuple(1, 1), py::arg("ceil_mode") = false,
            py::arg("layout") = "NCHW");
  draft.def("average_pool", &Draft::average_pool, py::arg("x"), py::arg("x_scale"),
            py::arg("x_zero_point"), py::arg("out_scale"), py::arg("out_zero_point"),
            py::arg("out_dtype"), py::arg("kernel"), py::arg("stride") = py::none(),
            py::arg("padding") = py::make_tuple(0, 0, 0, 0), py::arg("ceil_mode") = false,
            py::arg("count_include_pad") = false, py::arg("layout") = "NCHW");
  draft.def("float_max_pool", &Draft::float_max_pool, py::arg("x"), py::arg("kernel"),
            py::arg("stride"), py::arg("padding") = py::make_tuple(0, 0, 0, 0),
            py::arg("ceil_mode") = false);
  draft.def("float_average_pool", &Draft::float_average_pool, py::arg("x"), py::arg("kernel"),
            py::arg("stride"), py::arg("padding") = py::make_tuple(0, 0, 0, 0),
            py::arg("ceil_mode") = false, py::arg("count_include_pad") = false);
  draft.def("float_mean", &Draft::float_mean, py::arg("x"));
  draft.def("nearest", &Draft::nearest, py::arg("x"), py::arg("rows"), py::arg("columns"),
            "Pixels of images (batch, height, width, channels) by their rows and columns.");
  draft.def("quantize", &Draft::quantize, py::arg("x"), py::arg("scale"), py::arg("zero_point"),
            py::arg("dtype"), py::arg("axis"));
  draft.def("dequantize", &Draft::dequantize, py::arg("x"), py::arg("scale"), py::arg("zero_point"),
            py::arg("axis"));
  draft.def("float_pair", &Draft::float_pair, py::arg("name"), py::arg("a"), py::arg("b"),
            "add, subtract, multiply or divide, as NumPy's functions of float32 arrays.");
  draft.def(
      "clip", &Draft::clip, py::arg("x"), py::arg("lo"), py::arg("hi"),
      "x > lo ? x : lo, then < hi ? that : hi, of float32 values; None: no bound. NaN for NaN.");
  draft.def("square_root", &Draft::square_root, py::arg("x"));
  draft.def("float_function", &Draft::float_function, py::arg("name"), py::arg("x"));
  draft.def("softmax", &Draft::softmax, py::arg("x"), py::arg("axis"));
  const auto norm = [&](const char* name, RowFunction function) {
    draft.def(
        name,
        [function](Draft& d, int x, const py::object& weight, const py::object& bias, int64_t axis,
                   const py::object& eps) { return d.norm(function, x, weight, bias, axis, eps); },
        py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("axis"), py::arg("eps"));
  };
  norm("layer_norm", RowFunction::kLayerNorm);
  norm("rms_norm", RowFunction::kRmsNorm);
  draft.def("matmul", &Draft::matmul, py::arg("a"), py::arg("b"), py::kw_only(),
            py::arg("a_zero_point"), py::arg("b_zero_point"), py::arg("multiplier"),
            py::arg("zero_point") = 0, py::arg("dtype"));
  draft.def("product", &Draft::product, py::arg("a"), py::arg("b"),
            "a @ b of float32 arrays of 2 dimensions or more.");
  draft.def("recurrent", &Draft::recurrent, py::arg("op"), py::arg("x"),
            py::arg("initial_h") = py::none(), py::arg("initial_c") = py::none());
  draft.def("reshape", &Draft::reshape, py::arg("x"), py::arg("shape"), "A view.");
  draft.def("transpose", &Draft::transpose, py::arg("x"), py::arg("axes"), "A view.");
  draft.def("slice", &Draft::slice, py::arg("x"), py::arg("axis"), py::arg("start"),
            py::arg("length"), py::arg("step") = 1, "A view.");
  draft.def("finish", &Draft::finish, py::arg("outputs"), py::arg("arenas"),
            "The plan. The builder holds nothing after.");
}

}  // namespace octavo
