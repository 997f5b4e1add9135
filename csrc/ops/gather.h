// Rows of a stored table by index, as float32: to the bit what dequantizing the whole table and
// taking rows of it gives (DESIGN section 4, rule 2), by the same kernels.
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace octavo {

struct StoredTable {
  // kNibbles: two codes a byte, the low one first, over all values; a row may begin with a high
  // one.
  enum class Kind { kF32, kF16, kBytes, kNibbles };
  Kind kind;
  const void* data;  // rows side by side
  int64_t rows, length;

  // Of codes:
  bool is_signed;
  const float* scale;         // one for all, or one for each group of each row
  const int32_t* zero_point;  // as the scales; null: 0
  int64_t group_size;  // values of a row that share a scale, the last may be fewer; 0: all do
};

// out[i] = row index[i] of the table; each index is in [0, rows).
void run_gather(const KernelTable& kernels, const StoredTable& table, const int64_t* index,
                int64_t count, float* out, int threads);

}  // namespace octavo
