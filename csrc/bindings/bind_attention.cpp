#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bindings/context.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/attention.h"

namespace octavo {
namespace {

// Work beyond which sums and sizes would leave int64.
constexpr int64_t kMaxLength = int64_t{1} << 31;

// An array that is read where it lies, or its native copy.
struct Source {
  ArrayView view;
  py::array copy = no_array();

  Source(const py::handle& object, const char* name) : view(view_of(object.ptr(), name)) {
    if (!is_native(view) && type_of(view) != Type::kOther) copy_values();
  }
  void copy_values() {
    copy = contiguous(view, type_of(view));
    view = view_of(copy.ptr(), "copy");
  }
  // Strides in values along `axes` axes, of which the array has the last; 0 where its length is 1.
  AttentionArray array(int axes, int64_t value_bytes) const {
    AttentionArray array;
    array.data = view.data;
    const int lead = axes - view.ndim;
    for (int i = 0; i < view.ndim; ++i) {
      if (view.shape[i] != 1) array.strides[lead + i] = view.strides[i] / value_bytes;
    }
    return array;
  }
};

// q, k or v: an array of float32, or a tuple of 8-bit codes, scale, zero point, and whether each
// row has its scale.
struct Operand {
  Source values;
  bool is_codes;
  py::tuple parts;

  Operand(const py::object& given, const char* name)
      : values(py::isinstance<py::tuple>(given) ? given.cast<py::tuple>()[0] : given, name),
        is_codes(py::isinstance<py::tuple>(given)) {
    if (is_codes) parts = given.cast<py::tuple>();
    const Type type = type_of(values.view);
    if (is_codes ? type != Type::kInt8 && type != Type::kUInt8 : type != Type::kFloat32)
      raise_type(name, " must be ", is_codes ? "int8 or uint8" : "float32", ", got ",
                 dtype_name(values.view));
    if (values.view.ndim < 3)
      raise_value(name, " must have at least 3 dimensions (heads, rows, values), got shape ",
                  shape_text(values.view.shape, values.view.ndim));
  }
  const ArrayView& view() const { return values.view; }
  int64_t length(int from_last) const { return view().shape[view().ndim - from_last]; }

  // Scales and zero points have the axes of the values, each of its length or of 1.
  AttentionOperand operand(int axes, std::vector<Source>& held) const {
    AttentionOperand operand;
    operand.is_codes = is_codes;
    operand.values = values.array(axes, is_codes ? 1 : 4);
    if (!is_codes) return operand;
    operand.is_signed = type_of(view()) == Type::kInt8;
    held.emplace_back(parts[1], "scale");
    operand.scale = held.back().array(axes, 4);
    held.emplace_back(parts[2], "zero_point");
    operand.zero_point = held.back().array(axes, 4);
    operand.by_row = parts[3].cast<bool>();
    return operand;
  }
};

// The axes before heads, broadcast.
Shape batch_of(const Operand& q, const Operand& k, const Operand& v) {
  const int axes = std::max({q.view().ndim, k.view().ndim, v.view().ndim}) - 3;
  Shape batch(axes, 1);
  for (const Operand* x : {&q, &k, &v}) {
    const int lead = axes - (x->view().ndim - 3);
    for (int i = lead; i < axes; ++i) {
      const py::ssize_t length = x->view().shape[i - lead];
      if (length != 1 && batch[i] != 1 && length != batch[i])
        raise_value("q, k and v have shapes ", shape_text(q.view().shape, q.view().ndim), ", ",
                    shape_text(k.view().shape, k.view().ndim), " and ",
                    shape_text(v.view().shape, v.view().ndim),
                    "; the axes before heads must broadcast");
      if (length != 1) batch[i] = length;
    }
  }
  return batch;
}

void check_shapes(const Operand& q, const Operand& k, const Operand& v) {
  const auto both = [](const char* a, const Operand& x, const char* b, const Operand& y) {
    return std::string(a) + " has shape " + shape_text(x.view().shape, x.view().ndim) + ", " + b +
           " " + shape_text(y.view().shape, y.view().ndim);
  };
  if (q.length(1) != k.length(1) || q.length(1) == 0)
    raise_value(both("q", q, "k", k), "; their last axes must be equal, and not 0");
  if (k.length(2) != v.length(2))
    raise_value(both("k", k, "v", v), "; they must have the same number of rows");
  if (k.length(3) != v.length(3))
    raise_value(both("k", k, "v", v), "; they must have the same number of heads");
  if (k.length(3) == 0 ? q.length(3) != 0 : q.length(3) % k.length(3) != 0)
    raise_value(both("q", q, "k", k), "; the heads of q must be a multiple of those of k");
  for (const Operand* x : {&q, &k, &v}) {
    for (int i = 1; i <= 3; ++i) {
      if (x->length(i) >= kMaxLength) raise_value("each dimension must be below 2**31");
    }
  }
}

Source mask_source(const py::object& object, const Shape& scores) {
  Source mask(object, "mask");
  const Type type = type_of(mask.view);
  if (type != Type::kUInt8 && type != Type::kFloat32)
    raise_type("mask must be uint8 or float32, got ", dtype_name(mask.view));
  const int lead = scores.size() - mask.view.ndim;
  bool fits = lead >= 0;
  for (int i = 0; fits && i < mask.view.ndim; ++i)
    fits = mask.view.shape[i] == scores[lead + i] || mask.view.shape[i] == 1;
  if (!fits)
    raise_value("mask has shape ", shape_text(mask.view.shape, mask.view.ndim),
                "; it must broadcast to that of the scores, ", shape_text(scores));
  return mask;
}

py::object attention(const py::object& q_object, const py::object& k_object,
                     const py::object& v_object, const py::object& mask_object, bool integers,
                     const py::object& past, float scale, const py::object& out) {
  Operand q(q_object, "q"), k(k_object, "k"), v(v_object, "v");
  check_shapes(q, k, v);
  const Shape batch = batch_of(q, k, v);
  AttentionSpec spec;
  spec.batch_axes = batch.size();
  std::copy(batch.begin(), batch.end(), spec.batch);
  spec.heads = q.length(3);
  spec.kv_heads = k.length(3);
  spec.queries = q.length(2);
  spec.keys = k.length(2);
  spec.depth = q.length(1);
  spec.value_depth = v.length(1);
  spec.integers = integers;
  spec.scale = scale;
  spec.causal = !past.is_none();
  if (spec.causal) spec.past = past.cast<int64_t>();
  if (!std::isfinite(scale)) raise_value("scale must be finite, got ", scale);

  const int axes = batch.size() + 3;
  Shape scores = batch;
  for (const int64_t length : {spec.heads, spec.queries, spec.keys}) scores.push_back(length);
  std::vector<Source> held;
  held.reserve(7);
  const ArrayView* mask_view = nullptr;
  if (!mask_object.is_none()) {
    held.push_back(mask_source(mask_object, scores));
    const bool is_float = type_of(held.back().view) == Type::kFloat32;
    (is_float ? spec.added : spec.keep) = held.back().array(axes, is_float ? 4 : 1);
    mask_view = &held.back().view;
  }
  Shape shape = scores;
  shape.back() = spec.value_depth;
  py::object result = out;
  if (out.is_none()) {
    result = py::array(dtype_of(Type::kFloat32), shape.vector());
  } else {
    check_out(view_of(out.ptr(), "out"), Type::kFloat32, shape,
              {&q.view(), &k.view(), &v.view(), mask_view});
  }
  ArrayView target = view_of(result.ptr(), "out");
  py::object apart = result;
  if (spec.value_depth != 1 && target.strides[axes - 1] != int64_t{sizeof(float)}) {
    apart = py::array(dtype_of(Type::kFloat32), shape.vector());
    target = view_of(apart.ptr(), "out");
  }
  spec.out = reinterpret_cast<float*>(target.data);
  for (int i = 0; i < axes; ++i) spec.out_strides[i] = target.strides[i] / int64_t{sizeof(float)};

  for (Operand* x : {&q, &k, &v}) {
    // Integer products quantize rows that lie side by side.
    if (integers && !x->is_codes && x->length(1) > 1 &&
        x->view().strides[x->view().ndim - 1] != int64_t{sizeof(float)})
      x->values.copy_values();
  }
  spec.q = q.operand(axes, held);
  spec.k = k.operand(axes, held);
  spec.v = v.operand(axes, held);

  int64_t rows = spec.heads * spec.queries;
  for (const auto length : batch) rows *= length;
  if (rows > 0 && spec.value_depth > 0) {
    const CallContext context = call_context();
    const NativeScope scope(rows * std::max<int64_t>(spec.keys, 1) *
                            (spec.depth + spec.value_depth + NativeScope::kMacsPerValue));
    run_attention(*context.table, spec, context.threads);
  }
  if (!apart.is(result)) py::module_::import("numpy").attr("copyto")(result, apart);
  return result;
}

// x of any leading axes to codes (int8, values side by side) and scales of its shape less the last
// axis.
void quantize_symmetric(const py::object& x_object, const py::object& codes_object,
                        const py::object& scale_object) {
  Source x(x_object, "x");
  const ArrayView codes = view_of(codes_object.ptr(), "codes");
  const ArrayView scale = view_of(scale_object.ptr(), "scale");
  const int axes = x.view.ndim;
  if (axes < 2 || type_of(x.view) != Type::kFloat32)
    raise_type("x must be float32 of at least 2 dimensions, got ", dtype_name(x.view), " ",
               shape_text(x.view.shape, axes));
  const Shape shape(x.view.shape, x.view.shape + axes);
  check_out(codes, Type::kInt8, shape, {&x.view});
  check_out(scale, Type::kFloat32, Shape(shape.begin(), shape.end() - 1), {&x.view});
  const int64_t depth = shape[axes - 1], rows = shape[axes - 2];
  if (x.view.size() == 0) return;
  if (depth > 1 && codes.strides[axes - 1] != 1)
    raise_value("codes must have the values of a row side by side");
  if (rows > 1 && scale.strides[axes - 2] != int64_t{sizeof(float)})
    raise_value("scales of a run of rows must lie side by side");
  if (depth > 1 && x.view.strides[axes - 1] != int64_t{sizeof(float)}) x.copy_values();
  const CallContext context = call_context();
  const NativeScope scope(x.view.size() * NativeScope::kMacsPerValue);
  const int64_t groups = x.view.size() / (rows * depth);
  for (int64_t group = 0; group < groups; ++group) {
    int64_t in = 0, to = 0, scales = 0, index = group;
    for (int i = axes - 3; i >= 0; --i) {
      const int64_t at = index % shape[i];
      index /= shape[i];
      in += at * x.view.strides[i];
      to += at * codes.strides[i];
      scales += at * scale.strides[i];
    }
    quantize_symmetric_rows(*context.table, reinterpret_cast<const float*>(x.view.data + in),
                            x.view.strides[axes - 2] / int64_t{sizeof(float)}, rows, depth,
                            reinterpret_cast<int8_t*>(codes.data + to), codes.strides[axes - 2],
                            reinterpret_cast<float*>(scale.data + scales));
  }
}

}  // namespace

void register_attention(py::module_& m) {
  m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"),
        py::arg("integers"), py::arg("past"), py::arg("scale"), py::arg("out") = py::none(),
        "softmax(scale * q k^T + mask) v. An operand is a float32 array, or codes with a scale and "
        "a zero point that have its axes, each of its length or of 1, and whether each row has its "
        "scale; mask: float32, added, or "
        "uint8, hiding where it is 0; past: None, or row i sees keys [0, past + i].");
  m.def("quantize_symmetric_rows", &quantize_symmetric, py::arg("x"), py::arg("codes"),
        py::arg("scale"),
        "Rows of float32 to int8 codes with a scale each, by the greatest magnitude.");
}

}  // namespace octavo
