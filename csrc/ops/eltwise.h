// Elementwise operators on 8-bit tensors in C order (DESIGN section 4, rules 4 and 8).
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace octavo {

// Two shapes broadcast against each other as NumPy does, with neighbouring axes joined where both
// operands run through them alike.
class Broadcast {
 public:
  static constexpr int kMaxAxes = 64;  // NumPy's own limit

  // Shapes of the same number of axes; an axis of one of them may be 1 where the other's is not.
  Broadcast(int axes, const int64_t* a_shape, const int64_t* b_shape);

  int64_t size() const { return size_; }
  // From the outermost axis on; a step of 0 where the operand has one value for the whole axis.
  int axes() const { return axes_; }
  int64_t length(int axis) const { return length_[axis]; }
  int64_t a_step(int axis) const { return a_step_[axis]; }
  int64_t b_step(int axis) const { return b_step_[axis]; }

 private:
  friend void run_pairs(const KernelTable&, void (*)(const AddArgs&), AddArgs, const Broadcast&,
                        int);
  int axes_ = 0;  // at least 1
  int64_t size_ = 1;
  int64_t length_[kMaxAxes], a_step_[kMaxAxes], b_step_[kMaxAxes];
};

// kernel: table.eltwise->add or ->multiply, both of which may have their operands swapped if the
// zero points, signs and (for add) scales are swapped too. `args` holds all but count and b_is_one.
void run_pairs(const KernelTable& table, void (*kernel)(const AddArgs&), AddArgs args,
               const Broadcast& shapes, int threads);

// y[i] = table_of_codes[x[i]]
void run_lookup(const KernelTable& table, const uint8_t* x, int64_t count,
                const uint8_t* table_of_codes, uint8_t* y, int threads);

// `rows` rows of `count` bytes, one after another in x, y_stride bytes apart in y; through a table
// of codes, or (null) as they are.
void run_place(const KernelTable& table, const uint8_t* x, int64_t rows, int64_t count,
               const uint8_t* table_of_codes, uint8_t* y, int64_t y_stride, int threads);

// Index of the first of the greatest values along the middle axis of outer x length x inner codes,
// length > 0.
void run_argmax(const KernelTable& table, const uint8_t* x, int64_t outer, int64_t length,
                int64_t inner, bool is_signed, int64_t* y, int threads);

}  // namespace octavo
