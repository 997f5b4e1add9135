// C = activation(A * B + bias) in float32, B stored as float32 or float16: blocks and threads
// around the kernel.
//
//   for each block of rows of A           (or, where rows are few: for each group of panels)
//     for each part of K that, by a panel of B and the block of A, stays in L2
//       for each panel of B
//         the micro-kernel goes on with the sums that C holds
//
// Every output is one chain of fused multiply-adds over k ascending, however the work is split.
#pragma once

#include <cstdint>

#include "drivers/packed.h"

namespace octavo {

// Float values at any strides, in values: float32, or float16 (binary16).
struct FloatMatrix {
  const void* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;
  bool is_half;
};

// B (k x n) in panels of nr columns, [k][width], the last one narrower; zeros behind column n.
class PackedFloats {
 public:
  PackedFloats(const KernelTable& table, const FloatMatrix& b);
  // In the caller's memory, of as many bytes as bytes_of() says: packed there before, or by fill().
  PackedFloats(const KernelTable& table, int64_t k, int64_t n, bool is_half, void* panels);
  static int64_t bytes_of(const KernelTable& table, int64_t k, int64_t n, bool is_half);
  void fill(const FloatMatrix& b);
  // Rows [0, rows) of columns [0, cols), which are whole panels or all there are: our memory.
  PackedFloats corner(int64_t rows, int64_t cols) const;
  void unpack(void* b, int64_t row_stride, int64_t col_stride) const;
  size_t nbytes() const;

  const KernelTable* table;
  int64_t k, n, padded_n;
  bool is_half;
  int64_t panel_stride;  // values
  int64_t panel_count() const;
  int64_t panel_width(int64_t panel) const;
  // From row `from` of K on.
  const char* panel(int64_t panel, int64_t from) const;

 private:
  AlignedBuffer owned_;
  char* panels_;
};

struct FloatGemm {
  const float* a;
  int64_t m;
  int64_t row_stride;  // in values; values of a row lie side by side
  float* c;
  int64_t ldc;
  const float* bias;  // null, or padded_n values
  bool activate;      // clip to [lo, hi]
  float lo, hi;
  bool backwards = false;  // panels of B are taken last to first; see for_panels()
};

void gemm_f32(const FloatGemm& g, const PackedFloats& b, int threads);

}  // namespace octavo
