#include "ops/float_rows.h"

#include <algorithm>

#include "ops/runs.h"
#include "runtime/aligned_buffer.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Values of a row that functions of one value take at once where they lie apart.
constexpr int64_t kPiece = 4096;
// Rows that are gathered together: neighbours share cache lines where an inner axis is reduced.
constexpr int64_t kGathered = 16;

template <class T>
T* room(ScratchSlot slot, int64_t count) {
  return static_cast<T*>(scratch(slot, static_cast<size_t>(count) * sizeof(T)));
}

// Rows of n values, `from_stride` and `to_stride` from row to row.
template <class T>
void copy_rows(const T* from, int64_t from_stride, int64_t from_step, T* to, int64_t to_stride,
               int64_t to_step, int64_t rows, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t row = 0; row < rows; ++row)
      to[row * to_stride + k * to_step] = from[row * from_stride + k * from_step];
  }
}

// A block of rows as the kernels take them, values side by side.
class Block {
 public:
  Block(int64_t n, const StridedRows::Steps& steps, const FloatRowsArgs& args)
      : n_(n), steps_(steps), args_(args) {}

  template <class Kernel>
  void run(const StridedRows::Steps& at, const StridedRows::Steps& strides, int64_t rows,
           const Kernel& kernel) const {
    FloatRowsArgs part = args_;
    part.n = n_;
    part.rows = rows;
    part.x =
        gathered(args_.x + at.x, strides.x, steps_.x, rows, ScratchSlot::kLayoutIn, &part.x_stride);
    part.y = args_.y + at.y;
    part.y_stride = strides.y;
    if (args_.mask)
      part.mask = gathered(args_.mask + at.mask, strides.mask, steps_.mask, rows,
                           ScratchSlot::kRows, &part.mask_stride);
    if (args_.keep)
      part.keep = gathered(args_.keep + at.mask, strides.mask, steps_.mask, rows,
                           ScratchSlot::kRows, &part.mask_stride);
    if (steps_.y == 1) return kernel(part);
    part.y = room<float>(ScratchSlot::kLayoutOut, rows * n_);
    part.y_stride = n_;
    kernel(part);
    copy_rows(part.y, n_, 1, args_.y + at.y, strides.y, steps_.y, rows, n_);
  }

  bool gathers() const {
    return steps_.x != 1 || steps_.y != 1 || ((args_.mask || args_.keep) && steps_.mask != 1);
  }

 private:
  template <class T>
  const T* gathered(const T* from, int64_t stride, int64_t step, int64_t rows, ScratchSlot slot,
                    int64_t* new_stride) const {
    *new_stride = stride;
    if (step == 1) return from;
    *new_stride = n_;
    T* to = room<T>(slot, rows * n_);
    copy_rows(from, stride, step, to, n_, 1, rows, n_);
    return to;
  }

  int64_t n_;
  StridedRows::Steps steps_;
  FloatRowsArgs args_;
};

}  // namespace

void StridedRows::add_axis(int64_t length, const Steps& strides) {
  if (length == 1) return;
  const Steps outer = axes_ > 0 ? strides_[axes_ - 1] : Steps{};
  if (axes_ > 0 && outer.x == length * strides.x && outer.y == length * strides.y &&
      outer.mask == length * strides.mask) {
    shape_[axes_ - 1] *= length;
  } else {
    shape_[axes_++] = length;
  }
  strides_[axes_ - 1] = strides;
}

void StridedRows::lengthen_rows() {
  if (axes_ == 0) return;
  --axes_;
  n_ = shape_[axes_];
  steps_ = strides_[axes_];
}

int64_t StridedRows::count() const {
  int64_t count = 1;
  for (int i = 0; i < axes_; ++i) count *= shape_[i];
  return count;
}

StridedRows::Steps StridedRows::offsets(int64_t row) const {
  Steps at;
  for (int i = axes_ - 1; i >= 0; --i) {
    const int64_t index = row % shape_[i];
    row /= shape_[i];
    at.x += index * strides_[i].x;
    at.y += index * strides_[i].y;
    at.mask += index * strides_[i].mask;
  }
  return at;
}

void run_float_function(const KernelTable& table, FloatFunction function, StridedRows rows,
                        const float* x, float* y, int threads) {
  rows.lengthen_rows();
  const int64_t count = rows.count(), n = rows.n();
  const StridedRows::Steps steps = rows.steps();
  note_kernel(table, "function_f32", "elementwise", 1, count * n, 1, threads);
  const auto apply = [&](const FloatRowsArgs& args) {
    table.float_rows->apply(function, args.x, args.n, args.y);
  };
  const auto piece = [&](const StridedRows::Steps& at, int64_t from, int64_t values) {
    const float* x_from = x + at.x + from * steps.x;
    float* y_from = y + at.y + from * steps.y;
    if (steps.x == 1 && steps.y == 1)
      return table.float_rows->apply(function, x_from, values, y_from);
    FloatRowsArgs args{};
    args.x = x_from;
    args.y = y_from;
    for (int64_t k = 0; k < values; k += kPiece) {
      const int64_t some = std::min(kPiece, values - k);
      Block(some, steps, args).run({k * steps.x, k * steps.y, 0}, {}, 1, apply);
    }
  };
  for_each_run(count, n, threads, [&](int64_t row, int64_t from, int64_t values) {
    rows.for_each_run(row, row + 1,
                      [&](const StridedRows::Steps& at, const StridedRows::Steps&, int64_t) {
                        piece(at, from, values);
                      });
  });
}

void run_rows(const KernelTable& table, RowFunction function, const StridedRows& rows,
              const FloatRowsArgs& args, int64_t groups, int threads) {
  const FloatRowsKernels& kernels = *table.float_rows;
  const auto run = function == RowFunction::kSoftmax     ? kernels.softmax
                   : function == RowFunction::kLayerNorm ? kernels.layer_norm
                                                         : kernels.rms_norm;
  const char* name = function == RowFunction::kSoftmax     ? "softmax_f32"
                     : function == RowFunction::kLayerNorm ? "layer_norm_f32"
                                                           : "rms_norm_f32";
  note_kernel(table, name, "rows", rows.count(), rows.n(), 1, threads);
  if (rows.n() == 0) return;
  for_each_group(rows.count(), rows.n(), threads, [&](int64_t first, int64_t last) {
    const Block block(rows.n(), rows.steps(), args);
    const int64_t most = groups > 1 ? 1 : block.gathers() ? kGathered : last - first;
    for (int64_t row = first; row < last; row += most) {
      rows.for_each_run(
          row, std::min(last, row + most),
          [&](const StridedRows::Steps& at, const StridedRows::Steps& strides, int64_t count) {
            block.run(at, strides, count, [&](FloatRowsArgs part) {
              const int64_t set = row % groups * (rows.n() / args.run);
              if (part.weight) part.weight += set;
              if (part.bias) part.bias += set;
              run(part);
            });
          });
    }
  });
}

}  // namespace octavo
