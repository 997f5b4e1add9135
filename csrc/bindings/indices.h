// Indices of rows, checked before any work.
#pragma once

#include <cstdint>

#include "bindings/ndarray.h"

namespace octavo {

// The values of an int32 or int64 array, in C order, all in [0, rows): a copy in scratch of the
// calling thread (ScratchSlot::kColumns), which nobody can change once it was checked.
const int64_t* checked_indices(const ArrayView& indices, const char* name, int64_t rows);

}  // namespace octavo
