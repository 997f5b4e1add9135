#include "bindings/indices.h"

#include "runtime/aligned_buffer.h"

namespace octavo {
namespace {

template <class T>
void copy_checked(const T* from, int64_t count, const char* name, int64_t rows, int64_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<int64_t>(from[i]);
    if (index < 0 || index >= rows)
      raise_value(name, " holds ", index, ", expected at least 0 and below the number of rows, ",
                  rows);
    to[i] = index;
  }
}

}  // namespace

const int64_t* checked_indices(const ArrayView& indices, const char* name, int64_t rows) {
  const Type type = type_of(indices);
  if (type != Type::kInt32 && type != Type::kInt64)
    raise_type(name, " must be int32 or int64, got ", dtype_name(indices));
  const py::array values = contiguous(indices, type);
  const int64_t count = indices.size();
  auto* checked = static_cast<int64_t*>(
      scratch(ScratchSlot::kColumns, static_cast<size_t>(count) * sizeof(int64_t)));
  if (type == Type::kInt32)
    copy_checked(static_cast<const int32_t*>(values.data()), count, name, rows, checked);
  else
    copy_checked(static_cast<const int64_t*>(values.data()), count, name, rows, checked);
  return checked;
}

}  // namespace octavo
