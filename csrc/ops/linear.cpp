#include "ops/linear.h"

#include <algorithm>

#include "runtime/aligned_buffer.h"
#include "runtime/thread_pool.h"

namespace octavo {

std::unique_ptr<Linear> Linear::prepare(const LinearSpec& spec, const KernelTable& table,
                                        int threads) {
  return std::unique_ptr<Linear>(new Linear(spec, table, threads));
}

Linear::Linear(const LinearSpec& spec, const KernelTable& table, int threads)
    : weights_(table,
               ByteMatrix{spec.w.data, spec.w.cols, spec.w.rows, spec.w.col_stride,
                          spec.w.row_stride, spec.w.is_signed},
               threads),
      epilogue_(spec.epilogue),
      is_dynamic_(spec.epilogue.is_dynamic),
      x_is_signed_(spec.x_is_signed),
      x_scale_(spec.epilogue.x_scale),
      x_zero_point_(spec.x_zero_point) {
  prepare_form(table);
}

void Linear::prepare_form(const KernelTable& table) const {
  const PackedB& b = weights_.form(&table);
  if (is_dynamic_) return;
  start_.get(&table, [&] {
    auto start = std::make_unique<Start>(b.padded_n);
    column_start(b, stored_a_zero_point(table, x_is_signed_, x_zero_point_), epilogue_.bias_s32(),
                 start->values.data());
    return start;
  });
}

size_t Linear::nbytes() const {
  const auto starts = is_dynamic_ ? 0 : static_cast<size_t>(weights_.cols());
  return weights_.nbytes() + epilogue_.nbytes() + sizeof(int32_t) * starts;
}

bool Linear::run(const LinearInput& x, void* out, int64_t ldo, const KernelTable& table,
                 int threads) const {
  const PackedB& b = weights_.form(&table);
  const int32_t* start = nullptr;
  if (!is_dynamic_) {
    prepare_form(table);
    start = start_.get(&table, [] { return std::unique_ptr<Start>(); }).values.data();
  }

  GemmA a{};
  a.kind = !x.is_float   ? GemmA::Kind::kBytes
           : is_dynamic_ ? GemmA::Kind::kQuantizeRows
                         : GemmA::Kind::kQuantize;
  a.data = x.data;
  a.m = x.rows;
  a.row_stride = x.row_stride;
  a.k_stride = x.k_stride;
  a.is_signed = !is_dynamic_ && x_is_signed_;
  a.zero_point = x.row_scale ? x.row_zero_point : &x_zero_point_;
  a.zero_point_step = x.row_scale ? 1 : 0;
  a.scale = x_scale_;
  a.backwards = x.backwards;
  a.row_scale = x.row_scale;

  GemmC c{};
  c.data = out;
  c.ldc = ldo;
  epilogue_.fill(c);
  if (!is_dynamic_ || !epilogue_.is_codes()) return gemm(a, b, c, start, threads);
  // Dynamic input, integer output: the float32 result, then rule 1, a few rows at a time.
  constexpr int64_t kRows = 256;
  const int64_t n = b.n;
  const bool is_signed = epilogue_.output() == OutputKind::kS8;
  const float scale = epilogue_.out_scale();
  const int32_t zero_point = epilogue_.out_zero_point();
  c.ldc = n;
  for (int64_t first = 0; first < x.rows; first += kRows) {
    const int64_t rows = std::min(kRows, x.rows - first);
    auto* real = static_cast<float*>(
        scratch(ScratchSlot::kOutput, static_cast<size_t>(rows * n) * sizeof(float)));
    c.data = real;
    a.data = static_cast<const char*>(x.data) + first * x.row_stride * (x.is_float ? 4 : 1);
    a.m = rows;
    if (x.row_scale) {
      a.row_scale = x.row_scale + first;
      a.zero_point = x.row_zero_point + first;
    }
    gemm(a, b, c, start, threads);
    parallel_for(static_cast<int>(rows), rows * n > 65536 ? threads : 1, [&](int i) {
      table.quantize->quantize(real + i * n, n, &scale, 0, &zero_point, 0, is_signed,
                               static_cast<uint8_t*>(out) + (first + i) * ldo);
    });
  }
  return true;
}

}  // namespace octavo
