#include "ops/eltwise.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/runs.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// A kernel call should have as many values as this; where the inner axis has fewer, and one operand
// repeats along the axis outside it, that operand is repeated in memory.
constexpr int64_t kRepeated = 1024;

void swap_operands(AddArgs& args) {
  std::swap(args.a, args.b);
  std::swap(args.a_signed, args.b_signed);
  std::swap(args.a_zero, args.b_zero);
}

}  // namespace

Broadcast::Broadcast(int axes, const int64_t* a_shape, const int64_t* b_shape) {
  for (int i = 0; i < axes; ++i) {
    const int64_t length = a_shape[i] == 1 ? b_shape[i] : a_shape[i];
    size_ *= length;
    if (length == 1) continue;
    const bool a_runs = a_shape[i] != 1, b_runs = b_shape[i] != 1;
    // Steps are flags first, then what one index along the axis skips.
    if (axes_ > 0 && a_step_[axes_ - 1] == a_runs && b_step_[axes_ - 1] == b_runs) {
      length_[axes_ - 1] *= length;
    } else {
      length_[axes_] = length;
      a_step_[axes_] = a_runs;
      b_step_[axes_] = b_runs;
      ++axes_;
    }
  }
  if (axes_ == 0) {
    axes_ = 1;
    length_[0] = a_step_[0] = b_step_[0] = 1;
  }
  int64_t a_skip = 1, b_skip = 1;
  for (int i = axes_ - 1; i >= 0; --i) {
    if (a_step_[i]) {
      a_step_[i] = a_skip;
      a_skip *= length_[i];
    }
    if (b_step_[i]) {
      b_step_[i] = b_skip;
      b_skip *= length_[i];
    }
  }
}

void run_pairs(const KernelTable& table, void (*kernel)(const AddArgs&), AddArgs args,
               const Broadcast& shapes, int threads) {
  const bool is_add = kernel == table.eltwise->add;
  note_kernel(table, is_add ? "add_u8u8" : "multiply_u8u8", "elementwise", 1, shapes.size(), 1,
              threads);
  if (shapes.size() == 0) return;
  int64_t a_step[Broadcast::kMaxAxes], b_step[Broadcast::kMaxAxes];
  std::copy_n(shapes.a_step_, shapes.axes_, a_step);
  std::copy_n(shapes.b_step_, shapes.axes_, b_step);
  int outer = shapes.axes_ - 1;
  // Whichever operand has one value along the inner axis, or one row along the axis outside it, is
  // b.
  const bool a_is_one = a_step[outer] == 0;
  const bool rows_repeat =
      outer > 0 && shapes.length_[outer] * 2 <= kRepeated && !a_is_one && b_step[outer] != 0;
  if (a_is_one || (rows_repeat && a_step[outer - 1] == 0)) {
    swap_operands(args);
    if (is_add) std::swap(args.a_scale, args.b_scale);
    std::swap(a_step, b_step);
  }
  args.b_is_one = b_step[outer] == 0;
  int64_t length = shapes.length_[outer], period = length;
  if (rows_repeat) {
    --outer;
    length *= shapes.length_[outer];
  }
  int64_t rows = 1;
  for (int i = 0; i < outer; ++i) rows *= shapes.length_[i];

  for_each_run(rows, length, threads, [&](int64_t row, int64_t from, int64_t count) {
    AddArgs run = args;
    int64_t a_at = from, b_at = args.b_is_one || period < length ? 0 : from;
    for (int64_t i = outer - 1, index = row; i >= 0; --i) {
      const int64_t at = index % shapes.length_[i];
      index /= shapes.length_[i];
      a_at += at * a_step[i];
      b_at += at * b_step[i];
    }
    run.a += a_at;
    run.b += b_at;
    run.y += row * length + from;
    run.count = count;
    if (period == length) return kernel(run);
    uint8_t repeated[2 * kRepeated];
    const int64_t phase = from % period, block = kRepeated / period * period;
    const int64_t filled = std::min(count, block);
    for (int64_t i = 0; i < filled;) {
      const int64_t at = (phase + i) % period, n = std::min(filled - i, period - at);
      std::memcpy(repeated + i, run.b + at, static_cast<size_t>(n));
      i += n;
    }
    run.b = repeated;
    for (int64_t i = 0; i < count; i += block, run.a += block, run.y += block) {
      run.count = std::min(block, count - i);
      kernel(run);
    }
  });
}

void run_lookup(const KernelTable& table, const uint8_t* x, int64_t count,
                const uint8_t* table_of_codes, uint8_t* y, int threads) {
  note_kernel(table, "lookup_u8u8", "elementwise", 1, count, 1, threads);
  for_each_run(1, count, threads, [&](int64_t, int64_t from, int64_t n) {
    table.eltwise->lookup(x + from, n, table_of_codes, y + from);
  });
}

void run_place(const KernelTable& table, const uint8_t* x, int64_t rows, int64_t count,
               const uint8_t* table_of_codes, uint8_t* y, int64_t y_stride, int threads) {
  note_kernel(table, "place_u8u8", "elementwise", rows, count, 1, threads);
  if (rows == 1) {
    for_each_run(1, count, threads, [&](int64_t, int64_t from, int64_t n) {
      table.eltwise->place(x + from, 1, n, table_of_codes, y + from, 0);
    });
    return;
  }
  for_each_group(rows, count, threads, [&](int64_t first, int64_t last) {
    table.eltwise->place(x + first * count, last - first, count, table_of_codes,
                         y + first * y_stride, y_stride);
  });
}

void run_argmax(const KernelTable& table, const uint8_t* x, int64_t outer, int64_t length,
                int64_t inner, bool is_signed, int64_t* y, int threads) {
  note_kernel(table, "argmax_u8", "columns", outer, inner, length, threads);
  // Runs along columns, so that neighbouring results are found together; a last axis is turned
  // first, `kLength` of it at a time.
  constexpr int64_t kColumns = 256, kLength = 128;
  const bool turns = inner == 1;
  const int64_t columns = turns ? outer : inner, planes = turns ? 1 : outer;
  const int64_t blocks = (columns + kColumns - 1) / kColumns;
  const uint8_t flip = is_signed ? 0x80 : 0;
  for_each_group(planes * blocks, length * std::min(columns, kColumns), threads,
                 [&](int64_t from, int64_t to) {
                   for (int64_t block = from; block < to; ++block) {
                     const int64_t first = block % blocks * kColumns;
                     const int64_t n = std::min(kColumns, columns - first);
                     uint8_t best[kColumns], turned[kLength * kColumns];
                     int32_t index[kColumns];
                     for (int64_t k = 0; k < length; ++k) {
                       const uint8_t* row = x + (block / blocks * length + k) * inner + first;
                       if (turns) {
                         if (k % kLength == 0)
                           table.pack->transpose(x + first * length + k, length, n,
                                                 std::min(kLength, length - k), turned, n);
                         row = turned + k % kLength * n;
                       }
                       if (k == 0) {
                         for (int64_t i = 0; i < n; ++i) {
                           best[i] = row[i] ^ flip;
                           index[i] = 0;
                         }
                       }
                       for (int64_t i = 0; i < n; ++i) {
                         const uint8_t value = row[i] ^ flip;
                         index[i] = value > best[i] ? static_cast<int32_t>(k) : index[i];
                         best[i] = value > best[i] ? value : best[i];
                       }
                     }
                     std::copy_n(index, n, y + (turns ? first : block / blocks * inner + first));
                   }
                 });
}

}  // namespace octavo
