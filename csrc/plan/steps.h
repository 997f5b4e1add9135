// What the steps of a plan hold, and how each calls its operator.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "ops/conv.h"
#include "ops/copy.h"
#include "ops/elementwise.h"
#include "ops/eltwise.h"
#include "ops/linear.h"
#include "ops/pooling.h"

namespace octavo {

// Copying a value costs about as much as this many multiply-accumulates.
constexpr int64_t kMacsPerCopiedValue = 8;

class CopyStep {
 public:
  CopyStep(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
           int64_t value_bytes)
      : copy_(shape, strides, value_bytes) {}
  bool run(void* const* v, const KernelTable& table, int threads) const {
    copy_.run(table, v[0], v[1], threads);
    return true;
  }

 private:
  StridedCopy copy_;
};

// a + b or a * b of codes. `args` without its arrays.
struct PairStep {
  AddArgs args;
  Broadcast shapes;
  bool is_add;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    AddArgs here = args;
    here.a = static_cast<const uint8_t*>(v[0]);
    here.b = static_cast<const uint8_t*>(v[1]);
    here.y = static_cast<uint8_t*>(v[2]);
    run_pairs(table, is_add ? table.eltwise->add : table.eltwise->multiply, here, shapes, threads);
    return true;
  }
};

struct LookupStep {
  int64_t count;
  std::array<uint8_t, 256> codes;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_lookup(table, static_cast<const uint8_t*>(v[0]), count, codes.data(),
               static_cast<uint8_t*>(v[1]), threads);
    return true;
  }
};

// One part of a concatenation: rows of `count` bytes to `offset` of rows of y.
struct PlaceStep {
  int64_t rows, count, offset, y_stride;
  bool has_table;
  std::array<uint8_t, 256> codes;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_place(table, static_cast<const uint8_t*>(v[0]), rows, count,
              has_table ? codes.data() : nullptr, static_cast<uint8_t*>(v[1]) + offset, y_stride,
              threads);
    return true;
  }
};

// The operators themselves belong to whoever made the plan.
struct ConvStep {
  const Conv* conv;
  Conv::Shape shape;
  bool is_float;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    const bool has_residual = conv->spec().has_residual;
    return conv->run({v[0], is_float, shape},
                     has_residual ? static_cast<const uint8_t*>(v[1]) : nullptr,
                     v[has_residual ? 2 : 1], table, threads);
  }
};

struct LinearStep {
  const Linear* linear;
  bool is_float;
  int64_t rows;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    const LinearInput x{v[0], is_float, rows, linear->in_features(), 1};
    return linear->run(x, v[1], linear->out_features(), table, threads);
  }
};

// FloatLinear or GroupedLinear.
template <class Op>
struct FloatRowsStep {
  const Op* linear;
  int64_t rows;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    linear->run(static_cast<const float*>(v[0]), rows, linear->in_features(),
                static_cast<float*>(v[1]), linear->out_features(), table, threads);
    return true;
  }
};

// A scale and a zero point for each channel of the layout.
struct CodesParameters {
  ChannelLayout layout;
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
  bool is_signed;
};

struct QuantizeStep {
  CodesParameters p;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_quantize(table, static_cast<const float*>(v[0]), p.layout, p.scale.data(),
                 p.zero_point.data(), p.is_signed, p.is_signed ? -128 : 0, p.is_signed ? 127 : 255,
                 static_cast<uint8_t*>(v[1]), threads);
    return true;
  }
};

struct DequantizeStep {
  CodesParameters p;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_dequantize(table, static_cast<const uint8_t*>(v[0]), p.layout, p.is_signed, p.scale.data(),
                   p.zero_point.data(), static_cast<float*>(v[1]), threads);
    return true;
  }
};

struct MaxPoolStep {
  Images images;
  bool is_signed;
  Window window;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_max_pool(table, static_cast<const uint8_t*>(v[0]), images, is_signed, window,
                 static_cast<uint8_t*>(v[1]), threads);
    return true;
  }
};

struct AveragePoolStep {
  Images images;
  bool is_signed;
  Window window;
  bool count_include_pad;
  AverageArgs average;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_average_pool(table, static_cast<const uint8_t*>(v[0]), images, is_signed, window,
                     count_include_pad, average, static_cast<uint8_t*>(v[1]), threads);
    return true;
  }
};

}  // namespace octavo
