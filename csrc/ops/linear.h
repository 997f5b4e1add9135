// y = activation(x * w^T + bias) with 8-bit weights (DESIGN section 4, rules 3 to 6): prepared
// once, run many times, from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ops/epilogue.h"

namespace octavo {

struct LinearSpec {
  ByteMatrix w;  // out_features x in_features
  EpilogueSpec epilogue;
  int32_t x_zero_point;
  bool x_is_signed;
};

struct LinearInput {
  const void* data;
  bool is_float;
  int64_t rows;
  int64_t row_stride, k_stride;  // in values; k_stride is 1 for float32
  // Codes of a dynamic operator: what quantizing each row by its own range gave.
  const float* row_scale = nullptr;
  const int32_t* row_zero_point = nullptr;
  bool backwards = false;  // as GemmA's
};

class Linear {
 public:
  // Throws std::invalid_argument where the specification makes no sense.
  static std::unique_ptr<Linear> prepare(const LinearSpec& spec, const KernelTable& table,
                                         int threads);

  // False if an int32 result does not fit.
  bool run(const LinearInput& x, void* out, int64_t ldo, const KernelTable& table,
           int threads) const;

  int64_t in_features() const { return weights_.rows(); }
  int64_t out_features() const { return weights_.cols(); }
  bool is_dynamic() const { return is_dynamic_; }
  bool x_is_signed() const { return x_is_signed_; }
  OutputKind output() const { return epilogue_.output(); }
  const PackedMatrix& weights() const { return weights_; }
  const char* isa() const { return weights_.isa(); }
  size_t nbytes() const;

 private:
  Linear(const LinearSpec& spec, const KernelTable& table, int threads);
  // Packs the form and the start values that `table` needs, once.
  void prepare_form(const KernelTable& table) const;

  struct Start {
    explicit Start(int64_t n) : values(static_cast<size_t>(n)) {}
    std::vector<int32_t> values;
  };

  PackedMatrix weights_;  // as in_features x out_features
  Epilogue epilogue_;
  bool is_dynamic_, x_is_signed_;
  float x_scale_;
  int32_t x_zero_point_;
  PerTable<Start> start_;
};

}  // namespace octavo
