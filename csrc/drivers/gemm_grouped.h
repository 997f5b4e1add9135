// C = epilogue(A * W^T) with weights in groups, float32 in and out: packing, blocks, threads around
// kernels/gemm_grouped.h. Few rows: threads share the panels, and all read the same prepared rows;
// many: each thread prepares its own block of rows and takes every panel.
//
// Every output is one chain over its groups, however the work is split.
#pragma once

#include <cstdint>

#include "drivers/packed.h"

namespace octavo {

// Codes of n x k weights, one a byte, rows side by side. A group's sum must fit int32 whatever the
// activations are, and 16 times half of it where its nibbles are not shifted first.
constexpr int64_t kMaxGroup = 65536;
static_assert(kMaxGroup * 127 * 255 < int64_t{1} << 31, "a group's sum fits int32");
static_assert(kMaxGroup / 2 * 127 * 240 < int64_t{1} << 31, "16 times too large, too");

struct GroupedWeights {
  const uint8_t* codes;
  int64_t n, k;
  bool is_signed;
  int bits;                   // 4 or 8
  int64_t group_size;         // 1 .. ; groups of min(group_size, k) <= kMaxGroup values
  const float* scale;         // n x groups
  const int32_t* zero_point;  // n x groups; null: 0
};

class PackedGroups {
 public:
  PackedGroups(const KernelTable& table, const GroupedWeights& w, int threads);
  void unpack(uint8_t* codes, float* scale, int32_t* zero_point) const;  // null: not wanted
  size_t nbytes() const { return panels_.size(); }
  int64_t panel_count() const;
  int64_t panel_width(int64_t panel) const;
  int64_t panel_bytes(int64_t width) const;
  const uint8_t* panel(int64_t panel) const;

  const KernelTable* table;
  int64_t k, n;
  bool is_signed;
  int bits;
  int64_t group_size, groups;
  int64_t steps, last_steps;  // of 2 kr values
  bool is_half;               // scales are: each of them is one exactly
  bool has_zero;              // stored zero points differ; else all are common_zero
  int32_t common_zero;
  int64_t panel_stride;  // bytes

 private:
  int64_t block_bytes(int64_t width, int64_t steps) const;
  void pack_panel(const GroupedWeights& w, int64_t panel);
  int32_t offset() const;  // stored code less the given one

  AlignedBuffer panels_;
};

struct GroupedGemm {
  const float* a;
  int64_t m;
  int64_t row_stride;  // in values; values of a row lie side by side
  float* c;
  int64_t ldc;
  const float* bias;  // null, or values for every column of every panel
  bool activate;      // clip to [lo, hi]
  float lo, hi;
};

void gemm_grouped(const GroupedGemm& g, const PackedGroups& b, int threads);

}  // namespace octavo
