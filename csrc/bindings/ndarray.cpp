#include "bindings/ndarray.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace octavo {
namespace {

using py::detail::npy_api;

constexpr int kHalf = 23;  // NPY_HALF, which pybind11 does not name

int type_number(PyObject* object) {
  return py::detail::array_descriptor_proxy(py::detail::array_proxy(object)->descr)->type_num;
}

bool has_flag(const ArrayView& array, int flag) {
  return (py::detail::array_proxy(array.object)->flags & flag) == flag;
}

// First byte and the byte after the last that an array spans.
std::pair<const char*, const char*> extent(const ArrayView& a) {
  const char *first = a.data, *last = a.data;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] == 0) return {a.data, a.data};
    const py::ssize_t reach = (a.shape[i] - 1) * a.strides[i];
    (reach < 0 ? first : last) += reach;
  }
  return {first, last + py::reinterpret_borrow<py::array>(a.object).itemsize()};
}

py::array numpy_array(PyObject* object, const char* name) {
  py::array array = py::array::ensure(py::reinterpret_borrow<py::object>(object));
  if (!array) {
    PyErr_Clear();
    raise_type(name, " must be a number or an array");
  }
  if (array.ndim() > 1) raise_value(name, " must have 0 or 1 dimensions, got ", array.ndim());
  return array;
}

}  // namespace

py::ssize_t ArrayView::size() const {
  py::ssize_t count = 1;
  for (int i = 0; i < ndim; ++i) count *= shape[i];
  return count;
}

bool is_ndarray(PyObject* object) {
  return PyObject_TypeCheck(object, npy_api::get().PyArray_Type_) != 0;
}

ArrayView view_of(PyObject* object, const char* name) {
  if (!is_ndarray(object))
    raise_type(name, " must be a numpy.ndarray, got ", Py_TYPE(object)->tp_name);
  const auto* proxy = py::detail::array_proxy(object);
  return {object, proxy->data, proxy->nd, proxy->dimensions, proxy->strides};
}

Type type_of(const ArrayView& array) {
  switch (type_number(array.object)) {
    case npy_api::NPY_BYTE_:
      return Type::kInt8;
    case npy_api::NPY_UBYTE_:
      return Type::kUInt8;
    case npy_api::NPY_FLOAT_:
      return Type::kFloat32;
    case kHalf:
      return Type::kFloat16;
    case npy_api::NPY_INT_:
      return Type::kInt32;
    case npy_api::NPY_LONG_:
      return sizeof(long) == 8 ? Type::kInt64 : Type::kInt32;
    case npy_api::NPY_LONGLONG_:
      return Type::kInt64;
    default:
      return Type::kOther;
  }
}

bool is_native(const ArrayView& array) {
  const char order =
      py::detail::array_descriptor_proxy(py::detail::array_proxy(array.object)->descr)->byteorder;
  return has_flag(array, npy_api::NPY_ARRAY_ALIGNED_) &&
         (order == '=' || order == '|' || order == (PY_LITTLE_ENDIAN ? '<' : '>'));
}

bool is_contiguous(const ArrayView& array) {
  return has_flag(array, npy_api::NPY_ARRAY_C_CONTIGUOUS_);
}

bool is_writable(const ArrayView& array) { return has_flag(array, npy_api::NPY_ARRAY_WRITEABLE_); }

std::string dtype_name(const ArrayView& array) {
  return py::str(py::reinterpret_borrow<py::array>(array.object).dtype()).cast<std::string>();
}

std::string shape_text(const py::ssize_t* shape, int ndim) {
  std::string result = "(";
  for (int i = 0; i < ndim; ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + (ndim == 1 ? ",)" : ")");
}

std::string shape_text(const Shape& shape) { return shape_text(shape.data(), shape.size()); }

const char* type_name(Type type) {
  switch (type) {
    case Type::kInt8:
      return "int8";
    case Type::kUInt8:
      return "uint8";
    case Type::kInt32:
      return "int32";
    case Type::kInt64:
      return "int64";
    case Type::kFloat32:
      return "float32";
    case Type::kFloat16:
      return "float16";
    default:
      return "other";
  }
}

py::dtype dtype_of(Type type) {
  switch (type) {
    case Type::kInt8:
      return py::dtype::of<int8_t>();
    case Type::kUInt8:
      return py::dtype::of<uint8_t>();
    case Type::kInt64:
      return py::dtype::of<int64_t>();
    case Type::kFloat32:
      return py::dtype::of<float>();
    case Type::kFloat16:
      return py::dtype("float16");
    default:
      return py::dtype::of<int32_t>();
  }
}

Type parse_dtype(PyObject* dtype, std::initializer_list<Type> known) {
  std::string name;
  if (PyUnicode_Check(dtype)) {
    const char* given = PyUnicode_AsUTF8(dtype);
    if (!given) throw py::error_already_set();
    for (Type type : known) {
      if (std::strcmp(given, type_name(type)) == 0) return type;
    }
    name = given;
  } else {
    name = py::str(py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype)).attr("name"))
               .cast<std::string>();
    for (Type type : known) {
      if (name == type_name(type)) return type;
    }
  }
  std::string list;
  for (Type type : known) list += std::string(list.empty() ? "" : ", ") + type_name(type);
  raise_value("dtype must be one of ", list, ", got ", name);
}

py::array contiguous(const ArrayView& array, Type type) {
  if (is_contiguous(array) && is_native(array))
    return py::reinterpret_borrow<py::array>(array.object);
  return py::module_::import("numpy")
      .attr("require")(py::handle(array.object), dtype_of(type), "CA")
      .cast<py::array>();
}

Rows rows_of(const ArrayView& x, Type type, bool packed) {
  Rows rows{};
  const int64_t value_bytes = type == Type::kFloat32 ? 4 : 1;
  rows.count = 1;
  rows.length = x.shape[x.ndim - 1];
  bool in_place = is_native(x);
  for (int i = 0; i + 1 < x.ndim; ++i) rows.count *= x.shape[i];
  for (int i = 0; i + 2 < x.ndim; ++i)
    in_place = in_place && x.strides[i] == x.shape[i + 1] * x.strides[i + 1];
  const int64_t row_bytes = x.ndim > 1 ? x.strides[x.ndim - 2] : rows.length * value_bytes;
  const int64_t step = x.strides[x.ndim - 1];
  in_place = in_place && row_bytes % value_bytes == 0 &&
             (step == value_bytes || rows.length == 1 || !packed);
  if (in_place) {
    rows.data = x.data;
    rows.row_stride = row_bytes / value_bytes;
    rows.value_stride = rows.length == 1 ? 1 : step / value_bytes;
  } else {
    rows.copy = contiguous(x, type);
    rows.data = rows.copy.data();
    rows.row_stride = rows.length;
    rows.value_stride = 1;
  }
  return rows;
}

bool may_overlap(const ArrayView& a, const ArrayView& b) {
  const auto x = extent(a), y = extent(b);
  return x.first < y.second && y.first < x.second;
}

void check_out(const ArrayView& out, Type type, const Shape& shape,
               std::initializer_list<const ArrayView*> inputs) {
  if (type_of(out) != type)
    raise_type("out has dtype ", dtype_name(out), ", the result has ", type_name(type));
  if (out.ndim != shape.size() || !std::equal(shape.begin(), shape.end(), out.shape))
    raise_value("out has shape ", shape_text(out.shape, out.ndim), ", the result has ",
                shape_text(shape));
  if (!is_writable(out)) raise_value("out is read-only; it must be writable");
  if (!is_native(out))
    raise_value("out is unaligned or in another byte order; it must be aligned and native");
  for (const ArrayView* input : inputs) {
    if (input && may_overlap(out, *input))
      raise_value("out shares memory with an input; they must not overlap");
  }
}

Result::Result(PyObject* out, Type type, const Shape& shape,
               std::initializer_list<const ArrayView*> inputs) {
  if (out && out != Py_None) {
    out_ = py::reinterpret_borrow<py::object>(out);
    const ArrayView given = view_of(out, "out");
    check_out(given, type, shape, inputs);
    if (is_contiguous(given)) {
      view_ = given;
      return;
    }
  }
  array_ = py::array(dtype_of(type), shape.vector());
  view_ = view_of(array_.ptr(), "out");
}

py::object Result::finish() {
  if (!out_) return array_;
  if (array_.ptr() && view_.object == array_.ptr())
    py::module_::import("numpy").attr("copyto")(out_, array_);
  return out_;
}

// A copy of what lies otherwise.
constexpr int kPlain = py::array::c_style | py::array::forcecast | npy_api::NPY_ARRAY_ALIGNED_;

Parameter<int32_t> int_parameter(PyObject* object, const char* name) {
  if (PyLong_Check(object)) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow || value != static_cast<int32_t>(value)) raise_value(name, " must fit int32");
    return Parameter<int32_t>(static_cast<int32_t>(value));
  }
  py::array array = numpy_array(object, name);
  const ArrayView view = view_of(array.ptr(), name);
  if (type_of(view) == Type::kInt32 && is_native(view) && is_contiguous(view))
    return Parameter<int32_t>(std::move(array));
  const char kind = array.dtype().kind();
  if ((kind != 'i' && kind != 'u') && array.size() > 0)
    raise_type(name, " must be an integer or an array of integers, got dtype ", dtype_name(view));
  const auto wide = py::array_t<int64_t, kPlain>::ensure(array);
  if (!wide) throw py::error_already_set();
  py::array_t<int32_t> values(wide.size());
  for (py::ssize_t i = 0; i < wide.size(); ++i) {
    const int64_t value = wide.data()[i];
    if (value != static_cast<int32_t>(value) || (kind == 'u' && value < 0))
      raise_value(name, " must fit int32");
    values.mutable_data()[i] = static_cast<int32_t>(value);
  }
  return Parameter<int32_t>(std::move(values));
}

Parameter<float> float_parameter(PyObject* object, const char* name) {
  if (PyFloat_Check(object)) return Parameter<float>(static_cast<float>(PyFloat_AS_DOUBLE(object)));
  py::array array = numpy_array(object, name);
  const char kind = array.dtype().kind();
  if (kind != 'f' && kind != 'i' && kind != 'u' && array.size() > 0)
    raise_type(name, " must be a number or an array of numbers, got dtype ",
               dtype_name(view_of(array.ptr(), name)));
  auto real = py::array_t<float, kPlain>::ensure(array);
  if (!real) throw py::error_already_set();
  return Parameter<float>(std::move(real));
}

int32_t one_int(PyObject* object, const char* name) {
  const Parameter<int32_t> values = int_parameter(object, name);
  if (values.size() != 1) raise_value(name, " must be one integer, got ", values.size(), " values");
  return values[0];
}

float one_float(PyObject* object, const char* name) {
  const Parameter<float> values = float_parameter(object, name);
  if (values.size() != 1) raise_value(name, " must be one number, got ", values.size(), " values");
  return values[0];
}

void check_length(size_t values, int64_t channels, const char* name, const char* per) {
  if (values != 1 && static_cast<int64_t>(values) != channels)
    raise_value(name, " has ", values, " values, expected 1 or ", channels, " (", per, ")");
}

ChannelLayout layout_of(const ArrayView& array, const py::object& axis) {
  if (axis.is_none()) return {1, 1, array.size()};
  if (!PyLong_Check(axis.ptr())) raise_type("axis must be an int or None");
  const auto given = axis.cast<int64_t>();
  const int64_t at = given < 0 ? given + array.ndim : given;
  if (at < 0 || at >= array.ndim)
    raise_value("axis ", given, " is out of range for an array of ", array.ndim, " dimensions");
  ChannelLayout layout{1, array.shape[at], 1};
  for (int i = 0; i < at; ++i) layout.outer *= array.shape[i];
  for (int i = static_cast<int>(at) + 1; i < array.ndim; ++i) layout.inner *= array.shape[i];
  return layout;
}

}  // namespace octavo
