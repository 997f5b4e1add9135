#include "ops/float_pairs.h"

#include <cmath>

#include "ops/runs.h"
#include "runtime/trace.h"

namespace octavo {

void run_float_pairs(const KernelTable& table, FloatPair pair, const float* a, const float* b,
                     float* y, const Broadcast& shapes, int threads) {
  note_kernel(table, "combine_f32", "elementwise", 1, shapes.size(), 1, threads);
  if (shapes.size() == 0) return;
  const int inner = shapes.axes() - 1;
  const int64_t length = shapes.length(inner), rows = shapes.size() / length;
  const int64_t a_step = shapes.a_step(inner), b_step = shapes.b_step(inner);
  for_each_run(rows, length, threads, [&](int64_t row, int64_t from, int64_t count) {
    int64_t a_at = from * a_step, b_at = from * b_step;
    for (int64_t i = inner - 1, index = row; i >= 0; --i) {
      const int axis = static_cast<int>(i);
      a_at += index % shapes.length(axis) * shapes.a_step(axis);
      b_at += index % shapes.length(axis) * shapes.b_step(axis);
      index /= shapes.length(axis);
    }
    table.float_pairs->combine(
        pair, {a + a_at, b + b_at, y + row * length + from, count, a_step == 0, b_step == 0});
  });
}

void run_clip(const KernelTable& table, const float* x, int64_t count, float lo, float hi, float* y,
              int threads) {
  note_kernel(table, "clip_f32", "elementwise", 1, count, 1, threads);
  for_each_run(1, count, threads, [&](int64_t, int64_t from, int64_t n) {
    table.float_pairs->clip(x + from, n, lo, hi, y + from);
  });
}

void run_square_root(const KernelTable& table, const float* x, int64_t count, float* y,
                     int threads) {
  note_kernel(table, "sqrt_f32", "elementwise", 1, count, 1, threads);
  for_each_run(1, count, threads, [&](int64_t, int64_t from, int64_t n) {
    for (int64_t i = from; i < from + n; ++i) y[i] = std::sqrt(x[i]);
  });
}

}  // namespace octavo
