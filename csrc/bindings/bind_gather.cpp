#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <utility>

#include "bindings/context.h"
#include "bindings/fastcall.h"
#include "bindings/indices.h"
#include "bindings/ndarray.h"
#include "bindings/register.h"
#include "ops/gather.h"

namespace octavo {
namespace {

// A table and the arrays that hold it, which nobody writes to.
struct Gather {
  StoredTable table{};
  py::array data = no_array(), scale = no_array(), zero_point = no_array();
};

py::array parameter_of(const py::object& object, const char* name, Type type, int64_t count) {
  const ArrayView view = view_of(object.ptr(), name);
  if (type_of(view) != type)
    raise_type(name, " must be ", type_name(type), ", got ", dtype_name(view));
  if (view.size() != count)
    raise_value(name, " has ", static_cast<int64_t>(view.size()), " values, expected ", count);
  return contiguous(view, type);
}

std::unique_ptr<Gather> make_gather(const py::object& data, int64_t rows, int64_t length,
                                    const std::string& dtype, const py::object& scale,
                                    const py::object& zero_point, int64_t group_size) {
  if (rows < 0 || length < 0 || group_size < 0)
    raise_value("rows, length, group_size must be at least 0, got ", rows, ", ", length, ", ",
                group_size);
  auto gather = std::make_unique<Gather>();
  StoredTable& table = gather->table;
  const ArrayView view = view_of(data.ptr(), "data");
  Type stored = Type::kOther;
  int64_t values = rows * length;
  table.is_signed = dtype[0] != 'u';
  if (dtype == "float32") {
    table.kind = StoredTable::Kind::kF32;
    stored = Type::kFloat32;
  } else if (dtype == "float16") {
    table.kind = StoredTable::Kind::kF16;
    stored = Type::kFloat16;
  } else if (dtype == "int8" || dtype == "uint8") {
    table.kind = StoredTable::Kind::kBytes;
    stored = table.is_signed ? Type::kInt8 : Type::kUInt8;
  } else if (dtype == "int4" || dtype == "uint4") {
    table.kind = StoredTable::Kind::kNibbles;
    stored = Type::kUInt8;
    values = (values + 1) / 2;
  } else {
    raise_value("dtype must be one of float32, float16, int8, uint8, int4, uint4, got ", dtype);
  }
  if (type_of(view) != stored)
    raise_type("data must be ", type_name(stored), " for ", dtype, ", got ", dtype_name(view));
  if (view.size() != values)
    raise_value("data has ", static_cast<int64_t>(view.size()), " values, expected ", values,
                " for ", rows, " rows of ", length);
  gather->data = contiguous(view, stored);
  table.data = gather->data.data();
  table.rows = rows;
  table.length = length;
  if (!scale.is_none() && length > 0) {
    table.group_size = group_size;
    const int64_t count = group_size > 0 ? rows * ((length + group_size - 1) / group_size) : 1;
    gather->scale = parameter_of(scale, "scale", Type::kFloat32, count);
    table.scale = static_cast<const float*>(gather->scale.data());
    if (!zero_point.is_none()) {
      gather->zero_point = parameter_of(zero_point, "zero_point", Type::kInt32, count);
      table.zero_point = static_cast<const int32_t*>(gather->zero_point.data());
    }
  } else if (length > 0 && (stored == Type::kInt8 || stored == Type::kUInt8)) {
    raise_value("scale is None, expected one for codes of ", dtype);
  }
  return gather;
}

PyObject* call_gather(const Gather& gather, PyObject* indices_object, PyObject* out_object) {
  const StoredTable& table = gather.table;
  const ArrayView indices = view_of(indices_object, "indices");
  const int64_t* checked = checked_indices(indices, "indices", table.rows);
  Shape shape(indices.shape, indices.shape + indices.ndim);
  if (shape.size() == Shape::kMaxAxes)
    raise_value("indices has ", shape.size(), " dimensions, expected fewer");
  shape.push_back(table.length);
  const ArrayView data = view_of(gather.data.ptr(), "data");
  Result result(out_object, Type::kFloat32, shape, {&indices, &data});
  const CallContext context = call_context();
  {
    const NativeScope scope(indices.size() * table.length * NativeScope::kMacsPerValue);
    run_gather(*context.table, table, checked, indices.size(),
               reinterpret_cast<float*>(result.data()), context.threads);
  }
  return result.finish().release().ptr();
}

Signature<2> signature{"GatherOp", {"x", "out"}, 2, 1};

PyObject* gather_tp_call(PyObject* self, PyObject* args, PyObject* keywords) {
  return translate_exceptions([&]() -> PyObject* {
    const auto* gather = py::handle(self).cast<const Gather*>();
    const auto values = signature.parse_call(args, keywords);
    return call_gather(*gather, values[0], values[1]);
  });
}

}  // namespace

void register_gather(py::module_& m) {
  py::class_<Gather> gather(m, "GatherOp", "Rows of a stored table by index, as float32.",
                            py::custom_type_setup([](PyHeapTypeObject* heap_type) {
                              heap_type->ht_type.tp_call = gather_tp_call;
                            }));
  gather.def(py::init(&make_gather), py::arg("data"), py::arg("rows"), py::arg("length"),
             py::arg("dtype"), py::arg("scale") = py::none(), py::arg("zero_point") = py::none(),
             py::arg("group_size") = 0);
  signature.intern();
}

}  // namespace octavo
