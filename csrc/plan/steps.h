// What the steps of a plan hold, and how each calls its operator.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ops/conv.h"
#include "ops/copy.h"
#include "ops/elementwise.h"
#include "ops/eltwise.h"
#include "ops/float_matmul.h"
#include "ops/float_pairs.h"
#include "ops/float_pooling.h"
#include "ops/float_rows.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/pooling.h"
#include "ops/recurrent.h"
#include "ops/resize.h"

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

struct FloatMaxPoolStep {
  Images images;
  Window window;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_float_max_pool(table, static_cast<const float*>(v[0]), images, window,
                       static_cast<float*>(v[1]), threads);
    return true;
  }
};

struct FloatAveragePoolStep {
  Images images;
  Window window;
  bool count_include_pad;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_float_average_pool(table, static_cast<const float*>(v[0]), images, window,
                           count_include_pad, static_cast<float*>(v[1]), threads);
    return true;
  }
};

struct FloatMeanStep {
  Images images;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_float_mean(table, static_cast<const float*>(v[0]), images, static_cast<float*>(v[1]),
                   threads);
    return true;
  }
};

// Values of any width: `images` counts their bytes as channels.
struct NearestStep {
  Images images;
  std::vector<int64_t> rows, columns;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_resize_nearest(table, static_cast<const uint8_t*>(v[0]), images, rows, columns, nullptr,
                       static_cast<uint8_t*>(v[1]), threads);
    return true;
  }
};

struct FloatPairStep {
  FloatPair pair;
  Broadcast shapes;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_float_pairs(table, pair, static_cast<const float*>(v[0]), static_cast<const float*>(v[1]),
                    static_cast<float*>(v[2]), shapes, threads);
    return true;
  }
};

struct ClipStep {
  int64_t count;
  float lo, hi;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_clip(table, static_cast<const float*>(v[0]), count, lo, hi, static_cast<float*>(v[1]),
             threads);
    return true;
  }
};

struct SquareRootStep {
  int64_t count;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_square_root(table, static_cast<const float*>(v[0]), count, static_cast<float*>(v[1]),
                    threads);
    return true;
  }
};

struct FloatFunctionStep {
  FloatFunction function;
  StridedRows rows;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    run_float_function(table, function, rows, static_cast<const float*>(v[0]),
                       static_cast<float*>(v[1]), threads);
    return true;
  }
};

// Softmax and norms. Values are x, weight and bias where there are some, y; `args` without them.
struct RowsStep {
  RowFunction function;
  StridedRows rows;
  FloatRowsArgs args;
  bool has_weight, has_bias;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    FloatRowsArgs here = args;
    here.x = static_cast<const float*>(*v++);
    if (has_weight) here.weight = static_cast<const float*>(*v++);
    if (has_bias) here.bias = static_cast<const float*>(*v++);
    here.y = static_cast<float*>(*v);
    run_rows(table, function, rows, here, nullptr, 1, threads);
    return true;
  }
};

// Products of codes, a batch of them. Items hold everything but where a, b and c are: that is
// offsets from the memory of each.
struct MatmulStep {
  struct Offsets {
    int64_t a, b, c;
  };
  std::vector<MatmulItem> items;
  std::vector<Offsets> offsets;
  MatmulEpilogue epilogue;  // its arrays and those of items are here
  float multiplier;
  int32_t a_zero_point, b_zero_point;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    std::vector<MatmulItem> here = items;
    for (size_t i = 0; i < here.size(); ++i) {
      here[i].a.data = static_cast<const uint8_t*>(v[0]) + offsets[i].a;
      here[i].b.data = static_cast<const uint8_t*>(v[1]) + offsets[i].b;
      here[i].c = static_cast<char*>(v[2]) + offsets[i].c;
      here[i].a_zero_point = &a_zero_point;
      here[i].b_zero_point = &b_zero_point;
    }
    MatmulEpilogue shared = epilogue;
    shared.multiplier = &multiplier;
    return run_matmul(here.data(), static_cast<int64_t>(here.size()), shared, table, threads);
  }
};

// Products of float32 matrices, a batch of them.
struct FloatMatmulStep {
  FloatMatmulShape shape;
  std::vector<MatmulStep::Offsets> offsets;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    std::vector<FloatMatmulItem> items;
    items.reserve(offsets.size());
    const auto at = [&](int value, int64_t offset) {
      return reinterpret_cast<float*>(static_cast<char*>(v[value]) + offset);
    };
    for (const MatmulStep::Offsets& o : offsets)
      items.push_back({at(0, o.a), at(1, o.b), at(2, o.c)});
    run_float_matmul(items.data(), static_cast<int64_t>(items.size()), shape, table, threads);
    return true;
  }
};

// LSTM or GRU. Values are x, the states before where there are some, the sequence, the states
// after.
struct RecurrentStep {
  const Recurrent* op;
  RecurrentCall call;  // without arrays
  int64_t state_size;
  bool has_h, has_c;

  bool run(void* const* v, const KernelTable& table, int threads) const {
    RecurrentCall here = call;
    here.x = static_cast<const float*>(*v++);
    const void* h = has_h ? *v++ : nullptr;
    const void* c = has_c ? *v++ : nullptr;
    here.y = static_cast<float*>(v[0]);
    here.h = static_cast<float*>(v[1]);
    here.c = op->is_lstm() ? static_cast<float*>(v[2]) : here.h;
    const auto start = [&](float* state, const void* from) {
      const auto bytes = static_cast<size_t>(state_size) * sizeof(float);
      if (bytes == 0) return;
      if (from)
        std::memcpy(state, from, bytes);
      else
        std::memset(state, 0, bytes);
    };
    start(here.h, h);
    if (op->is_lstm()) start(here.c, c);
    op->run(here, table, threads);
    return true;
  }
};

}  // namespace octavo
