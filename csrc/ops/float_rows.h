// Float functions, softmax and norms of arrays with any strides, shared out to threads.
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace octavo {

// An array seen as rows: `axes` outer axes, the last one innermost, and n values in a row. Strides
// and steps are in values, or bytes of a boolean mask.
class StridedRows {
 public:
  static constexpr int kMaxAxes = 64;
  struct Steps {
    int64_t x = 0, y = 0, mask = 0;
  };

  StridedRows(int64_t n, const Steps& steps) : n_(n), steps_(steps) {}
  // The next axis inwards. Axes along which one stride reaches all of both become one.
  void add_axis(int64_t length, const Steps& strides);
  // The innermost axis takes the place of rows of one value.
  void lengthen_rows();

  int64_t n() const { return n_; }
  const Steps& steps() const { return steps_; }  // from value to value
  // The innermost axis: how many rows, and from row to row.
  int64_t inner() const { return axes_ > 0 ? shape_[axes_ - 1] : 1; }
  Steps inner_strides() const { return axes_ > 0 ? strides_[axes_ - 1] : Steps{}; }
  int64_t count() const;  // of rows
  // Calls body(offsets, strides, rows) for rows [first, last), in runs along the innermost axis.
  template <class Body>
  void for_each_run(int64_t first, int64_t last, const Body& body) const {
    while (first < last) {
      int64_t rows = inner() - first % inner();
      if (rows > last - first) rows = last - first;
      body(offsets(first), inner_strides(), rows);
      first += rows;
    }
  }

 private:
  Steps offsets(int64_t row) const;

  int axes_ = 0;
  int64_t shape_[kMaxAxes];
  Steps strides_[kMaxAxes];
  int64_t n_;
  Steps steps_;
};

// None of these copies more than some rows at a time, in scratch, where values lie apart.
void run_float_function(const KernelTable& table, FloatFunction function, StridedRows rows,
                        const float* x, float* y, int threads);

enum class RowFunction { kSoftmax, kLayerNorm, kRmsNorm };

// 8-bit codes in place of float32 results, rows side by side: by one scale and zero point, or
// (uint8) each row by its own range, which is then written for it.
struct RowCodes {
  uint8_t* q;
  bool is_signed;
  float scale;
  int32_t zero_point;
  float* row_scale;  // null: one for all
  int32_t* row_zero_point;
};

// `args` holds what belongs to all rows; the residual and its sum are rows side by side. Weights
// and bias go through `groups` sets of n / run values each, row by row. `codes`: null, or where
// results go instead of args.y.
void run_rows(const KernelTable& table, RowFunction function, const StridedRows& rows,
              const FloatRowsArgs& args, const RowCodes* codes, int64_t groups, int threads);

}  // namespace octavo
