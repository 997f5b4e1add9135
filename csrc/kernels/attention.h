// attention: rows of scores to 8-bit weights (docs/attention.md, int8), in one go:
//
//   e_j = exp(s_j - max), w_j = e_j * by_key_j (0 where e_j is 0), or w_j = e_j
//   top = greatest w_j, at least 2^-100; or 1 where there is no by_key
//   code_j = rint(w_j * (255 / top))
//   scale = (top / 255) * (1 / sum of e_j); NaN where a score or a w_j is, 0 where all e_j are 0
//
// What exp, masks and the order of the sum are, float_rows.h says: softmax has the same.
#pragma once

#include "kernels/float_rows.h"
#include "kernels/quantize.h"

namespace octavo {

// Rows of n scores side by side, which are overwritten.
struct WeighArgs {
  float* scores;
  int64_t rows, n;
  int64_t stride;  // values from row to row

  // Each null, or mask_stride values from row to row:
  const float* mask;    // added to the scores
  const uint8_t* keep;  // a score counts as -infinity where it is 0
  int64_t mask_stride;

  const float* by_key;  // null, or n values of at least 0, or NaN
  uint8_t* codes;       // code_stride from row to row
  int64_t code_stride;
  float* scale;  // of each row
};

struct AttentionKernels {
  void (*weigh)(const WeighArgs& args);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class V>
OCTAVO_INLINE void store_weights(V, typename V::F x, uint8_t* q, int64_t count) {
  const typename V::I codes[1] = {V::round(x)};
  store_codes<V, 1>(q, codes, -0x80, 0x80, count);
}
template <class V>
OCTAVO_INLINE void store_weights(Four<V>, typename Four<V>::F x, uint8_t* q, int64_t count) {
  const typename V::I codes[4] = {V::round(x.a), V::round(x.b), V::round(x.c), V::round(x.d)};
  store_codes<V, 4>(q, codes, -0x80, 0x80, count);
}

// In passes over a block of rows that stays in L1, so that the latency of one row's reductions
// hides behind its neighbours.
template <class Isa>
void attention_weigh(const WeighArgs& args) {
  using V = typename Chains<typename Isa::Vector>::type;
  using F = typename V::F;
  constexpr int64_t kBlock = 32, kBlockValues = 4096;
  const int64_t n = args.n;
  if (n == 0) return;
  int64_t step = kBlockValues / n;
  step = step < 1 ? 1 : step > kBlock ? kBlock : step;
  for (int64_t first = 0; first < args.rows; first += step) {
    const int64_t last = args.rows - first < step ? args.rows : first + step;
    float shift[kBlock], factor[kBlock];
    for (int64_t row = first; row < last; ++row) {
      float* s = args.scores + row * args.stride;
      const int64_t at = row * args.mask_stride;
      if (args.mask || args.keep)
        masked_row<V>(s, n, args.mask ? args.mask + at : nullptr,
                      args.keep ? args.keep + at : nullptr, s);
      // -infinity less itself would be NaN.
      const float most = greatest_of<V>(s, n);
      shift[row - first] = most > -__builtin_inff() ? most : 0.0f;
    }
    for (int64_t row = first; row < last; ++row) {
      float* s = args.scores + row * args.stride;
      uint8_t* codes = args.codes + row * args.code_stride;
      const F most = V::set(shift[row - first]), zero = V::set(0.0f), all = V::set(255.0f);
      F greatest = zero, probe = zero;
      const auto exponential = [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
        const F e = FloatMath<V>::bounded_exp(V::sub(load_some<V>(s + k, count), most));
        return count == V::kLanes ? e : V::first_lanes(e, count);
      };
      float sum, top = 1.0f, not_finite = 0.0f;
      if (args.by_key) {
        sum = sum_row<V>(n, [&](F lanes, int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
          const F e = exponential(k, count);
          const F scaled = V::mul(e, load_some<V>(args.by_key + k, count));
          const F w = V::select_less(zero, e, scaled, zero);
          greatest = V::max(greatest, w);
          probe = V::fma(w, zero, probe);
          if (count == V::kLanes)
            V::store(s + k, w);
          else
            V::store_part(s + k, w, count);
          return V::add(lanes, e);
        });
        top = V::reduce_max(greatest);
        top = top > 0x1p-100f ? top : 0x1p-100f;
        not_finite = V::reduce_add(probe);
        factor[row - first] = 255.0f / top;
      } else {
        sum = sum_row<V>(n, [&](F lanes, int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
          const F e = exponential(k, count);
          store_weights(V(), V::mul(e, all), codes + k, count);
          return V::add(lanes, e);
        });
      }
      args.scale[row] = sum == 0.0f ? 0.0f : (top / 255.0f) * (1.0f / sum) + not_finite;
    }
    for (int64_t row = first; row < last && args.by_key; ++row) {
      const float* w = args.scores + row * args.stride;
      uint8_t* codes = args.codes + row * args.code_stride;
      const F all = V::set(factor[row - first]);
      for (int64_t k = 0; k < n; k += V::kLanes) {
        const int64_t count = n - k < V::kLanes ? n - k : V::kLanes;
        store_weights(V(), V::mul(load_some<V>(w + k, count), all), codes + k, count);
      }
    }
  }
}

template <class Isa>
constexpr AttentionKernels attention_kernels() {
  return {attention_weigh<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
