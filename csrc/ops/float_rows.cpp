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
// Values of the rows that become codes together: they stay in L1.
constexpr int64_t kCoded = 4096;
// Columns that fill the vectors of every table.
constexpr int64_t kColumns = 64;

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
    FloatRowsArgs part = gathered(at, strides, rows);
    part.y = args_.y + at.y;
    part.y_stride = strides.y;
    if (steps_.y == 1) return kernel(part);
    through_scratch(part, kernel);
    copy_rows(part.y, n_, 1, args_.y + at.y, strides.y, steps_.y, rows, n_);
  }

  // The same, to codes of rows [row, row + rows).
  template <class Kernel>
  void run_to_codes(const KernelTable& table, const RowCodes& codes, int64_t row,
                    const StridedRows::Steps& at, const StridedRows::Steps& strides, int64_t rows,
                    const Kernel& kernel) const {
    FloatRowsArgs part = gathered(at, strides, rows);
    through_scratch(part, kernel);
    uint8_t* q = codes.q + row * n_;
    if (codes.row_scale)
      table.quantize->quantize_rows(part.y, n_, rows, n_, q, n_, codes.row_scale + row,
                                    codes.row_zero_point + row);
    else
      table.quantize->quantize(part.y, rows * n_, &codes.scale, 0, &codes.zero_point, 0,
                               codes.is_signed, q);
  }

  bool gathers() const {
    return steps_.x != 1 || steps_.y != 1 || ((args_.mask || args_.keep) && steps_.mask != 1);
  }

 private:
  FloatRowsArgs gathered(const StridedRows::Steps& at, const StridedRows::Steps& strides,
                         int64_t rows) const {
    FloatRowsArgs part = args_;
    part.n = n_;
    part.rows = rows;
    part.x =
        gathered(args_.x + at.x, strides.x, steps_.x, rows, ScratchSlot::kLayoutIn, &part.x_stride);
    if (args_.mask)
      part.mask = gathered(args_.mask + at.mask, strides.mask, steps_.mask, rows,
                           ScratchSlot::kRows, &part.mask_stride);
    if (args_.keep)
      part.keep = gathered(args_.keep + at.mask, strides.mask, steps_.mask, rows,
                           ScratchSlot::kRows, &part.mask_stride);
    return part;
  }

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

  template <class Kernel>
  void through_scratch(FloatRowsArgs& part, const Kernel& kernel) const {
    part.y = room<float>(ScratchSlot::kLayoutOut, part.rows * n_);
    part.y_stride = n_;
    kernel(part);
  }

  int64_t n_;
  StridedRows::Steps steps_;
  FloatRowsArgs args_;
};

// Whether neighbours lie side by side where values of a row do not.
bool is_columns(const StridedRows& rows, const FloatRowsArgs& args) {
  const StridedRows::Steps steps = rows.steps(), inner = rows.inner_strides();
  const bool masks = args.mask || args.keep;
  return (steps.x != 1 || steps.y != 1) && inner.x == 1 && inner.y == 1 &&
         (!masks || inner.mask == 0 || inner.mask == 1);
}

void run_columns(const KernelTable& table, const StridedRows& rows, FloatRowsArgs args,
                 int threads) {
  args.n = rows.n();
  args.x_stride = rows.steps().x;
  args.y_stride = rows.steps().y;
  args.mask_stride = rows.steps().mask;
  args.mask_is_shared = rows.inner_strides().mask == 0;
  const int64_t inner = rows.inner();
  const int64_t whole = std::max<int64_t>(1, kTaskValues / args.n / kColumns) * kColumns;
  const int64_t width = std::min(inner, whole), pieces = (inner + width - 1) / width;
  for_each_group(rows.count() / inner * pieces, width * args.n, threads,
                 [&](int64_t first, int64_t last) {
                   for (int64_t task = first; task < last; ++task) {
                     const int64_t from = task % pieces * width;
                     const int64_t row = task / pieces * inner + from;
                     rows.for_each_run(
                         row, row + std::min(width, inner - from),
                         [&](const StridedRows::Steps& at, const StridedRows::Steps&, int64_t n) {
                           FloatRowsArgs part = args;
                           part.rows = n;
                           part.x += at.x;
                           part.y += at.y;
                           if (part.mask) part.mask += at.mask;
                           if (part.keep) part.keep += at.mask;
                           table.float_rows->softmax_columns(part);
                         });
                   }
                 });
}

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
              const FloatRowsArgs& args, const RowCodes* codes, int64_t groups, int threads) {
  const FloatRowsKernels& kernels = *table.float_rows;
  const auto run = function == RowFunction::kSoftmax     ? kernels.softmax
                   : function == RowFunction::kLayerNorm ? kernels.layer_norm
                                                         : kernels.rms_norm;
  const char* name = function == RowFunction::kSoftmax     ? "softmax_f32"
                     : function == RowFunction::kLayerNorm ? "layer_norm_f32"
                                                           : "rms_norm_f32";
  const int64_t n = rows.n();
  const bool columns = function == RowFunction::kSoftmax && !codes && is_columns(rows, args);
  note_kernel(table, name, columns ? "columns" : "rows", rows.count(), n, 1, threads);
  if (n == 0) return;
  if (columns) return run_columns(table, rows, args, threads);
  for_each_group(rows.count(), n, threads, [&](int64_t first, int64_t last) {
    const Block block(n, rows.steps(), args);
    const int64_t most = groups > 1        ? 1
                         : codes           ? std::max<int64_t>(1, kCoded / n)
                         : block.gathers() ? kGathered
                                           : last - first;
    for (int64_t row = first; row < last;) {
      const int64_t end = std::min(last, row + most);
      rows.for_each_run(
          row, end,
          [&](const StridedRows::Steps& at, const StridedRows::Steps& strides, int64_t count) {
            const auto kernel = [&](FloatRowsArgs part) {
              const int64_t set = row % groups * (n / args.run);
              if (part.weight) part.weight += set;
              if (part.bias) part.bias += set;
              if (part.residual) part.residual += row * n;
              if (part.sum) part.sum += row * n;
              part.residual_stride = part.sum_stride = n;
              run(part);
            };
            if (codes)
              block.run_to_codes(table, *codes, row, at, strides, count, kernel);
            else
              block.run(at, strides, count, kernel);
            row += count;
          });
    }
  });
}

}  // namespace octavo
