// NumPy arrays as plain views, and the checks of their memory: dtype, strides, writable, overlap.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

#include "ops/elementwise.h"

namespace octavo {

namespace py = pybind11;

// The lengths of an array's axes, without a heap allocation in every call.
class Shape {
 public:
  static constexpr int kMaxAxes = 64;  // NumPy's own limit

  Shape() = default;
  Shape(std::initializer_list<py::ssize_t> lengths) : Shape(lengths.begin(), lengths.end()) {}
  Shape(const py::ssize_t* first, const py::ssize_t* last) {
    for (; first != last; ++first) push_back(*first);
  }
  Shape(int axes, py::ssize_t length) {
    for (int i = 0; i < axes; ++i) push_back(length);
  }
  void push_back(py::ssize_t length) { lengths_[axes_++] = length; }
  int size() const { return axes_; }
  py::ssize_t* begin() { return lengths_; }
  const py::ssize_t* begin() const { return lengths_; }
  const py::ssize_t* end() const { return lengths_ + axes_; }
  const py::ssize_t* data() const { return lengths_; }
  py::ssize_t& operator[](int axis) { return lengths_[axis]; }
  py::ssize_t operator[](int axis) const { return lengths_[axis]; }
  py::ssize_t& back() { return lengths_[axes_ - 1]; }
  std::vector<py::ssize_t> vector() const { return {begin(), end()}; }

 private:
  int axes_ = 0;
  py::ssize_t lengths_[kMaxAxes];
};

// What an ndarray holds, read straight from its header.
struct ArrayView {
  PyObject* object;
  char* data;
  int ndim;
  const py::ssize_t* shape;
  const py::ssize_t* strides;  // bytes

  py::ssize_t size() const;
};

// py::array() would make one.
inline py::array no_array() { return py::reinterpret_steal<py::array>(nullptr); }

bool is_ndarray(PyObject* object);

// Throws TypeError unless `object` is an ndarray; `name` is what the message calls it.
ArrayView view_of(PyObject* object, const char* name);

enum class Type { kInt8, kUInt8, kInt32, kInt64, kFloat32, kFloat16, kOther };
Type type_of(const ArrayView& array);
bool is_native(const ArrayView& array);      // aligned, and in this machine's byte order
bool is_contiguous(const ArrayView& array);  // C order
bool is_writable(const ArrayView& array);
std::string dtype_name(const ArrayView& array);
std::string shape_text(const py::ssize_t* shape, int ndim);
std::string shape_text(const Shape& shape);

// "int8" -> Type, from a name, a type or a dtype; throws ValueError listing `known` otherwise.
Type parse_dtype(PyObject* dtype, std::initializer_list<Type> known);
const char* type_name(Type type);
py::dtype dtype_of(Type type);

// The array itself, or a C-ordered native copy.
py::array contiguous(const ArrayView& array, Type type);

// The last axis of an array as rows one stride apart: read in place where they lie so, else copied.
struct Rows {
  const void* data;
  int64_t count, length;
  int64_t row_stride, value_stride;  // in values; value_stride is 1 where `packed` was asked for
  py::array copy = no_array();
};
Rows rows_of(const ArrayView& array, Type type, bool packed);

// True if the memory that the two arrays span has a byte in common.
bool may_overlap(const ArrayView& a, const ArrayView& b);

// Throws unless `out` has this dtype and shape, is writable and native, and shares no memory with
// the inputs.
void check_out(const ArrayView& out, Type type, const Shape& shape,
               std::initializer_list<const ArrayView*> inputs);

// Where results go: `out`, if it is given and in C order; else a new array, copied to `out` by
// finish().
class Result {
 public:
  Result(PyObject* out, Type type, const Shape& shape,
         std::initializer_list<const ArrayView*> inputs);
  char* data() { return view_.data; }
  py::object finish();

 private:
  py::object out_;
  py::array array_ = no_array();
  ArrayView view_;
};

// A parameter that was given as a Python number or as an array of 0 or 1 dimensions: read in place
// where it has the dtype already.
template <class T>
class Parameter {
 public:
  Parameter() = default;  // not given
  explicit Parameter(T number) : number_(number), size_(1) {}
  explicit Parameter(py::array array)
      : array_(std::move(array)), size_(static_cast<size_t>(array_.size())) {}

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Null where it was not given.
  const T* data() const {
    if (size_ == 0) return nullptr;
    return array_ ? static_cast<const T*>(array_.data()) : &number_;
  }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T operator[](size_t i) const { return data()[i]; }
  int64_t step() const { return size_ > 1 ? 1 : 0; }

 private:
  T number_{};
  py::array array_ = no_array();
  size_t size_ = 0;
};
Parameter<int32_t> int_parameter(PyObject* object, const char* name);
Parameter<float> float_parameter(PyObject* object, const char* name);
// One number alone.
int32_t one_int(PyObject* object, const char* name);
float one_float(PyObject* object, const char* name);

// `values` must hold 1 or `channels` values.
void check_length(size_t values, int64_t channels, const char* name, const char* per);

// An array seen as outer x channels x inner around `axis`; None: one channel.
ChannelLayout layout_of(const ArrayView& array, const py::object& axis);

// Errors say what, got, expected; numbers among the parts are printed.
template <class Part>
std::string message_part(const Part& part) {
  if constexpr (std::is_floating_point_v<Part>) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%g", static_cast<double>(part));
    return buffer;
  } else if constexpr (std::is_integral_v<Part>) {
    return std::to_string(part);
  } else {
    return part;
  }
}
template <class... Parts>
[[noreturn]] void raise_value(const Parts&... parts) {
  throw py::value_error((message_part(parts) + ...));
}
template <class... Parts>
[[noreturn]] void raise_type(const Parts&... parts) {
  throw py::type_error((message_part(parts) + ...));
}

}  // namespace octavo
