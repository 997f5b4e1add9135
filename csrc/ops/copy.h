// A strided array brought to C order: transposed, cut, spread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/table.h"

namespace octavo {

// Values of 1, 2, 4 or 8 bytes, strides in bytes.
class StridedCopy {
 public:
  // Neighbouring axes that one stride reaches all of become one.
  StridedCopy(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
              int64_t value_bytes);

  int64_t bytes() const;  // of the copy
  void run(const KernelTable& table, const void* x, void* y, int threads) const;

 private:
  struct Axis {
    int64_t length, x_stride, y_stride;
  };
  // The axes around what one task does: offsets of their index `i`.
  void offsets(int64_t i, int64_t* x, int64_t* y) const;

  std::vector<Axis> outer_;
  Axis rows_{1, 0, 0}, inner_{1, 0, 0};  // inner_ lies side by side in y; of rows_ x may do so
  int64_t value_bytes_;
};

}  // namespace octavo
