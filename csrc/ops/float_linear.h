// y = activation(x * w^T + bias) with float32 or float16 weights, in float32 (DESIGN section 4,
// rule 9): prepared once, run many times, from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "drivers/gemm_f32.h"

namespace octavo {

struct FloatLinearSpec {
  FloatMatrix w;      // out_features x in_features
  const float* bias;  // null: none
  bool activate;
  float lo, hi;
};

class FloatLinear {
 public:
  static std::unique_ptr<FloatLinear> prepare(const FloatLinearSpec& spec,
                                              const KernelTable& table);

  // Values of a row of x lie side by side, rows row_stride values apart.
  // `backwards`: as FloatGemm's.
  void run(const float* x, int64_t rows, int64_t row_stride, float* out, int64_t ldo,
           const KernelTable& table, int threads, bool backwards = false) const;

  int64_t in_features() const { return k_; }
  int64_t out_features() const { return n_; }
  bool is_half() const { return is_half_; }
  const char* isa() const { return forms_.any()->table->info->name; }
  size_t nbytes() const { return forms_.any()->nbytes() + bias_.size() * sizeof(float); }
  void unpack(void* w) const { forms_.any()->unpack(w, 1, k_); }  // as given, rows side by side

 private:
  FloatLinear(const FloatLinearSpec& spec, const KernelTable& table);

  int64_t k_, n_;
  bool is_half_, activate_;
  float lo_, hi_;
  std::vector<float> bias_;  // padded for every table; empty: none
  PerTable<PackedFloats> forms_;
};

}  // namespace octavo
