#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "bindings/context.h"
#include "bindings/fastcall.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/matmul.h"

namespace octavo {
namespace {

constexpr const char* kOverflow =
    "a result does not fit int32; ask for dtype=\"int64\" (out is unspecified)";
constexpr int64_t kMaxLength = int64_t{1} << 31;

bool is_code_type(Type type) { return type == Type::kInt8 || type == Type::kUInt8; }

std::unique_ptr<PackedMatrix> pack_array(const py::object& b) {
  const ArrayView view = view_of(b.ptr(), "b");
  const Type type = type_of(view);
  if (!is_code_type(type))
    raise_type("b must be int8 or uint8, got ", dtype_name(view), "; quantize it first");
  if (view.ndim != 2)
    raise_value("b must have 2 dimensions (K, N), got shape ", shape_text(view.shape, view.ndim));
  const ByteMatrix matrix{reinterpret_cast<const uint8_t*>(view.data),
                          view.shape[0],
                          view.shape[1],
                          view.strides[0],
                          view.strides[1],
                          type == Type::kInt8};
  if (matrix.rows >= kMaxLength || matrix.cols >= kMaxLength)
    raise_value("b has shape ", shape_text(view.shape, view.ndim), "; each must be below 2**31");
  const CallContext context = call_context();
  const NativeScope scope(view.size() * NativeScope::kMacsPerValue);
  return std::make_unique<PackedMatrix>(*context.table, matrix, context.threads);
}

py::array unpack_array(const PackedMatrix& b) {
  py::array array(dtype_of(b.is_signed() ? Type::kInt8 : Type::kUInt8), Shape{b.rows(), b.cols()});
  b.unpack(static_cast<uint8_t*>(array.mutable_data()), b.cols(), 1);
  return array;
}

PyTypeObject* packed_type = nullptr;

Signature<10> signature{"matmul",
                        {"a", "b", "a_zero_point", "b_zero_point", "bias", "multiplier",
                         "zero_point", "clip", "dtype", "out"},
                        2,
                        2};

constexpr size_t kOutArgument = 9;

// An operand as a batch of matrices: the last two axes apart, the others listed.
struct Operand {
  const char* data;
  bool is_signed;
  bool is_vector;  // 1-D: its axis is not in the result
  int64_t rows, cols, row_stride, col_stride;
  int batch_ndim;
  const py::ssize_t* batch_shape;
  const py::ssize_t* batch_strides;
};

Operand operand(const ArrayView& view, bool is_left) {
  const char* name = is_left ? "a" : "b";
  const Type type = type_of(view);
  if (!is_code_type(type))
    raise_type(name, " must be int8 or uint8, got ", dtype_name(view), "; quantize it first");
  if (view.ndim == 0) raise_value(name, " must have at least 1 dimension, got 0");
  Operand x{};
  x.data = view.data;
  x.is_signed = type == Type::kInt8;
  x.is_vector = view.ndim == 1;
  const int last = view.ndim - 1;
  if (x.is_vector) {
    x.rows = is_left ? 1 : view.shape[0];
    x.cols = is_left ? view.shape[0] : 1;
    x.row_stride = is_left ? view.shape[0] : view.strides[0];
    x.col_stride = is_left ? view.strides[0] : 1;
  } else {
    x.rows = view.shape[last - 1];
    x.cols = view.shape[last];
    x.row_stride = view.strides[last - 1];
    x.col_stride = view.strides[last];
    x.batch_ndim = view.ndim - 2;
    x.batch_shape = view.shape;
    x.batch_strides = view.strides;
  }
  if (x.cols == 1 && !x.is_vector) x.col_stride = 1;  // whatever NumPy says of one column
  return x;
}

// Zero points of one operand, given at a shape that broadcasts to the operand's without its
// contracted axis.
struct ZeroPoints {
  Parameter<int32_t> values{0};
  bool per_line = false;  // one a row of a (a column of b) and batch, in C order
  const int32_t* at(int64_t matrix, int64_t lines) const {
    return per_line ? values.data() + matrix * lines : values.data();
  }
};

// `shape`: that of the operand without its contracted axis.
ZeroPoints parse_zero_points(PyObject* given, const char* name, bool is_signed,
                             const Shape& shape) {
  ZeroPoints zero;
  if (!given || given == Py_None) return zero;
  py::array array = no_array();
  if (!PyLong_Check(given)) {
    array = py::array::ensure(py::reinterpret_borrow<py::object>(given));
    if (!array) throw py::error_already_set();
  }
  if (!array || array.ndim() == 0) {
    zero.values = int_parameter(given, name);
  } else {
    py::object wide;
    try {
      wide = py::module_::import("numpy").attr("broadcast_to")(array, py::cast(shape.vector()));
    } catch (py::error_already_set& e) {
      if (!e.matches(PyExc_ValueError)) throw;
      raise_value(name, " has shape ", shape_text(array.shape(), static_cast<int>(array.ndim())),
                  ", which does not broadcast to ", shape_text(shape));
    }
    zero.values = int_parameter(wide.attr("ravel")().ptr(), name);
    zero.per_line = true;
  }
  const int32_t least = is_signed ? -128 : 0;
  for (int32_t value : zero.values) {
    if (value < least || value > least + 255)
      raise_value(name, " must be in [", least, ", ", least + 255, "] for ",
                  is_signed ? "int8" : "uint8", ", got ", value);
  }
  return zero;
}

struct EpilogueArrays {
  Parameter<int32_t> bias_s32;
  Parameter<float> bias_f32, multiplier;
};

GemmC::Type output_type(Type dtype) {
  switch (dtype) {
    case Type::kInt64:
      return GemmC::Type::kS64;
    case Type::kUInt8:
      return GemmC::Type::kU8;
    case Type::kInt8:
      return GemmC::Type::kS8;
    case Type::kFloat32:
      return GemmC::Type::kF32;
    default:
      return GemmC::Type::kS32;
  }
}

void parse_clip(PyObject* clip, Type dtype, float zero_point, MatmulEpilogue& epilogue) {
  const bool given = clip && clip != Py_None;
  if (given && (!PyTuple_Check(clip) || PyTuple_GET_SIZE(clip) != 2))
    raise_type("clip must be a tuple (lo, hi) or None");
  if (dtype == Type::kFloat32) {
    if (!given) return;
    epilogue.activate = true;
    epilogue.lo = one_float(PyTuple_GET_ITEM(clip, 0), "clip");
    epilogue.hi = one_float(PyTuple_GET_ITEM(clip, 1), "clip");
    if (!(epilogue.lo <= epilogue.hi))
      raise_value("clip must hold lo <= hi, got (", epilogue.lo, ", ", epilogue.hi, ")");
  } else if (is_code_type(dtype)) {
    const int32_t least = dtype == Type::kInt8 ? -128 : 0;
    int32_t lo = least, hi = least + 255;
    if (given) {
      lo = one_int(PyTuple_GET_ITEM(clip, 0), "clip");
      hi = one_int(PyTuple_GET_ITEM(clip, 1), "clip");
      if (lo > hi || lo < least || hi > least + 255)
        raise_value("clip must hold codes lo <= hi in [", least, ", ", least + 255, "], got (", lo,
                    ", ", hi, ")");
    }
    epilogue.lo = static_cast<float>(lo) - zero_point;
    epilogue.hi = static_cast<float>(hi) - zero_point;
  } else if (given) {
    raise_value("clip needs an 8-bit or float32 result, got dtype ", type_name(dtype));
  }
}

MatmulEpilogue parse_epilogue(Type dtype, int64_t n, PyObject* bias, PyObject* multiplier,
                              PyObject* zero_point, PyObject* clip, EpilogueArrays& arrays) {
  MatmulEpilogue epilogue{};
  epilogue.type = output_type(dtype);
  const bool scales = is_code_type(dtype) || dtype == Type::kFloat32;
  const bool has_multiplier = multiplier && multiplier != Py_None;
  if (has_multiplier && !scales)
    raise_value("multiplier needs an 8-bit or float32 result, got dtype ", type_name(dtype));
  if (!has_multiplier && is_code_type(dtype))
    raise_value("a result of dtype ", type_name(dtype),
                " needs a multiplier (x_scale * w_scale / y_scale)");
  if (scales) {
    arrays.multiplier =
        has_multiplier ? float_parameter(multiplier, "multiplier") : Parameter<float>(1.0f);
    check_length(arrays.multiplier.size(), n, "multiplier", "one a column");
    for (float value : arrays.multiplier) {
      if (!(value > 0.0f) || std::isinf(value))
        raise_value("multiplier must be positive and finite, got ", value);
    }
    epilogue.multiplier = arrays.multiplier.data();
    epilogue.multiplier_step = arrays.multiplier.step();
  }
  if (bias && bias != Py_None) {
    size_t count;
    if (dtype == Type::kFloat32) {
      arrays.bias_f32 = float_parameter(bias, "bias");
      count = arrays.bias_f32.size();
      epilogue.bias_f32 = arrays.bias_f32.data();
    } else {
      arrays.bias_s32 = int_parameter(bias, "bias");
      count = arrays.bias_s32.size();
      epilogue.bias_s32 = arrays.bias_s32.data();
    }
    check_length(count, n, "bias", "one a column");
    epilogue.bias_step = count > 1 ? 1 : 0;
  }
  int32_t zero = 0;
  if (zero_point && zero_point != Py_None) zero = one_int(zero_point, "zero_point");
  const int32_t least = dtype == Type::kInt8 ? -128 : 0;
  const int32_t most = is_code_type(dtype) ? least + 255 : 0;
  if (zero < (is_code_type(dtype) ? least : 0) || zero > most)
    raise_value("zero_point must be in [", (is_code_type(dtype) ? least : 0), ", ", most,
                "] for dtype ", type_name(dtype), ", got ", zero);
  epilogue.zero_point = zero;
  parse_clip(clip, dtype, static_cast<float>(zero), epilogue);
  return epilogue;
}

// The stride in bytes that walks the batch axes of x as one, 0 if there is none to walk, -1 if it
// takes several.
int64_t collapsed_stride(const Operand& x) {
  if (x.batch_ndim == 0) return 0;
  for (int i = 0; i + 1 < x.batch_ndim; ++i) {
    if (x.batch_strides[i] != x.batch_shape[i + 1] * x.batch_strides[i + 1]) return -1;
  }
  return x.batch_strides[x.batch_ndim - 1];
}

Shape broadcast_batches(const Operand& a, const Operand& b) {
  const int ndim = std::max(a.batch_ndim, b.batch_ndim);
  Shape shape(ndim, 1);
  for (int i = 0; i < ndim; ++i) {
    const int ia = i - (ndim - a.batch_ndim), ib = i - (ndim - b.batch_ndim);
    const py::ssize_t la = ia < 0 ? 1 : a.batch_shape[ia], lb = ib < 0 ? 1 : b.batch_shape[ib];
    if (la != lb && la != 1 && lb != 1)
      raise_value("a and b have batch shapes ", shape_text(a.batch_shape, a.batch_ndim), " and ",
                  shape_text(b.batch_shape, b.batch_ndim), ", which do not broadcast");
    shape[i] = la == 1 ? lb : la;
  }
  return shape;
}

// Where matrix `index` of the result's batch (C order over `shape`) lies in x: bytes from its
// start, and its number in x's own batch.
struct BatchPlace {
  int64_t offset, index;
};
BatchPlace batch_place(const Operand& x, const Shape& shape, int64_t index) {
  BatchPlace place{0, 0};
  int64_t step = 1;
  for (int i = x.batch_ndim - 1, at = shape.size() - 1; i >= 0; --i, --at) {
    const int64_t length = shape[at];
    const int64_t mine = x.batch_shape[i] == 1 ? 0 : index % length;
    index /= length;
    place.offset += mine * x.batch_strides[i];
    place.index += mine * step;
    step *= x.batch_shape[i];
  }
  return place;
}

PyObject* matmul(const std::array<PyObject*, 10>& given) {
  const FpModeGuard mode;
  const auto [a_object, b_object, a_zero_object, b_zero_object, bias, multiplier, zero_point, clip,
              dtype_object, out_object] = given;
  const Type dtype = dtype_object
                         ? parse_dtype(dtype_object, {Type::kInt32, Type::kInt64, Type::kUInt8,
                                                      Type::kInt8, Type::kFloat32})
                         : Type::kInt32;
  const ArrayView a_view = view_of(a_object, "a");
  Operand a = operand(a_view, true);
  const CallContext context = call_context();

  const PackedMatrix* packed = nullptr;
  ArrayView b_view{};
  Operand b{};
  if (Py_TYPE(b_object) == packed_type) {
    packed = py::handle(b_object).cast<const PackedMatrix*>();
    b.rows = packed->rows();
    b.cols = packed->cols();
    b.is_signed = packed->is_signed();
  } else {
    if (!is_ndarray(b_object))
      raise_type("b must be a numpy.ndarray or a PackedMatrix, got ", Py_TYPE(b_object)->tp_name);
    b_view = view_of(b_object, "b");
    b = operand(b_view, false);
  }
  if (a.cols != b.rows) {
    const Shape b_shape =
        packed ? Shape{b.rows, b.cols} : Shape(b_view.shape, b_view.shape + b_view.ndim);
    raise_value("a has shape ", shape_text(a_view.shape, a_view.ndim), ", b ", shape_text(b_shape),
                "; a.shape[-1] and b.shape[-2] must be equal");
  }
  if (a.rows >= kMaxLength || a.cols >= kMaxLength || b.cols >= kMaxLength)
    raise_value("each dimension must be below 2**31");

  const Shape batch = broadcast_batches(a, b);
  Shape shape = batch;
  if (!a.is_vector) shape.push_back(a.rows);
  if (!b.is_vector) shape.push_back(b.cols);
  Shape a_lines(a_view.shape, a_view.shape + a_view.ndim - 1);
  Shape b_lines = b.batch_ndim > 0 ? Shape(b.batch_shape, b.batch_shape + b.batch_ndim) : Shape{};
  if (!b.is_vector) b_lines.push_back(b.cols);
  const ZeroPoints a_zero = parse_zero_points(a_zero_object, "a_zero_point", a.is_signed, a_lines);
  const ZeroPoints b_zero = parse_zero_points(b_zero_object, "b_zero_point", b.is_signed, b_lines);
  EpilogueArrays arrays;
  const MatmulEpilogue epilogue =
      parse_epilogue(dtype, b.cols, bias, multiplier, zero_point, clip, arrays);
  Result result(out_object, dtype, shape, {&a_view, packed ? nullptr : &b_view});

  int64_t count = 1;
  for (auto length : batch) count *= length;
  const int64_t value_bytes = dtype == Type::kInt64 ? 8 : is_code_type(dtype) ? 1 : 4;
  if (count > 0 && a.rows > 0 && b.cols > 0) {
    // All matrices of a by one b: the rows of one product.
    const int64_t stride = collapsed_stride(a);
    if (count > 1 && b.batch_ndim == 0 && stride == a.rows * a.row_stride) {
      a.rows *= count;
      count = 1;
    } else if (count > 1 && b.batch_ndim == 0 && a.rows == 1 && stride >= 0) {
      a.rows = count;
      a.row_stride = stride;
      count = 1;
    }
    const NativeScope scope(count * a.rows * b.cols * std::max<int64_t>(a.cols, 1));
    auto item_of = [&](int64_t i) {
      MatmulItem item{};
      BatchPlace in_a{0, 0}, in_b{0, 0};
      if (count > 1) {
        in_a = batch_place(a, batch, i);
        in_b = batch_place(b, batch, i);
      }
      item.a = {reinterpret_cast<const uint8_t*>(a.data + in_a.offset),
                a.rows,
                a.cols,
                a.row_stride,
                a.col_stride,
                a.is_signed};
      item.a_zero_point = a_zero.at(in_a.index, a.rows);
      item.a_zero_point_step = a_zero.per_line ? 1 : 0;
      if (packed)
        item.packed = &packed->form(context.table);
      else
        item.b = {reinterpret_cast<const uint8_t*>(b.data + in_b.offset),
                  b.rows,
                  b.cols,
                  b.row_stride,
                  b.col_stride,
                  b.is_signed};
      item.b_zero_point = b_zero.at(in_b.index, b.cols);
      item.b_zero_point_step = b_zero.per_line ? 1 : 0;
      item.c = result.data() + i * a.rows * b.cols * value_bytes;
      item.ldc = b.cols;
      return item;
    };
    bool fits;
    if (count == 1) {
      const MatmulItem item = item_of(0);
      fits = run_matmul(&item, 1, epilogue, *context.table, context.threads);
    } else {
      std::vector<MatmulItem> items(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) items[static_cast<size_t>(i)] = item_of(i);
      fits = run_matmul(items.data(), count, epilogue, *context.table, context.threads);
    }
    if (!fits) throw std::overflow_error(kOverflow);
  }
  return result.finish().release().ptr();
}

// The commonest small call, matmul(a, packed, out=out) with everything plain, without what the
// general path allocates: a product of 64 x 64 takes 50 ns, so each allocation would show. Null
// where the call is anything else, or wrong: the general path then does it, or says why not.
PyObject* matmul_plain(PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  if (count != 2 || !keywords || PyTuple_GET_SIZE(keywords) != 1 ||
      PyTuple_GET_ITEM(keywords, 0) != signature.interned[kOutArgument] ||
      Py_TYPE(args[1]) != packed_type || !is_ndarray(args[0]) || !is_ndarray(args[2]))
    return nullptr;
  const ArrayView a = view_of(args[0], "a"), out = view_of(args[2], "out");
  const Type type = type_of(a);
  const auto& packed = *py::handle(args[1]).cast<const PackedMatrix*>();
  if (a.ndim != 2 || out.ndim != 2 || !is_code_type(type) || type_of(out) != Type::kInt32 ||
      !packed.is_signed() || a.shape[1] != packed.rows() || out.shape[0] != a.shape[0] ||
      out.shape[1] != packed.cols() || !is_contiguous(a) || !is_contiguous(out) ||
      !is_writable(out) || !is_native(out))
    return nullptr;
  const int64_t m = a.shape[0], k = a.shape[1], n = packed.cols();
  const char* a_end = a.data + m * k;
  const char* out_end = out.data + m * n * int64_t{sizeof(int32_t)};
  if (out.data < a_end && a.data < out_end) return nullptr;

  const CallContext context = call_context();
  const int32_t zero = 0;
  GemmA x{};
  x.kind = GemmA::Kind::kBytes;
  x.data = a.data;
  x.m = m;
  x.row_stride = k;
  x.k_stride = 1;
  x.is_signed = type == Type::kInt8;
  x.zero_point = &zero;
  GemmC c{};
  c.type = GemmC::Type::kS32;
  c.data = out.data;
  c.ldc = n;
  bool fits;
  {
    const NativeScope scope(m * n * k);
    fits = gemm(x, packed.form(context.table), c, nullptr, context.threads);
  }
  if (!fits) throw std::overflow_error(kOverflow);
  return py::handle(args[2]).inc_ref().ptr();
}

PyObject* matmul_fastcall(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  return translate_exceptions([&] {
    PyObject* result = matmul_plain(args, count, keywords);
    return result ? result : matmul(signature.parse(args, count, keywords));
  });
}

constexpr const char* kMatmulDoc =
    R"(matmul(a: numpy.ndarray, b: numpy.ndarray | PackedMatrix, *, a_zero_point: int | numpy.ndarray = 0, b_zero_point: int | numpy.ndarray = 0, bias: int | float | numpy.ndarray | None = None, multiplier: float | numpy.ndarray | None = None, zero_point: int = 0, clip: tuple[float, float] | None = None, dtype: object = 'int32', out: numpy.ndarray | None = None) -> numpy.ndarray

Exact product of 8-bit arrays: ``sum_k (a - a_zero_point) * (b - b_zero_point)``.

Parameters
----------
a : ndarray of int8 or uint8, shape (..., M, K) or (K,)
    Any strides; read-only is fine.
b : ndarray of int8 or uint8, shape (..., K, N) or (K,); or PackedMatrix
    Batch axes broadcast as in `numpy.matmul`. Pack weights once with `pack`.
a_zero_point : int or ndarray that broadcasts to a.shape[:-1]
b_zero_point : int or ndarray that broadcasts to b.shape[:-2] + (N,)
    In the range of the operand's dtype.
bias : None, or one value or (N,) values
    int32, added to the sums; float32 where `dtype` is.
multiplier : None, float or ndarray of shape (N,)
    Positive. 8-bit results need it: ``a_scale * b_scale / y_scale``; float32 results are multiplied
    by it (default 1).
zero_point : int
    Of an 8-bit result.
clip : tuple (lo, hi) or None
    Bounds of the codes of an 8-bit result, or of a float32 result (relu: ``(0, inf)``).
dtype : "int32", "int64", "int8", "uint8" or "float32"
out : ndarray or None
    Where the result goes, of its dtype and shape; shares no memory with `a` or `b`.

Returns
-------
ndarray
    The same bits on every CPU, with any number of threads and any split of a batch.

Raises
------
OverflowError
    A result does not fit int32, which takes K > 33,025 (or a bias near 2**31); ask for int64.
ValueError, TypeError
    What, got, expected.

Notes
-----
The arithmetic is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (2018), equations 4 and 7, with a float32 multiplier. No path
saturates at int16.

Examples
--------
>>> import numpy as np, octavo as oc
>>> a = np.full((1, 2), 255, np.uint8)
>>> b = np.full((2, 1), 127, np.int8)
>>> oc.matmul(a, b)
array([[64770]], dtype=int32)
)";

PyMethodDef matmul_method = {
    "matmul", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(matmul_fastcall)),
    METH_FASTCALL | METH_KEYWORDS, kMatmulDoc};

}  // namespace

void register_matmul(py::module_& m) {
  py::class_<PackedMatrix> packed(
      m, "PackedMatrix", "The right operand of `matmul`, packed for this CPU; see `pack`.");
  packed.def_property_readonly(
      "shape", [](const PackedMatrix& b) { return py::make_tuple(b.rows(), b.cols()); },
      "(K, N), as it was packed.");
  packed.def_property_readonly(
      "dtype",
      [](const PackedMatrix& b) { return dtype_of(b.is_signed() ? Type::kInt8 : Type::kUInt8); },
      "int8 or uint8, as it was packed.");
  packed.def_property_readonly("nbytes", &PackedMatrix::nbytes,
                               "Bytes that the packed form takes, column sums included.");
  packed.def_property_readonly("isa", &PackedMatrix::isa, "The ISA it was first packed for.");
  packed.def("unpack", &unpack_array, "The (K, N) array that was packed, exactly.");
  packed.def("__repr__", [](const PackedMatrix& b) {
    return "PackedMatrix(shape=(" + std::to_string(b.rows()) + ", " + std::to_string(b.cols()) +
           "), dtype=" + (b.is_signed() ? "int8" : "uint8") + ", isa=" + b.isa() + ")";
  });
  packed.def(py::pickle([](const PackedMatrix& b) { return py::make_tuple(unpack_array(b)); },
                        [](const py::tuple& state) { return pack_array(state[0]); }));
  packed_type = reinterpret_cast<PyTypeObject*>(packed.ptr());

  m.def("pack", &pack_array, py::arg("b"),
        R"(Pack a (K, N) int8 or uint8 array for repeated products.

Parameters
----------
b : ndarray of int8 or uint8, shape (K, N)
    Any strides. It is copied: later writes to it change nothing.

Returns
-------
PackedMatrix
    `b` for `matmul`: ``.shape``, ``.dtype``, ``.nbytes``, ``.isa``, ``.unpack()``. It pickles as
    the plain array and packs again for the CPU that loads it.

Examples
--------
>>> import numpy as np, octavo as oc
>>> w = oc.pack(np.eye(3, dtype=np.int8))
>>> oc.matmul(np.arange(3, dtype=np.uint8), w)
array([0, 1, 2], dtype=int32)
)");
  signature.intern();
  py::object function = py::reinterpret_steal<py::object>(
      PyCFunction_NewEx(&matmul_method, nullptr, m.attr("__name__").ptr()));
  m.attr("matmul") = function;
}

}  // namespace octavo
