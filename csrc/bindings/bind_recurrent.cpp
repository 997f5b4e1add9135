#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/context.h"
#include "bindings/ndarray.h"
#include "bindings/recurrent_call.h"
#include "bindings/register.h"
#include "ops/recurrent.h"

namespace octavo {
namespace {

Projection projection_of(const py::handle& object) {
  if (py::isinstance<Linear>(object)) {
    const auto* linear = object.cast<const Linear*>();
    if (!linear->is_dynamic() || linear->output() != OutputKind::kF32)
      raise_value("a LinearOp must take and give float32");
    return linear;
  }
  if (py::isinstance<FloatLinear>(object)) return object.cast<const FloatLinear*>();
  return object.cast<const GroupedLinear*>();
}

constexpr std::pair<const char*, CellFunction::Kind> kFunctions[] = {
    {"sigmoid", CellFunction::Kind::kSigmoid},
    {"tanh", CellFunction::Kind::kTanh},
    {"relu", CellFunction::Kind::kRelu},
    {"hard_sigmoid", CellFunction::Kind::kHardSigmoid}};

CellFunction function_of(const py::handle& object) {
  const auto [given, alpha, beta] = object.cast<std::tuple<std::string, float, float>>();
  std::string list;
  for (const auto& [known, kind] : kFunctions) {
    if (given == known) return {kind, alpha, beta};
    list += std::string(list.empty() ? "" : ", ") + known;
  }
  raise_value("an activation must be one of ", list, ", got ", given);
}

std::unique_ptr<RecurrentObject> make_recurrent(bool is_lstm, int64_t hidden,
                                                const py::object& directions,
                                                const py::object& clip, bool couples_forget,
                                                bool batch_first) {
  RecurrentSpec spec{};
  spec.is_lstm = is_lstm;
  spec.hidden = hidden;
  spec.couples_forget = couples_forget;
  if (!clip.is_none()) {
    spec.clip = one_float(clip.ptr(), "clip");
    if (!(spec.clip > 0.0f)) raise_value("clip must be greater than 0, got ", spec.clip);
  }
  std::vector<py::object> parts;
  for (const py::handle& each : directions) {
    const auto [is_reverse, input, state, peepholes, functions] =
        each.cast<std::tuple<bool, py::object, py::list, py::object, py::list>>();
    parts.push_back(input);
    CellDirection cell{is_reverse, projection_of(input), {}, {}, {}, {}, {}};
    for (const py::handle& op : state) {
      parts.push_back(py::reinterpret_borrow<py::object>(op));
      cell.state.push_back(projection_of(op));
    }
    if (!peepholes.is_none()) {
      const Parameter<float> values = float_parameter(peepholes.ptr(), "p");
      cell.peepholes.assign(values.begin(), values.end());
    }
    cell.f = function_of(functions[0]);
    cell.g = function_of(functions[1]);
    if (is_lstm) cell.h = function_of(functions[2]);
    spec.directions.push_back(std::move(cell));
  }
  return std::make_unique<RecurrentObject>(
      RecurrentObject{std::move(parts), Recurrent(std::move(spec)), batch_first});
}

ArrayView float_view(PyObject* object, const char* name) {
  const ArrayView view = view_of(object, name);
  if (type_of(view) != Type::kFloat32) raise_type(name, " must be float32, got ", dtype_name(view));
  return view;
}

// An initial state, or null: zeros.
class InitialState {
 public:
  InitialState(const py::object& object, const char* name, const Shape& shape) {
    if (object.is_none()) return;
    view_ = float_view(object.ptr(), name);
    if (view_.ndim != shape.size() || !std::equal(shape.begin(), shape.end(), view_.shape))
      raise_value(name, " has shape ", shape_text(view_.shape, view_.ndim), ", expected ",
                  shape_text(shape));
    values_ = contiguous(view_, Type::kFloat32);
  }
  const ArrayView* view() const { return values_ ? &view_ : nullptr; }
  void copy_to(char* state, int64_t count) const {
    const auto bytes = static_cast<size_t>(count) * sizeof(float);
    if (bytes == 0) return;
    if (values_)
      std::memcpy(state, values_.data(), bytes);
    else
      std::memset(state, 0, bytes);
  }

 private:
  ArrayView view_{};
  py::array values_ = no_array();
};

// Given where the result goes, or not: a tuple of arrays and None, one for each result.
std::vector<PyObject*> targets_of(PyObject* out, size_t count) {
  std::vector<PyObject*> targets(count, nullptr);
  if (out == Py_None) return targets;
  if (!PyTuple_Check(out)) raise_type("out must be a tuple, got ", Py_TYPE(out)->tp_name);
  if (static_cast<size_t>(PyTuple_GET_SIZE(out)) != count)
    raise_value("out has ", PyTuple_GET_SIZE(out), " arrays, expected ", count);
  for (size_t i = 0; i < count; ++i) {
    targets[i] = PyTuple_GET_ITEM(out, static_cast<Py_ssize_t>(i));
    for (size_t j = 0; j < i; ++j) {
      if (is_ndarray(targets[i]) && is_ndarray(targets[j]) &&
          may_overlap(view_of(targets[i], "out"), view_of(targets[j], "out")))
        raise_value("arrays of out share memory; they must not overlap");
    }
  }
  return targets;
}

using Arrays = py::typing::Tuple<py::array, py::ellipsis>;

Arrays call_recurrent(const RecurrentObject& self, const py::object& x_object,
                      const py::object& initial_h, const py::object& initial_c,
                      const py::object& sequence_lens, const py::object& out_object) {
  const Recurrent& op = self.op;
  const ArrayView x = float_view(x_object.ptr(), "x");
  const RecurrentShapes shapes(self, Shape(x.shape, x.shape + x.ndim));
  RecurrentCall call = shapes.call;
  const Shape &state = shapes.state, &sequence = shapes.sequence;
  const InitialState h(initial_h, "initial_h", state), c(initial_c, "initial_c", state);
  Parameter<int32_t> lengths;
  if (!sequence_lens.is_none()) {
    lengths = int_parameter(sequence_lens.ptr(), "sequence_lens");
    if (static_cast<int64_t>(lengths.size()) != call.batch)
      raise_value("sequence_lens has ", lengths.size(), " values, expected ", call.batch,
                  " (one for each row of the batch)");
    for (const int32_t length : lengths) {
      if (length < 0 || length > call.steps)
        raise_value("sequence_lens holds ", length, ", expected values in [0, ", call.steps, "]");
    }
    call.lengths = lengths.data();
  }
  const std::vector<PyObject*> out = targets_of(out_object.ptr(), op.is_lstm() ? 3 : 2);
  Result y(out[0], Type::kFloat32, sequence, {&x, h.view(), c.view()});
  Result y_h(out[1], Type::kFloat32, state, {&x, h.view(), c.view()});
  std::optional<Result> y_c;
  if (op.is_lstm())
    y_c.emplace(out[2], Type::kFloat32, state,
                std::initializer_list<const ArrayView*>{&x, h.view(), c.view()});

  const py::array values_of_x = contiguous(x, Type::kFloat32);
  call.x = static_cast<const float*>(values_of_x.data());
  call.y = reinterpret_cast<float*>(y.data());
  call.h = reinterpret_cast<float*>(y_h.data());
  call.c = y_c ? reinterpret_cast<float*>(y_c->data()) : call.h;
  const CallContext context = call_context();
  {
    const NativeScope scope(shapes.macs);
    h.copy_to(y_h.data(), shapes.state_size());
    if (y_c) c.copy_to(y_c->data(), shapes.state_size());
    op.run(call, *context.table, context.threads);
  }
  if (!y_c) return py::make_tuple(y.finish(), y_h.finish());
  return py::make_tuple(y.finish(), y_h.finish(), y_c->finish());
}

}  // namespace

void register_recurrent(py::module_& m) {
  py::class_<RecurrentObject> recurrent(
      m, "RecurrentOp",
      "A prepared LSTM or GRU of linear operators. directions: (is_reverse, input, [state...], "
      "peepholes or None, [(activation, alpha, beta)...]) of each.");
  recurrent.def(py::init(&make_recurrent), py::kw_only(), py::arg("is_lstm"), py::arg("hidden"),
                py::arg("directions"), py::arg("clip") = py::none(),
                py::arg("couples_forget") = false, py::arg("batch_first") = false);
  recurrent.def("__call__", &call_recurrent, py::arg("x"), py::arg("initial_h") = py::none(),
                py::arg("initial_c") = py::none(), py::arg("sequence_lens") = py::none(),
                py::arg("out") = py::none(),
                "(y, y_h) of a GRU, (y, y_h, y_c) of an LSTM; out is None, or a tuple of as many.");
}

}  // namespace octavo
