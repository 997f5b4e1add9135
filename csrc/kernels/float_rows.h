// Float functions and row reductions: exp, erf, tanh and what is made of them; softmax and norms;
// rotations of pairs.
//
// Three polynomials, in fused multiply-adds that plain C++ calls too, so that the bits are the same
// everywhere (docs/floats.md has the mathematics and the errors against float64):
//
//   2^-f, |f| <= 1/2                     exp, and with it all but the parts of erf and tanh near 0
//   log2 of Phi(-t), 0 <= t              gelu and erf, Phi the normal distribution's function
//   erf and tanh near 0
//
// Sums run over 64 lanes, lane = k mod 64, then halve: lane i + lane i + 32, 16, ..., 1.
#pragma once

#include <stdint.h>

namespace octavo {

enum class FloatFunction : int32_t { kExp, kErf, kTanh, kSigmoid, kSilu, kGelu, kGeluTanh };

// Rows of n values side by side; y may be x, else they must not overlap. Columns (of softmax alone)
// have their values where rows have their neighbours: side by side are values of neighbours, and
// strides are from value to value.
struct FloatRowsArgs {
  const float* x;
  float* y;
  int64_t rows, n;
  int64_t x_stride, y_stride;  // values from row to row

  // softmax, each null or mask_stride values from row to row (0: one row for all):
  const float* mask;    // added to x
  const uint8_t* keep;  // x where it is not 0, -infinity elsewhere
  int64_t mask_stride;
  bool mask_is_shared;  // columns: one column of the mask is for all

  // norms, each null (1 and 0) or n / run values: `run` values of a row side by side share one.
  const float* weight;
  const float* bias;
  int64_t run;
  float epsilon;
  // norms: null, or rows that are added to x first; the sums go to `sum`, if it is not null, which
  // may be the residual itself.
  const float* residual;
  float* sum;
  int64_t residual_stride, sum_stride;
};

struct FloatRowsKernels {
  void (*apply)(FloatFunction function, const float* x, int64_t count, float* y);
  // exp(x - max) * (1 / their sum); a row of -infinity alone gives zeros.
  void (*softmax)(const FloatRowsArgs& args);
  // The same bits, of columns.
  void (*softmax_columns)(const FloatRowsArgs& args);
  // v = (x - mean) * (1 / sqrt(mean of (x - mean)^2 + epsilon)); fma(v, weight, bias)
  void (*layer_norm)(const FloatRowsArgs& args);
  // The same with 0 for the mean.
  void (*rms_norm)(const FloatRowsArgs& args);
  // y1 = x1 cos - x2 sin, y2 = x1 sin + x2 cos, the first product rounded; y1 may be x1, y2 x2.
  void (*rotate)(const float* x1, const float* x2, const float* cos, const float* sin, int64_t n,
                 float* y1, float* y2);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// Four vectors side by side in the shape of one: a polynomial is a chain of dependent operations,
// and four chains at once hide what each takes.
template <class V>
struct Four {
  static constexpr int kLanes = 4 * V::kLanes;
  struct F {
    typename V::F a, b, c, d;
  };

  template <class Body>
  static OCTAVO_INLINE F each(const Body& body) {  // of the place of the first lane
    constexpr int kL = V::kLanes;
    return {body(0), body(kL), body(2 * kL), body(3 * kL)};
  }
  template <class Body>
  static OCTAVO_INLINE F map(F x, const Body& body) {
    return {body(x.a), body(x.b), body(x.c), body(x.d)};
  }
  template <class Body>
  static OCTAVO_INLINE F map(F x, F y, const Body& body) {
    return {body(x.a, y.a), body(x.b, y.b), body(x.c, y.c), body(x.d, y.d)};
  }
  template <class Body>
  static OCTAVO_INLINE F map(F x, F y, F z, const Body& body) {
    return {body(x.a, y.a, z.a), body(x.b, y.b, z.b), body(x.c, y.c, z.c), body(x.d, y.d, z.d)};
  }

  static OCTAVO_INLINE F set(float x) {
    const typename V::F y = V::set(x);
    return {y, y, y, y};
  }
  static OCTAVO_INLINE F load(const float* p) {
    return each([&](int i) OCTAVO_INLINE_LAMBDA { return V::load(p + i); });
  }
  static OCTAVO_INLINE F load_part(const float* p, int64_t n) {
    return each([&](int i) OCTAVO_INLINE_LAMBDA { return V::load_part(p + i, n - i); });
  }
  static OCTAVO_INLINE void store(float* p, F x) {
    constexpr int kL = V::kLanes;
    V::store(p, x.a), V::store(p + kL, x.b), V::store(p + 2 * kL, x.c), V::store(p + 3 * kL, x.d);
  }
  static OCTAVO_INLINE void store_part(float* p, F x, int64_t n) {
    constexpr int kL = V::kLanes;
    V::store_part(p, x.a, n), V::store_part(p + kL, x.b, n - kL);
    V::store_part(p + 2 * kL, x.c, n - 2 * kL), V::store_part(p + 3 * kL, x.d, n - 3 * kL);
  }
  static OCTAVO_INLINE F first_lanes(F x, int64_t n) {
    constexpr int kL = V::kLanes;
    return {V::first_lanes(x.a, n), V::first_lanes(x.b, n - kL), V::first_lanes(x.c, n - 2 * kL),
            V::first_lanes(x.d, n - 3 * kL)};
  }
  static OCTAVO_INLINE float reduce_add(F x) {  // by halves
    return V::reduce_add(V::add(V::add(x.a, x.c), V::add(x.b, x.d)));
  }
  static OCTAVO_INLINE float reduce_max(F x) {
    return V::reduce_max(V::max(V::max(x.a, x.b), V::max(x.c, x.d)));
  }

#define OCTAVO_EACH(name, operands, ...)                                                         \
  static OCTAVO_INLINE F name operands {                                                         \
    return map(__VA_ARGS__, [](auto... lane) OCTAVO_INLINE_LAMBDA { return V::name(lane...); }); \
  }
  OCTAVO_EACH(abs, (F x), x)
  OCTAVO_EACH(add, (F x, F y), x, y)
  OCTAVO_EACH(sub, (F x, F y), x, y)
  OCTAVO_EACH(mul, (F x, F y), x, y)
  OCTAVO_EACH(div, (F x, F y), x, y)
  OCTAVO_EACH(min, (F x, F y), x, y)
  OCTAVO_EACH(max, (F x, F y), x, y)
  OCTAVO_EACH(scale, (F x, F n), x, n)
  OCTAVO_EACH(copy_sign, (F x, F sign), x, sign)
  OCTAVO_EACH(fma, (F x, F y, F z), x, y, z)
  OCTAVO_EACH(fnma, (F x, F y, F z), x, y, z)
#undef OCTAVO_EACH
  static OCTAVO_INLINE F select_less(F x, F y, F yes, F no) {
    return {V::select_less(x.a, y.a, yes.a, no.a), V::select_less(x.b, y.b, yes.b, no.b),
            V::select_less(x.c, y.c, yes.c, no.c), V::select_less(x.d, y.d, yes.d, no.d)};
  }
};

// What the kernels below compute with: plain C++ is a call to fma() for each value, which four at
// once would only make longer.
template <class V, bool kHasFma = V::kHasFma>
struct Chains {
  using type = Four<V>;
};
template <class V>
struct Chains<V, false> {
  using type = V;
};

template <class V>
OCTAVO_INLINE typename V::F load_bytes(V, const uint8_t* p, int64_t n) {
  return V::to_float(n >= V::kLanes ? V::template load_codes<false>(p)
                                    : V::template load_codes_part<false>(p, n));
}
template <class V>
OCTAVO_INLINE typename Four<V>::F load_bytes(Four<V>, const uint8_t* p, int64_t n) {
  return Four<V>::each([&](int i) OCTAVO_INLINE_LAMBDA { return load_bytes(V(), p + i, n - i); });
}

template <class V>
struct FloatMath {
  using F = typename V::F;

  template <int N>
  static OCTAVO_INLINE F polynomial(F x, const float (&c)[N]) {
    F y = V::set(c[N - 1]);
    OCTAVO_UNROLL
    for (int i = N - 2; i >= 0; --i) y = V::fma(y, x, V::set(c[i]));
    return y;
  }
  // Added and taken away again, it rounds to a whole number, half to even, what is below 2^22.
  static OCTAVO_INLINE F whole() { return V::set(0x1.8p23f); }

  // 2^(n - f), n whole, n <= 128, |f| <= 1/2.
  static OCTAVO_INLINE F exp2(F n, F f) {
    static constexpr float p[] = {0.69314718246f,    -0.24022647738f,  0.055503595620f,
                                  -0.0096185021102f, 0.0013390997192f, -0.00015328245354f};
    return V::scale(V::fnma(f, polynomial(f, p), V::set(1.0f)), n);
  }
  // exp(x), x <= 89. x log2(e) = n - f, with log2(e) in two parts.
  static OCTAVO_INLINE F bounded_exp(F x) {
    x = V::max(V::set(-104.0f), x);  // exp(-104) rounds to 0; NaN stays, being the second
    const F high = V::set(0x1.715476p+0f), low = V::set(0x1.4ae0cp-26f);
    const F n = V::sub(V::fma(x, high, whole()), whole());
    return exp2(n, V::fnma(x, low, V::fnma(x, high, n)));
  }
  static OCTAVO_INLINE F exp(F x) { return bounded_exp(V::min(V::set(89.0f), x)); }

  // Phi(-t), 0 <= t <= 16. Beyond 5.8 the polynomial only falls: 2^-154 at 12.
  static OCTAVO_INLINE F normal_tail(F t) {
    static constexpr float p[] = {
        -1.0f,           -1.15112388f,     -0.459068775f,    -0.0528742075f,
        0.00756172137f,  -0.000489385275f, -5.03143528e-05f, 1.26379337e-05f,
        -7.43730027e-07f};
    const F log = polynomial(t, p);
    const F n = V::sub(V::add(log, whole()), whole());
    return exp2(n, V::sub(n, log));
  }
  // What normal_tail() may be given, of |x|.
  static OCTAVO_INLINE F tail_argument(F x) { return V::min(V::set(16.0f), x); }

  // 1 - 2 Phi(-sqrt(2) |x|) with the sign of x; near 0, |x| + |x| p(x^2).
  static OCTAVO_INLINE F erf(F x) {
    static constexpr float p[] = {0.12837916613f, -0.37612634897f, 0.1128371954f,  -0.02686075307f,
                                  0.0052044359f,  -0.00081819255f, 8.53883175e-05f};
    const F t = V::abs(x);
    const F small = V::fma(t, polynomial(V::mul(t, t), p), t);
    const F tail = normal_tail(tail_argument(V::mul(t, V::set(1.41421356f))));
    const F large = V::fnma(V::set(2.0f), tail, V::set(1.0f));
    return V::copy_sign(V::select_less(t, V::set(0.9f), small, large), x);
  }

  // 1 - 2 / (exp(2 |x|) + 1) with the sign of x; near 0, |x| + |x|^3 p(x^2).
  static OCTAVO_INLINE F tanh(F x) {
    static constexpr float p[] = {-0.33333331347f, 0.13333120942f, -0.05391069874f, 0.02131608129f,
                                  -0.00662127091f};
    const F t = V::abs(x), s = V::mul(t, t), one = V::set(1.0f);
    const F small = V::fma(V::mul(t, s), polynomial(s, p), t);
    const F large = V::sub(one, V::div(V::set(2.0f), V::add(exp(V::add(t, t)), one)));
    return V::copy_sign(V::select_less(t, V::set(0.55f), small, large), x);
  }

  // 1 / (1 + exp(-x)) by exp(-|x|), which does not overflow.
  static OCTAVO_INLINE F sigmoid(F x) {
    const F zero = V::set(0.0f), one = V::set(1.0f);
    const F e = bounded_exp(V::sub(zero, V::abs(x)));
    return V::div(V::select_less(x, zero, e, one), V::add(one, e));
  }
  // x * s(x), s a sigmoid that is 0 below -200; at -infinity it is 0 too, as its limit is.
  static OCTAVO_INLINE F gated(F x, F s) { return V::mul(V::max(V::set(-200.0f), x), s); }

  // x Phi(x) = max(x, 0) - |x| Phi(-|x|): nothing cancels.
  static OCTAVO_INLINE F gelu(F x) {
    const F t = tail_argument(V::abs(x));
    return V::fnma(t, normal_tail(t), V::select_less(x, V::set(0.0f), V::set(-0.0f), x));
  }
  // x / 2 * (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  static OCTAVO_INLINE F gelu_tanh(F x) {
    const F cubic = V::fma(V::mul(V::mul(x, x), V::set(0.044715f)), x, x);
    return gated(x, sigmoid(V::mul(cubic, V::set(1.59576912f))));
  }

  template <FloatFunction kFunction>
  static OCTAVO_INLINE F apply(F x) {
    if constexpr (kFunction == FloatFunction::kExp) return exp(x);
    if constexpr (kFunction == FloatFunction::kErf) return erf(x);
    if constexpr (kFunction == FloatFunction::kTanh) return tanh(x);
    if constexpr (kFunction == FloatFunction::kSigmoid) return sigmoid(x);
    if constexpr (kFunction == FloatFunction::kSilu) return gated(x, sigmoid(x));
    if constexpr (kFunction == FloatFunction::kGelu) return gelu(x);
    if constexpr (kFunction == FloatFunction::kGeluTanh) return gelu_tanh(x);
  }
};

template <class V>
OCTAVO_INLINE typename V::F load_some(const float* p, int64_t count) {
  return count == V::kLanes ? V::load(p) : V::load_part(p, count);
}

template <class V>
OCTAVO_INLINE void store_some(float* p, typename V::F x, int64_t count) {
  count == V::kLanes ? V::store(p, x) : V::store_part(p, x, count);
}

// y[k ..] = body(k, count) for a row; count is V::kLanes but perhaps in the last call.
template <class V, class Body>
OCTAVO_INLINE void map_row(int64_t n, float* y, const Body& body) {
  int64_t k = 0;
  for (; k + V::kLanes <= n; k += V::kLanes) V::store(y + k, body(k, V::kLanes));
  if (k < n) V::store_part(y + k, body(k, n - k), n - k);
}

// Folds a row into one float in 64 lanes: body(sum, k, count) adds values k .. k + count to the
// first `count` lanes of `sum` and leaves the others as they are.
template <class V, class Body>
OCTAVO_INLINE float sum_row(int64_t n, const Body& body) {
  constexpr int kLanes = V::kLanes;
  constexpr int kVectors = 64 / kLanes;
  if constexpr (kVectors * kLanes == 64 && kVectors <= 4) {  // else too much would be unrolled
    typename V::F sum[kVectors];
    OCTAVO_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[v] = V::set(0.0f);
    int64_t k = 0;
    for (; k + 64 <= n; k += 64) {
      OCTAVO_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[v] = body(sum[v], k + v * kLanes, kLanes);
    }
    OCTAVO_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = n - k - v * kLanes;
      if (left > 0) sum[v] = body(sum[v], k + v * kLanes, left < kLanes ? left : kLanes);
    }
    OCTAVO_UNROLL
    for (int width = kVectors / 2; width > 0; width /= 2) {
      OCTAVO_UNROLL
      for (int v = 0; v < width; ++v) sum[v] = V::add(sum[v], sum[v + width]);
    }
    return V::reduce_add(sum[0]);
  } else {
    float lane[64] = {}, part[kLanes];
    for (int64_t k = 0; k < n; k += kLanes) {
      const int64_t count = n - k < kLanes ? n - k : kLanes;
      for (int64_t i = 0; i < kLanes; ++i) part[i] = lane[(k + i) % 64];
      V::store(part, body(V::load(part), k, count));
      for (int64_t i = 0; i < count; ++i) lane[(k + i) % 64] = part[i];
    }
    for (int width = 32; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
    }
    return lane[0];
  }
}

// One loop a function: the choice is made outside.
template <class V, FloatFunction kFunction>
void apply_row(const float* x, int64_t n, float* y) {
  map_row<V>(n, y, [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
    return FloatMath<V>::template apply<kFunction>(load_some<V>(x + k, count));
  });
}

template <class Isa>
void float_rows_apply(FloatFunction function, const float* x, int64_t count, float* y) {
  using V = typename Chains<typename Isa::Vector>::type;
  switch (function) {
    case FloatFunction::kExp:
      return apply_row<V, FloatFunction::kExp>(x, count, y);
    case FloatFunction::kErf:
      return apply_row<V, FloatFunction::kErf>(x, count, y);
    case FloatFunction::kTanh:
      return apply_row<V, FloatFunction::kTanh>(x, count, y);
    case FloatFunction::kSigmoid:
      return apply_row<V, FloatFunction::kSigmoid>(x, count, y);
    case FloatFunction::kSilu:
      return apply_row<V, FloatFunction::kSilu>(x, count, y);
    case FloatFunction::kGelu:
      return apply_row<V, FloatFunction::kGelu>(x, count, y);
    case FloatFunction::kGeluTanh:
      return apply_row<V, FloatFunction::kGeluTanh>(x, count, y);
  }
}

// Values before the first cache line that begins at or behind p: loads that straddle two lines take
// twice as long.
OCTAVO_INLINE int64_t to_line(const float* p) {
  return static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(p)) / sizeof(float)) & 15;
}

// The greatest of a row that is not empty; anything where there is a NaN.
template <class V>
OCTAVO_INLINE float greatest_of(const float* x, int64_t n) {
  using F = typename V::F;
  if (n < V::kLanes) {
    float most = x[0];
    for (int64_t k = 1; k < n; ++k) most = x[k] > most ? x[k] : most;
    return most;
  }
  F most = V::load(x);
  int64_t k = to_line(x) < V::kLanes ? to_line(x) : 0;
  for (; k + V::kLanes <= n; k += V::kLanes) most = V::max(most, V::load(x + k));
  if (k < n) most = V::max(most, V::load(x + n - V::kLanes));
  return V::reduce_max(most);
}

// y = x as the mask leaves it.
template <class V>
OCTAVO_INLINE void masked_row(const float* x, int64_t n, const float* mask, const uint8_t* keep,
                              float* y) {
  map_row<V>(n, y, [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
    typename V::F v = load_some<V>(x + k, count);
    if (mask) v = V::add(v, load_some<V>(mask + k, count));
    if (!keep) return v;
    return V::select_less(V::set(0.0f), load_bytes(V(), keep + k, count), v,
                          V::set(-__builtin_inff()));
  });
}

// In three passes over a block of rows that stays in L1, so that the latency of one row's
// reductions hides behind its neighbours.
template <class Isa>
void float_rows_softmax(const FloatRowsArgs& args) {
  using V = typename Chains<typename Isa::Vector>::type;
  using F = typename V::F;
  constexpr int64_t kBlock = 32, kBlockValues = 4096;
  const int64_t n = args.n;
  if (n == 0) return;
  int64_t step = kBlockValues / n;
  step = step < 1 ? 1 : step > kBlock ? kBlock : step;
  const bool masks = args.mask || args.keep;
  const float* from = masks ? args.y : args.x;
  const int64_t from_stride = masks ? args.y_stride : args.x_stride;
  for (int64_t first = 0; first < args.rows; first += step) {
    const int64_t last = args.rows - first < step ? args.rows : first + step;
    float shift[kBlock], factor[kBlock];
    for (int64_t row = first; row < last; ++row) {
      if (masks) {
        const int64_t at = row * args.mask_stride;
        masked_row<V>(args.x + row * args.x_stride, n, args.mask ? args.mask + at : nullptr,
                      args.keep ? args.keep + at : nullptr, args.y + row * args.y_stride);
      }
      // -infinity less itself would be NaN.
      const float most = greatest_of<V>(from + row * from_stride, n);
      shift[row - first] = most > -__builtin_inff() ? most : 0.0f;
    }
    for (int64_t row = first; row < last; ++row) {
      const float* x = from + row * from_stride;
      float* y = args.y + row * args.y_stride;
      const F most = V::set(shift[row - first]);
      const float sum = sum_row<V>(n, [&](F sum, int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
        const F e = FloatMath<V>::bounded_exp(V::sub(load_some<V>(x + k, count), most));
        if (count == V::kLanes) {
          V::store(y + k, e);
          return V::add(sum, e);
        }
        V::store_part(y + k, e, count);
        return V::add(sum, V::first_lanes(e, count));
      });
      factor[row - first] = sum == 0.0f ? 0.0f : 1.0f / sum;
    }
    for (int64_t row = first; row < last; ++row) {
      float* y = args.y + row * args.y_stride;
      const F all = V::set(factor[row - first]);
      map_row<V>(n, y, [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
        return V::mul(load_some<V>(y + k, count), all);
      });
    }
  }
}

// Columns as the mask leaves them.
template <class V>
void masked_columns(const FloatRowsArgs& args) {
  using F = typename V::F;
  const bool shared = args.mask_is_shared;
  for (int64_t k = 0; k < args.n; ++k) {
    const float *x = args.x + k * args.x_stride, *mask = args.mask;
    const uint8_t* keep = args.keep;
    if (mask) mask += k * args.mask_stride;
    if (keep) keep += k * args.mask_stride;
    map_row<V>(args.rows, args.y + k * args.y_stride,
               [&](int64_t i, int64_t count) OCTAVO_INLINE_LAMBDA {
                 F v = load_some<V>(x + i, count);
                 if (mask) v = V::add(v, shared ? V::set(*mask) : load_some<V>(mask + i, count));
                 if (!keep) return v;
                 const F kept = shared ? V::set(*keep) : load_bytes(V(), keep + i, count);
                 return V::select_less(V::set(0.0f), kept, v, V::set(-__builtin_inff()));
               });
  }
}

// What a column's values are less: the greatest, but 0 where all are -infinity, which less itself
// would be NaN.
template <class V>
OCTAVO_INLINE typename V::F shift_of(typename V::F most) {
  return V::select_less(V::set(-__builtin_inff()), most, most, V::set(0.0f));
}
template <class V>
OCTAVO_INLINE typename V::F factor_of(typename V::F sum) {  // sum is 0, positive or NaN
  return V::select_less(V::set(0.0f), sum, V::div(V::set(1.0f), sum), sum);
}

// Columns [first, first + count), count <= V::kLanes. Each has the 64 lanes of its sum in memory:
// in one lane of 64 vectors.
template <class V>
void softmax_columns_at(const FloatRowsArgs& args, int64_t first, int64_t count) {
  using F = typename V::F;
  constexpr int kLanes = V::kLanes;
  const int64_t n = args.n;
  const float* x = args.x + first;
  float* y = args.y + first;
  F most = load_some<V>(x, count);
  for (int64_t k = 1; k < n; ++k) most = V::max(most, load_some<V>(x + k * args.x_stride, count));
  const F shift = shift_of<V>(most);
  alignas(64) float lane[64 * kLanes];
  for (int64_t k = 0; k < n; ++k) {
    const F v = load_some<V>(x + k * args.x_stride, count);
    const F e = FloatMath<V>::bounded_exp(V::sub(v, shift));
    store_some<V>(y + k * args.y_stride, e, count);
    float* sum = lane + k % 64 * kLanes;
    V::store(sum, k < 64 ? e : V::add(V::load(sum), e));
  }
  for (int width = 32; width > 0; width /= 2) {
    for (int i = 0; i < width && i + width < n; ++i) {
      float* sum = lane + i * kLanes;
      V::store(sum, V::add(V::load(sum), V::load(sum + width * kLanes)));
    }
  }
  const F factor = factor_of<V>(V::load(lane));
  for (int64_t k = 0; k < n; ++k) {
    float* at = y + k * args.y_stride;
    store_some<V>(at, V::mul(load_some<V>(at, count), factor), count);
  }
}

// The same of a few columns without gaps: all values are one run, and what belongs to value k of
// a column comes again 64 values of it later, after `period` of the run.
constexpr int64_t kNarrow = 64;
template <class V>
void softmax_narrow(const FloatRowsArgs& args) {
  using F = typename V::F;
  const int64_t columns = args.rows, total = args.n * columns, period = 64 * columns;
  const int64_t used = total < period ? total : period;
  alignas(64) float all[64 * kNarrow], sum[64 * kNarrow];
  const float* x = args.x;
  float* y = args.y;
  // body(i, j, count): `count` values from i on, which belong to place j of the period.
  const auto for_each = [&](int64_t begin, const auto& body) OCTAVO_INLINE_LAMBDA {
    for (int64_t from = begin; from < total; from += period) {
      const int64_t n = total - from < period ? total - from : period;
      for (int64_t j = 0; j < n; j += V::kLanes)
        body(from + j, j, n - j < V::kLanes ? n - j : V::kLanes);
    }
  };
  // One value for each column, by halves of the period: `to` may be `from`.
  const auto fold = [&](float* values, const auto& body) OCTAVO_INLINE_LAMBDA {
    for (int64_t width = period / 2; width >= columns; width /= 2) {
      const int64_t n = used - width < width ? used - width : width;
      for (int64_t j = 0; j < n; j += V::kLanes) {
        const int64_t count = n - j < V::kLanes ? n - j : V::kLanes;
        const F low = load_some<V>(values + j, count);
        store_some<V>(values + j, body(low, load_some<V>(values + width + j, count)), count);
      }
    }
  };
  // The same, over the whole period.
  const auto spread = [&](float* values) OCTAVO_INLINE_LAMBDA {
    for (int64_t known = columns; known < used; known *= 2) {
      const int64_t n = used - known < known ? used - known : known;
      for (int64_t j = 0; j < n; j += V::kLanes) {
        const int64_t count = n - j < V::kLanes ? n - j : V::kLanes;
        store_some<V>(values + known + j, load_some<V>(values + j, count), count);
      }
    }
  };
  for (int64_t j = 0; j < used; j += V::kLanes) {
    const int64_t count = used - j < V::kLanes ? used - j : V::kLanes;
    store_some<V>(all + j, load_some<V>(x + j, count), count);
  }
  for_each(period, [&](int64_t i, int64_t j, int64_t count) OCTAVO_INLINE_LAMBDA {
    const F most = load_some<V>(all + j, count);
    store_some<V>(all + j, V::max(most, load_some<V>(x + i, count)), count);
  });
  fold(all, [](F a, F b) OCTAVO_INLINE_LAMBDA { return V::max(a, b); });
  for (int64_t j = 0; j < columns; j += V::kLanes) {
    const int64_t count = columns - j < V::kLanes ? columns - j : V::kLanes;
    store_some<V>(all + j, shift_of<V>(load_some<V>(all + j, count)), count);
  }
  spread(all);
  for_each(0, [&](int64_t i, int64_t j, int64_t count) OCTAVO_INLINE_LAMBDA {
    const F v = V::sub(load_some<V>(x + i, count), load_some<V>(all + j, count));
    const F e = FloatMath<V>::bounded_exp(v);
    store_some<V>(y + i, e, count);
    store_some<V>(sum + j, i < period ? e : V::add(load_some<V>(sum + j, count), e), count);
  });
  fold(sum, [](F a, F b) OCTAVO_INLINE_LAMBDA { return V::add(a, b); });
  for (int64_t j = 0; j < columns; j += V::kLanes) {
    const int64_t count = columns - j < V::kLanes ? columns - j : V::kLanes;
    store_some<V>(all + j, factor_of<V>(load_some<V>(sum + j, count)), count);
  }
  spread(all);
  for_each(0, [&](int64_t i, int64_t j, int64_t count) OCTAVO_INLINE_LAMBDA {
    store_some<V>(y + i, V::mul(load_some<V>(y + i, count), load_some<V>(all + j, count)), count);
  });
}

template <class Isa>
void float_rows_softmax_columns(const FloatRowsArgs& given) {
  using V = typename Isa::Vector;
  using Wide = typename Chains<V>::type;
  FloatRowsArgs args = given;
  if (args.n == 0) return;
  if (args.mask || args.keep) {
    masked_columns<V>(args);
    args.x = args.y;
    args.x_stride = args.y_stride;
  }
  if (args.rows <= kNarrow && args.x_stride == args.rows && args.y_stride == args.rows)
    return softmax_narrow<Wide>(args);
  int64_t first = 0;
  for (; args.rows - first > V::kLanes; first += Wide::kLanes) {
    const int64_t left = args.rows - first;
    softmax_columns_at<Wide>(args, first, left < Wide::kLanes ? left : Wide::kLanes);
  }
  if (first < args.rows) softmax_columns_at<V>(args, first, args.rows - first);
}

template <class Isa, bool kCentred>
void norm_rows(const FloatRowsArgs& args) {
  using V = typename Chains<typename Isa::Vector>::type;
  using F = typename V::F;
  const int64_t n = args.n;
  const auto count_of_row = static_cast<float>(n);
  for (int64_t row = 0; row < args.rows && n > 0; ++row) {
    const float* x = args.x + row * args.x_stride;
    float* y = args.y + row * args.y_stride;
    if (args.residual) {
      const float* residual = args.residual + row * args.residual_stride;
      float* sum = args.sum ? args.sum + row * args.sum_stride : y;
      map_row<V>(n, sum, [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
        return V::add(load_some<V>(x + k, count), load_some<V>(residual + k, count));
      });
      x = sum;
    }
    F mean = V::set(0.0f);
    if (kCentred) {
      const float sum = sum_row<V>(n, [&](F sum, int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
        return V::add(sum, load_some<V>(x + k, count));
      });
      mean = V::set(sum / count_of_row);
    }
    const auto centred = [&](F v) OCTAVO_INLINE_LAMBDA { return kCentred ? V::sub(v, mean) : v; };
    const float squares = sum_row<V>(n, [&](F sum, int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
      F d = centred(load_some<V>(x + k, count));
      if (kCentred && count < V::kLanes) d = V::first_lanes(d, count);
      return V::fma(d, d, sum);
    });
    const F factor = V::set(1.0f / __builtin_sqrtf(squares / count_of_row + args.epsilon));
    const auto scaled = [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
      return V::mul(centred(load_some<V>(x + k, count)), factor);
    };
    const auto affine = [](F v, bool weighs, F weight, bool adds, F bias) OCTAVO_INLINE_LAMBDA {
      if (weighs && adds) return V::fma(v, weight, bias);
      return weighs ? V::mul(v, weight) : adds ? V::add(v, bias) : v;
    };
    const float *w = args.weight, *b = args.bias;
    if (!w && !b) {
      map_row<V>(n, y, scaled);
    } else if (args.run == 1) {
      map_row<V>(n, y, [&](int64_t k, int64_t count) OCTAVO_INLINE_LAMBDA {
        return affine(scaled(k, count), w, w ? load_some<V>(w + k, count) : mean, b,
                      b ? load_some<V>(b + k, count) : mean);
      });
    } else {
      for (int64_t k = 0; k < n; k += args.run) {
        const F weight = V::set(w ? w[k / args.run] : 1.0f);
        const F bias = V::set(b ? b[k / args.run] : 0.0f);
        map_row<V>(args.run, y + k, [&](int64_t i, int64_t count) OCTAVO_INLINE_LAMBDA {
          return affine(scaled(k + i, count), w, weight, b, bias);
        });
      }
    }
  }
}

template <class Isa>
void float_rows_rotate(const float* x1, const float* x2, const float* cos, const float* sin,
                       int64_t n, float* y1, float* y2) {
  using V = typename Isa::Vector;
  using F = typename V::F;
  for (int64_t k = 0; k < n; k += V::kLanes) {
    const int64_t count = n - k < V::kLanes ? n - k : V::kLanes;
    const F a = load_some<V>(x1 + k, count), b = load_some<V>(x2 + k, count);
    const F c = load_some<V>(cos + k, count), s = load_some<V>(sin + k, count);
    store_some<V>(y1 + k, V::fnma(b, s, V::mul(a, c)), count);
    store_some<V>(y2 + k, V::fma(b, c, V::mul(a, s)), count);
  }
}

template <class Isa>
constexpr FloatRowsKernels float_rows_kernels() {
  return {float_rows_apply<Isa>, float_rows_softmax<Isa>, float_rows_softmax_columns<Isa>,
          norm_rows<Isa, true>,  norm_rows<Isa, false>,   float_rows_rotate<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
