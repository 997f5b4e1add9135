// Elementwise arithmetic of float32 values: one IEEE operation for each, so that every CPU gives
// the same bits. Plain loops: the compiler makes of them what an ISA has.
//
//   combine    a + b, a - b, a * b, a / b
//   clip       v = x > lo ? x : lo; v < hi ? v : hi; NaN for NaN. From 0 on, -0 becomes +0.
//
// y overlaps no operand.
#pragma once

#include <stdint.h>

namespace octavo {

enum class FloatPair : int32_t { kAdd, kSubtract, kMultiply, kDivide };

struct FloatPairArgs {
  const float* a;
  const float* b;
  float* y;
  int64_t count;
  bool a_is_one, b_is_one;  // one value for all
};

struct FloatPairsKernels {
  void (*combine)(FloatPair pair, const FloatPairArgs& args);
  void (*clip)(const float* x, int64_t count, float lo, float hi, float* y);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class Of>
OCTAVO_INLINE void combine_values(const FloatPairArgs& args, const Of& of) {
  const float* a = args.a;
  const float* b = args.b;
  float* __restrict__ y = args.y;
  const int64_t count = args.count;
  if (count == 0) return;
  if (args.a_is_one) {
    const float one = *a;
    if (args.b_is_one) {
      const float value = of(one, *b);
      for (int64_t i = 0; i < count; ++i) y[i] = value;
    } else {
      for (int64_t i = 0; i < count; ++i) y[i] = of(one, b[i]);
    }
  } else if (args.b_is_one) {
    const float one = *b;
    for (int64_t i = 0; i < count; ++i) y[i] = of(a[i], one);
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = of(a[i], b[i]);
  }
}

template <class Isa>
void float_pairs_combine(FloatPair pair, const FloatPairArgs& args) {
  switch (pair) {
    case FloatPair::kAdd:
      return combine_values(args, [](float a, float b) OCTAVO_INLINE_LAMBDA { return a + b; });
    case FloatPair::kSubtract:
      return combine_values(args, [](float a, float b) OCTAVO_INLINE_LAMBDA { return a - b; });
    case FloatPair::kMultiply:
      return combine_values(args, [](float a, float b) OCTAVO_INLINE_LAMBDA { return a * b; });
    default:
      return combine_values(args, [](float a, float b) OCTAVO_INLINE_LAMBDA { return a / b; });
  }
}

template <class Isa>
void float_pairs_clip(const float* x, int64_t count, float lo, float hi, float* y_given) {
  float* __restrict__ y = y_given;
  for (int64_t i = 0; i < count; ++i) {
    const float value = x[i];
    const float raised = value != value || value > lo ? value : lo;
    y[i] = raised != raised || raised < hi ? raised : hi;
  }
}

template <class Isa>
constexpr FloatPairsKernels float_pairs_kernels() {
  return {float_pairs_combine<Isa>, float_pairs_clip<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
