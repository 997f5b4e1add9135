#include "ops/float_matmul.h"

#include "drivers/gemm.h"
#include "runtime/aligned_buffer.h"
#include "runtime/thread_pool.h"

namespace octavo {

void run_float_matmul(const FloatMatmulItem* items, int64_t count, const FloatMatmulShape& shape,
                      const KernelTable& table, int threads) {
  const FloatMatmulShape& s = shape;
  const auto run = [&](int64_t i, int share) {
    const auto bytes = PackedFloats::bytes_of(table, s.inner, s.columns, false);
    PackedFloats b(table, s.inner, s.columns, false,
                   scratch(ScratchSlot::kB, static_cast<size_t>(bytes)));
    b.fill({items[i].b, s.inner, s.columns, s.b_row, s.b_column, false});
    gemm_f32({items[i].a, s.rows, s.a_row, items[i].c, s.columns, nullptr, false, 0.0f, 0.0f}, b,
             share);
  };
  // One after another, each shared out, unless there are enough for all threads.
  const int64_t work = count * (s.rows + 1) * s.inner * s.columns;
  if (count < threads || threads_worth(table, work, threads) == 1) {
    for (int64_t i = 0; i < count; ++i) run(i, threads);
    return;
  }
  parallel_for(static_cast<int>(count), threads, [&](int i) { run(i, 1); });
}

}  // namespace octavo
