#include "ops/grouped_linear.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "drivers/sizes.h"

namespace octavo {

std::unique_ptr<GroupedLinear> GroupedLinear::prepare(const GroupedLinearSpec& spec,
                                                      const KernelTable& table, int threads) {
  const int64_t largest = std::min(spec.w.group_size, spec.w.k);
  if (largest > kMaxGroup)
    throw std::invalid_argument("a group has " + std::to_string(largest) +
                                " values, expected at most " + std::to_string(kMaxGroup));
  return std::unique_ptr<GroupedLinear>(new GroupedLinear(spec, table, threads));
}

GroupedLinear::GroupedLinear(const GroupedLinearSpec& spec, const KernelTable& table, int threads)
    : group_size_(spec.w.group_size), activate_(spec.activate), lo_(spec.lo), hi_(spec.hi) {
  if (spec.bias) {
    bias_.assign(spec.bias, spec.bias + spec.w.n);
    bias_.resize(static_cast<size_t>(spec.w.n + kColumnPadding), 0.0f);
  }
  forms_.get(&table, [&] { return std::make_unique<PackedGroups>(table, spec.w, threads); });
}

void GroupedLinear::run(const float* x, int64_t rows, int64_t row_stride, float* out, int64_t ldo,
                        const KernelTable& table, int threads) const {
  const PackedGroups& b = forms_.get(&table, [&] {
    const PackedGroups& other = *forms_.any();
    const auto count = static_cast<size_t>(other.n * other.groups + 1);  // never null
    std::vector<uint8_t> codes(static_cast<size_t>(other.n * other.k + 1));
    std::vector<float> scale(count);
    std::vector<int32_t> zero_point(count);
    other.unpack(codes.data(), scale.data(), zero_point.data());
    return std::make_unique<PackedGroups>(
        table,
        GroupedWeights{codes.data(), other.n, other.k, other.is_signed, other.bits, group_size_,
                       scale.data(), zero_point.data()},
        1);
  });
  const GroupedGemm g = {
      x, rows, row_stride, out, ldo, bias_.empty() ? nullptr : bias_.data(), activate_, lo_, hi_};
  gemm_grouped(g, b, threads);
}

}  // namespace octavo
