#include "ops/float_linear.h"

#include "drivers/sizes.h"

namespace octavo {

std::unique_ptr<FloatLinear> FloatLinear::prepare(const FloatLinearSpec& spec,
                                                  const KernelTable& table) {
  return std::unique_ptr<FloatLinear>(new FloatLinear(spec, table));
}

FloatLinear::FloatLinear(const FloatLinearSpec& spec, const KernelTable& table)
    : k_(spec.w.cols),
      n_(spec.w.rows),
      is_half_(spec.w.is_half),
      activate_(spec.activate),
      lo_(spec.lo),
      hi_(spec.hi) {
  if (spec.bias) {
    bias_.assign(spec.bias, spec.bias + n_);
    bias_.resize(static_cast<size_t>(n_ + kColumnPadding), 0.0f);
  }
  const FloatMatrix w = {spec.w.data, k_, n_, spec.w.col_stride, spec.w.row_stride, spec.w.is_half};
  forms_.get(&table, [&] { return std::make_unique<PackedFloats>(table, w); });
}

void FloatLinear::run(const float* x, int64_t rows, int64_t row_stride, float* out, int64_t ldo,
                      const KernelTable& table, int threads, bool backwards) const {
  const PackedFloats& b = forms_.get(&table, [&] {
    std::vector<char> plain(static_cast<size_t>(k_ * n_ * (is_half_ ? 2 : 4) + 1));
    unpack(plain.data());
    return std::make_unique<PackedFloats>(table,
                                          FloatMatrix{plain.data(), k_, n_, 1, k_, is_half_});
  });
  const FloatGemm g = {
      x,         rows, row_stride, out,      ldo, bias_.empty() ? nullptr : bias_.data(),
      activate_, lo_,  hi_,        backwards};
  gemm_f32(g, b, threads);
}

}  // namespace octavo
