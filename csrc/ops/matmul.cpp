#include "ops/matmul.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "runtime/aligned_buffer.h"
#include "runtime/thread_pool.h"

namespace octavo {
namespace {

// The n values of a column array (or its one value n times), padded.
template <class T>
const T* pad(const T* values, int64_t step, int64_t n, int64_t padded, T* out) {
  if (!values) return nullptr;
  for (int64_t i = 0; i < n; ++i) out[i] = values[i * step];
  for (int64_t i = n; i < padded; ++i) out[i] = T{0};
  return out;
}

bool run_item(const MatmulItem& item, const MatmulEpilogue& epilogue, const KernelTable& table,
              int threads) {
  PackedB local;
  const PackedB* b = item.packed;
  if (!b) {
    local = plan_packed(table, item.b.rows, item.b.cols, item.b.is_signed);
    const size_t panels = panel_bytes(local);
    char* memory = static_cast<char*>(scratch(ScratchSlot::kB, panels + column_bytes(local)));
    local = pack_into(table, item.b, reinterpret_cast<int8_t*>(memory),
                      reinterpret_cast<int32_t*>(memory + panels), threads);
    b = &local;
  }
  const int64_t n = b->n, padded = b->padded_n;
  char* memory = static_cast<char*>(
      scratch(ScratchSlot::kOutput, static_cast<size_t>(padded) * 4 * sizeof(float)));
  auto* bias = reinterpret_cast<int32_t*>(memory);
  auto* zero = bias + padded;
  auto* multiplier = reinterpret_cast<float*>(zero + padded);
  auto* bias_f32 = multiplier + padded;

  GemmC c{};
  c.type = epilogue.type;
  c.data = item.c;
  c.ldc = item.ldc;
  c.bias_s32 = pad(epilogue.bias_s32, epilogue.bias_step, n, padded, bias);
  for (int64_t i = 0; c.bias_s32 && i < n; ++i)
    c.max_abs_bias = std::max(c.max_abs_bias, std::abs(int64_t{c.bias_s32[i]}));
  c.multiplier = pad(epilogue.multiplier, epilogue.multiplier_step, n, padded, multiplier);
  c.bias_f32 = pad(epilogue.bias_f32, epilogue.bias_step, n, padded, bias_f32);
  c.activate = epilogue.activate;
  c.lo = epilogue.lo;
  c.hi = epilogue.hi;
  c.zero_point = epilogue.zero_point;
  // uint8 is stored 128 lower.
  const int32_t shift = b->is_signed ? 0 : 128;
  if (item.b_zero_point_step || *item.b_zero_point != shift) {
    c.b_zero_point = pad(item.b_zero_point, item.b_zero_point_step, n, padded, zero);
    for (int64_t i = 0; i < n; ++i) zero[i] -= shift;
  }

  GemmA a{};
  a.kind = GemmA::Kind::kBytes;
  a.data = item.a.data;
  a.m = item.a.rows;
  a.row_stride = item.a.row_stride;
  a.k_stride = item.a.col_stride;
  a.is_signed = item.a.is_signed;
  a.zero_point = item.a_zero_point;
  a.zero_point_step = item.a_zero_point_step;
  return gemm(a, *b, c, nullptr, threads);
}

}  // namespace

bool run_matmul(const MatmulItem* items, int64_t count, const MatmulEpilogue& epilogue,
                const KernelTable& table, int threads) {
  if (count == 1) return run_item(items[0], epilogue, table, threads);
  // Whole products are shared out where there are enough of them.
  const bool share = count >= threads;
  std::atomic<bool> fits{true};
  parallel_for(static_cast<int>(count), share ? threads : 1, [&](int i) {
    if (!run_item(items[i], epilogue, table, share ? 1 : threads))
      fits.store(false, std::memory_order_relaxed);
  });
  return fits.load();
}

}  // namespace octavo
