// y = activation(x * w^T + bias) with weights of 4 or 8 bits in groups along K (DESIGN section 4,
// rule 7): prepared once, run many times, from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "drivers/gemm_grouped.h"

namespace octavo {

struct GroupedLinearSpec {
  GroupedWeights w;
  const float* bias;  // null: none
  bool activate;
  float lo, hi;
};

class GroupedLinear {
 public:
  // Throws std::invalid_argument where a group is larger than sums in int32 allow.
  static std::unique_ptr<GroupedLinear> prepare(const GroupedLinearSpec& spec,
                                                const KernelTable& table, int threads);

  // Values of a row of x lie side by side, rows row_stride values apart.
  void run(const float* x, int64_t rows, int64_t row_stride, float* out, int64_t ldo,
           const KernelTable& table, int threads) const;

  int64_t in_features() const { return forms_.any()->k; }
  int64_t out_features() const { return forms_.any()->n; }
  bool is_signed() const { return forms_.any()->is_signed; }
  const char* isa() const { return forms_.any()->table->info->name; }
  size_t nbytes() const { return forms_.any()->nbytes() + bias_.size() * sizeof(float); }
  void unpack(uint8_t* codes) const { forms_.any()->unpack(codes, nullptr, nullptr); }

 private:
  GroupedLinear(const GroupedLinearSpec& spec, const KernelTable& table, int threads);

  int64_t group_size_;
  bool activate_;
  float lo_, hi_;
  std::vector<float> bias_;  // padded for every table; empty: none
  PerTable<PackedGroups> forms_;
};

}  // namespace octavo
