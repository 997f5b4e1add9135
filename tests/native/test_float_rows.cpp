// Float functions, softmax and norms on every table: functions against float64 over all exponents,
// rows against naive loops to the bit, kernels alone and through the operator, with any strides and
// numbers of threads. Operands lie between pages that may not be touched.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <thread>

#include "check.h"
#include "guard_page.h"
#include "no_memory.h"
#include "ops/float_rows.h"
#include "reference/float_rows.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// --- functions of one value ----------------------------------------------------------------------

struct Function {
  const char* name;
  FloatFunction function;
  double (*exact)(double x);
  double ulps, least;       // the greater of so many units in the last place, and this much
  uint32_t hash;            // of what comes of function_values(false): the same on every processor
  float at_minus, at_plus;  // at the infinities
};

double exact_sigmoid(double x) {
  return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
}
double exact_gelu(double x) {
  const double tail = std::erfc(std::fabs(x) / std::sqrt(2.0)) / 2;
  return x < 0 ? x * tail : x - x * tail;
}
double exact_gelu_tanh(double x) {
  // Twice the square root of 2 / pi.
  return x * exact_sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
}

const Function kFunctions[] = {
    {"exp", FloatFunction::kExp, [](double x) { return std::exp(x); }, 1.1, 0, 0x0b92c3fe, 0.0f,
     kInfinity},
    {"erf", FloatFunction::kErf, [](double x) { return std::erf(x); }, 3, 0, 0x77b79d20, -1.0f,
     1.0f},
    {"tanh", FloatFunction::kTanh, [](double x) { return std::tanh(x); }, 2, 0, 0x10af4c30, -1.0f,
     1.0f},
    {"sigmoid", FloatFunction::kSigmoid, exact_sigmoid, 3, 0, 0x6cd20c44, 0.0f, 1.0f},
    {"silu", FloatFunction::kSilu, [](double x) { return x * exact_sigmoid(x); }, 4, 0x1p-140,
     0x2278b0c6, -0.0f, kInfinity},
    {"gelu", FloatFunction::kGelu, exact_gelu, 2, 0x1p-23, 0xc079a850, -0.0f, kInfinity},
    {"gelu_tanh", FloatFunction::kGeluTanh, exact_gelu_tanh, 3, 0x1p-23, 0xe4321105, -0.0f,
     kInfinity},
};

// Every exponent with either sign, NaN among them; more values within [-32, 32].
std::vector<float> function_values(bool many) {
  std::vector<float> values;
  const auto step = static_cast<uint64_t>(many ? 7919 : 104729);
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += step) {
    const auto pattern = static_cast<uint32_t>(bits);
    float x;
    std::memcpy(&x, &pattern, sizeof x);
    values.push_back(x);
  }
  Random random(3);
  for (int i = 0; i < (many ? 400000 : 20000); ++i)
    values.push_back(static_cast<float>(random.unit() * 64 - 32));
  return values;
}

void check_function(const KernelTable& table, const Function& f, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  table.float_rows->apply(f.function, x.data(), static_cast<int64_t>(x.size()), y.data());
  double worst = 0;
  size_t worst_at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) || std::isinf(x[i])) {
      const float limit = std::isnan(x[i]) ? kNan : x[i] < 0 ? f.at_minus : f.at_plus;
      OCTAVO_CHECK(same(y[i], limit), "%s(%a) is %a", f.name, x[i], y[i]);
      continue;
    }
    const double exact = f.exact(x[i]);
    const auto nearest = static_cast<float>(exact);
    if (std::isinf(nearest) || std::isinf(y[i])) {
      // Half a unit beyond the greatest float may go either way.
      OCTAVO_CHECK(std::fabs(exact) > 3.4028230e38, "%s(%a) is %a", f.name, x[i], y[i]);
      continue;
    }
    const double above = std::nextafterf(std::fabs(nearest), kInfinity);
    const double ulp = std::isinf(above) ? 0x1p104 : above - std::fabs(nearest);
    const double error = std::fabs(y[i] - exact) / std::max(ulp * f.ulps, f.least);
    if (!(error <= worst)) worst = error, worst_at = i;
  }
  OCTAVO_CHECK(worst <= 1, "%s(%a) is %a, %.2f times as far off as it may be", f.name, x[worst_at],
               y[worst_at], worst);
  // The bound says something: it is met by less than a factor of four.
  OCTAVO_CHECK(worst > 0.25, "%s is never off by more than %.2f of its bound", f.name, worst);
}

uint32_t hash_of(const KernelTable& table, const Function& f, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  table.float_rows->apply(f.function, x.data(), static_cast<int64_t>(x.size()), y.data());
  uint32_t hash = 2166136261u;  // FNV-1a, a word at a time
  for (const float value : y) hash = (hash ^ bits_of(std::isnan(value) ? kNan : value)) * 16777619u;
  return hash;
}

// --- rows ----------------------------------------------------------------------------------------

// function: 0 softmax, 1 layer norm, 2 RMS norm
// mask: 0 none, 1 of floats, 2 of bytes; mask_gap: from row to row beside n, or -n: one row for all
// values: 0 any, 1 some rows with NaN or infinities, 2 all equal, 3 huge, 4 tiny
// residual: 0 none, 1 added, 2 with its sum elsewhere, 3 in its own place (norms)
// in_place: y is x; sides: a bit for each operand
// clang-format off: it never settles on these
#define OCTAVO_ROWS_FIELDS(F) \
  F(function) F(rows) F(n) F(x_gap) F(y_gap) F(mask) F(mask_gap) F(weight) F(bias) F(run) \
  F(values) F(residual) F(in_place) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(RowsCase, "rows", OCTAVO_ROWS_FIELDS)

struct Problem {
  std::vector<float> x, mask, weight, bias, residual;
  std::vector<uint8_t> keep;
  int64_t x_stride, y_stride, mask_stride;
};

Problem make_problem(const RowsCase& c) {
  Random random(static_cast<uint64_t>(c.seed));
  Problem p;
  p.x_stride = c.n + c.x_gap;
  p.y_stride = c.in_place ? p.x_stride : c.n + c.y_gap;
  p.mask_stride = c.n + c.mask_gap;
  const auto extent = [&](int64_t stride) {
    return static_cast<size_t>(c.rows > 0 ? (c.rows - 1) * stride + c.n : 0);
  };
  p.x.resize(extent(p.x_stride));
  const double size = c.values == 3 ? 0x1p62 : c.values == 4 ? 0x1p-120 : 1;
  const auto all = static_cast<float>(random.unit() * 4 - 2);
  for (float& x : p.x) x = c.values == 2 ? all : static_cast<float>((random.unit() * 8 - 4) * size);
  for (int64_t row = 0; row < c.rows && c.values == 1 && c.n > 0; ++row) {
    float* x = p.x.data() + row * p.x_stride;
    const int64_t kind = random.below(6);
    if (kind == 0) std::fill(x, x + c.n, -kInfinity);
    if (kind == 1) x[random.below(c.n)] = kNan;
    if (kind == 2) x[random.below(c.n)] = kInfinity;
    if (kind == 3) x[random.below(c.n)] = -kInfinity;
    if (kind == 4) x[random.below(c.n)] = -0.0f;
  }
  p.residual.resize(c.residual != 0 ? extent(p.x_stride) : 0);
  for (float& r : p.residual) r = static_cast<float>((random.unit() * 8 - 4) * size);
  p.mask.resize(c.mask == 1 ? extent(p.mask_stride) : 0);
  for (float& m : p.mask)
    m = random.chance(3) ? -kInfinity : static_cast<float>(random.unit() * 2 - 1);
  p.keep.resize(c.mask == 2 ? extent(p.mask_stride) : 0);
  const bool none = random.chance(4);
  for (uint8_t& k : p.keep)
    k = none || random.chance(3) ? 0 : static_cast<uint8_t>(random.chance(3) ? 255 : 1);
  const auto weights = static_cast<size_t>(c.run > 0 ? c.n / c.run : 0);
  p.weight.resize(weights);
  for (float& w : p.weight) w = static_cast<float>(random.unit() * 2 - 1);
  p.bias.resize(weights);
  for (float& b : p.bias) b = static_cast<float>(random.unit() * 2 - 1);
  return p;
}

void reference_row(const RowsCase& c, const Problem& p, int64_t row, float* y) {
  const float* x = p.x.data() + row * p.x_stride;
  std::vector<float> sum(x, x + c.n);
  for (int64_t k = 0; k < c.n && c.residual != 0; ++k)
    sum[static_cast<size_t>(k)] += p.residual[static_cast<size_t>(row * p.x_stride + k)];
  x = sum.data();
  if (c.function == 0) {
    reference_softmax(x, c.n, c.mask == 1 ? p.mask.data() + row * p.mask_stride : nullptr,
                      c.mask == 2 ? p.keep.data() + row * p.mask_stride : nullptr, y);
  } else {
    reference_norm(x, c.n, c.function == 1, c.weight ? p.weight.data() : nullptr,
                   c.bias ? p.bias.data() : nullptr, c.run, 1e-5f, y);
  }
}

class RowsTest {
 public:
  int64_t nans = 0, zeros = 0;

  void check(const KernelTable& table, const RowsCase& c) {
    CaseScope<RowsCase> scope(table, c);
    const Problem p = make_problem(c);
    bit_ = 0;
    sides_ = c.sides;
    FloatRowsArgs args{};
    float* x = x_.copy(p.x.data(), p.x.size(), side());
    args.x = x;
    const auto span = static_cast<size_t>(c.rows > 0 ? (c.rows - 1) * p.y_stride + c.n : 0);
    float* y = y_.place_values<float>(span, side());
    args.y = c.in_place ? x : y;
    args.rows = c.rows;
    args.n = c.n;
    args.x_stride = p.x_stride;
    args.y_stride = p.y_stride;
    args.mask_stride = p.mask_stride;
    args.run = c.run;
    args.epsilon = 1e-5f;
    const float* mask = mask_.copy(p.mask.data(), p.mask.size(), side());
    const uint8_t* keep = keep_.copy(p.keep.data(), p.keep.size(), side());
    const float* weight = weight_.copy(p.weight.data(), p.weight.size(), side());
    const float* bias = bias_.copy(p.bias.data(), p.bias.size(), side());
    if (c.mask == 1) args.mask = mask;
    if (c.mask == 2) args.keep = keep;
    if (c.weight) args.weight = weight;
    if (c.bias) args.bias = bias;
    float* residual = residual_.copy(p.residual.data(), p.residual.size(), side());
    float* sum = sum_.copy(p.residual.data(), p.residual.size(), side());
    if (c.residual != 0) args.residual = residual;
    if (c.residual >= 2) args.sum = c.residual == 2 ? sum : residual;
    args.residual_stride = args.sum_stride = p.x_stride;
    const std::vector<float> before(args.y, args.y + span);
    const FloatRowsKernels& kernels = *table.float_rows;
    (c.function == 0   ? kernels.softmax
     : c.function == 1 ? kernels.layer_norm
                       : kernels.rms_norm)(args);
    std::vector<float> wanted(static_cast<size_t>(c.n));
    for (int64_t row = 0; row < c.rows; ++row) {
      reference_row(c, p, row, wanted.data());
      for (int64_t k = 0; k < p.y_stride && row * p.y_stride + k < static_cast<int64_t>(span);
           ++k) {
        const float got = args.y[row * p.y_stride + k];
        const float expected = k < c.n ? wanted[static_cast<size_t>(k)]
                                       : before[static_cast<size_t>(row * p.y_stride + k)];
        OCTAVO_CHECK(same(got, expected), "row %lld, value %lld: %a, expected %a",
                     static_cast<long long>(row), static_cast<long long>(k), got, expected);
        nans += std::isnan(got);
        zeros += k == 0 && got == 0.0f;
      }
      for (int64_t k = 0; k < c.n && c.residual >= 2; ++k) {
        const auto at = static_cast<size_t>(row * p.x_stride + k);
        OCTAVO_CHECK(same(args.sum[at], p.x[at] + p.residual[at]), "row %lld: the sum is %a",
                     static_cast<long long>(row), args.sum[at]);
      }
    }
    OCTAVO_CHECK(x_.intact() && y_.intact() && mask_.intact() && keep_.intact() &&
                     weight_.intact() && bias_.intact() && residual_.intact() && sum_.intact(),
                 "something beside an operand was written");
  }

 private:
  Side side() { return (sides_ >> bit_++) & 1 ? Side::kBegin : Side::kEnd; }

  GuardedBuffer x_, y_, mask_, keep_, weight_, bias_, residual_, sum_;
  int64_t bit_ = 0, sides_ = 0;
};

RowsCase random_case(Random& random) {
  RowsCase c;
  c.function = random.below(3);
  c.rows = random.between(1, 4);
  c.n = random.between(1, 150);
  c.x_gap = random.below(4);
  c.y_gap = random.below(4);
  c.mask = c.function == 0 ? random.below(3) : 0;
  c.mask_gap = random.chance(3) ? -c.n : random.below(3);
  c.weight = random.below(2);
  c.bias = random.below(2);
  c.run = 1;
  c.values = random.below(5);
  c.in_place = random.chance(4);
  c.residual = c.function != 0 && random.chance(3) ? random.between(1, 3) : 0;
  c.sides = random.below(256);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

// Softmax of columns between pages that may not be touched: to the bit that of the rows.
class ColumnsTest {
 public:
  void check(const KernelTable& table, Random& random, int64_t columns, int64_t n) {
    const int64_t gap = random.chance(2) ? 0 : random.between(1, 2), stride = columns + gap;
    const auto mask_kind = static_cast<int>(random.below(3));
    const bool is_shared = random.chance(2), in_place = random.chance(3);
    const int64_t mask_stride = is_shared ? random.between(1, 2) : stride;
    const auto span = static_cast<size_t>((n - 1) * stride + columns);
    const auto mask_span = static_cast<size_t>((n - 1) * mask_stride + (is_shared ? 1 : columns));
    std::vector<float> values(span), added(mask_kind == 1 ? mask_span : 0);
    std::vector<uint8_t> kept(mask_kind == 2 ? mask_span : 0);
    for (float& v : values) v = static_cast<float>(random.unit() * 8 - 4);
    if (random.chance(2)) values[static_cast<size_t>(random.below(columns))] = kNan;
    if (random.chance(2)) values[static_cast<size_t>(random.below(columns))] = kInfinity;
    for (float& v : added) v = random.chance(3) ? -kInfinity : static_cast<float>(random.unit());
    for (uint8_t& v : kept) v = static_cast<uint8_t>(random.chance(n < 3 ? 2 : 5) ? 0 : 255);
    const auto side = [&] { return random.chance(2) ? Side::kBegin : Side::kEnd; };
    FloatRowsArgs args{};
    float* x = x_.copy(values.data(), span, side());
    args.x = x;
    float* y = y_.copy(values.data(), span, side());
    args.y = in_place ? x : y;
    args.rows = columns;
    args.n = n;
    args.x_stride = args.y_stride = stride;
    args.mask = mask_kind == 1 ? mask_.copy(added.data(), mask_span, side()) : nullptr;
    args.keep = mask_kind == 2 ? keep_.copy(kept.data(), mask_span, side()) : nullptr;
    args.mask_stride = mask_stride;
    args.mask_is_shared = is_shared;
    table.float_rows->softmax_columns(args);
    const auto length = static_cast<size_t>(n);
    std::vector<float> row(length), row_mask(length), wanted(length);
    std::vector<uint8_t> row_keep(length);
    for (int64_t c = 0; c < columns; ++c) {
      for (size_t k = 0; k < length; ++k) {
        const size_t at =
            k * static_cast<size_t>(mask_stride) + (is_shared ? 0 : static_cast<size_t>(c));
        row[k] = values[k * static_cast<size_t>(stride) + static_cast<size_t>(c)];
        if (mask_kind == 1) row_mask[k] = added[at];
        if (mask_kind == 2) row_keep[k] = kept[at];
      }
      reference_softmax(row.data(), n, mask_kind == 1 ? row_mask.data() : nullptr,
                        mask_kind == 2 ? row_keep.data() : nullptr, wanted.data());
      for (int64_t k = 0; k < n; ++k) {
        const float got = args.y[k * stride + c], expected = wanted[static_cast<size_t>(k)];
        OCTAVO_CHECK(same(got, expected),
                     "column %lld of %lld, value %lld of %lld, mask %d: %a, expected %a",
                     static_cast<long long>(c), static_cast<long long>(columns),
                     static_cast<long long>(k), static_cast<long long>(n), mask_kind, got,
                     expected);
      }
    }
    for (int64_t k = 0; k + 1 < n; ++k) {
      for (int64_t c = columns; c < stride; ++c)
        OCTAVO_CHECK(same(args.y[k * stride + c], values[static_cast<size_t>(k * stride + c)]),
                     "written between the columns");
    }
    OCTAVO_CHECK(x_.intact() && y_.intact(), "something beside an operand was written");
  }

 private:
  GuardedBuffer x_, y_, mask_, keep_;
};

void check_rotate(const KernelTable& table, Random& random, int64_t n) {
  GuardedBuffer places[6];
  std::vector<float> values[4];
  float* at[6];
  for (int i = 0; i < 6; ++i) {
    std::vector<float> some(static_cast<size_t>(n));
    for (float& v : some) v = static_cast<float>(random.unit() * 2 - 1);
    at[i] = places[i].copy(some.data(), some.size(), random.chance(2) ? Side::kBegin : Side::kEnd);
    if (i < 4) values[i] = some;
  }
  const bool in_place = random.chance(2);
  float *y1 = in_place ? at[0] : at[4], *y2 = in_place ? at[1] : at[5];
  table.float_rows->rotate(at[0], at[1], at[2], at[3], n, y1, y2);
  for (size_t k = 0; k < static_cast<size_t>(n); ++k) {
    const float a = values[0][k], b = values[1][k], cos = values[2][k], sin = values[3][k];
    OCTAVO_CHECK(same(y1[k], std::fma(-b, sin, a * cos)) && same(y2[k], std::fma(b, cos, a * sin)),
                 "pair %zu of %lld", k, static_cast<long long>(n));
  }
  OCTAVO_CHECK(std::all_of(places, places + 6, [](const auto& place) { return place.intact(); }),
               "something beside an operand was written");
}

// --- the operator: any strides, any number of threads --------------------------------------------

// Three axes of x and y in orders of their own, rows along one of them; a mask that is broadcast
// along the first axis.
void check_strides(const KernelTable& table, Random& random) {
  const int64_t shape[] = {random.between(1, 5), random.between(1, 40), random.between(1, 40)};
  const auto along = static_cast<int>(random.below(3));
  const int64_t count = shape[0] * shape[1] * shape[2], n = shape[along];
  const auto strides = [&](int64_t(&stride)[3], int64_t extra) {
    int order[] = {0, 1, 2};
    for (int i = 2; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
    int64_t reach = extra;
    for (const int axis : order) {
      stride[axis] = reach;
      reach *= shape[axis];
    }
    return reach;
  };
  int64_t xs[3], ys[3], ms[3];
  std::vector<float> x(static_cast<size_t>(strides(xs, random.between(1, 2))));
  std::vector<float> y(static_cast<size_t>(strides(ys, random.between(1, 2))), 7.0f);
  std::vector<uint8_t> keep(static_cast<size_t>(strides(ms, 1)));
  ms[0] = 0;
  for (float& value : x) value = static_cast<float>(random.unit() * 8 - 4);
  for (uint8_t& value : keep) value = random.chance(4) ? 0 : 1;
  StridedRows rows(n, {xs[along], ys[along], ms[along]});
  StridedRows values(1, {1, 1, 1});
  std::vector<int> outer;
  for (int i = 0; i < 3; ++i) {
    values.add_axis(shape[i], {xs[i], ys[i], 0});
    if (i == along) continue;
    rows.add_axis(shape[i], {xs[i], ys[i], ms[i]});
    outer.push_back(i);
  }
  OCTAVO_CHECK(rows.count() * n == count, "rows are lost");
  std::vector<float> weight(static_cast<size_t>(n));
  for (float& w : weight) w = static_cast<float>(random.unit());
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y.data();
  args.run = 1;
  args.epsilon = 1e-5f;
  for (int function = 0; function < 4; ++function) {
    args.keep = function == 0 ? keep.data() : nullptr;
    args.weight = function == 0 ? nullptr : weight.data();
    for (const int threads : {1, 2, 8}) {
      std::fill(y.begin(), y.end(), 7.0f);
      if (function == 3)
        run_float_function(table, FloatFunction::kExp, values, x.data(), y.data(), threads);
      else
        run_rows(table, static_cast<RowFunction>(function), rows, args, nullptr, 1, threads);
      int64_t written = 0;
      for (const float value : y) written += value != 7.0f;
      OCTAVO_CHECK(written <= count, "written between the values");
      std::vector<float> row(static_cast<size_t>(n)), wanted(row.size());
      std::vector<uint8_t> row_keep(row.size());
      for (int64_t i = 0; i < shape[outer[0]]; ++i) {
        for (int64_t j = 0; j < shape[outer[1]]; ++j) {
          const int a = outer[0], b = outer[1];
          for (int64_t k = 0; k < n; ++k) {
            const auto at = static_cast<size_t>(k);
            row[at] = x[static_cast<size_t>(i * xs[a] + j * xs[b] + k * xs[along])];
            row_keep[at] = keep[static_cast<size_t>(i * ms[a] + j * ms[b] + k * ms[along])];
          }
          if (function == 0)
            reference_softmax(row.data(), n, nullptr, row_keep.data(), wanted.data());
          else if (function < 3)
            reference_norm(row.data(), n, function == 1, weight.data(), nullptr, 1, 1e-5f,
                           wanted.data());
          else
            std::transform(row.begin(), row.end(), wanted.begin(), reference_exp);
          for (int64_t k = 0; k < n; ++k) {
            const float got = y[static_cast<size_t>(i * ys[a] + j * ys[b] + k * ys[along])];
            const float expected = wanted[static_cast<size_t>(k)];
            OCTAVO_CHECK(same(got, expected),
                         "function %d, %lld x %lld x %lld along %d, %d threads: %a, expected %a",
                         function, static_cast<long long>(shape[0]),
                         static_cast<long long>(shape[1]), static_cast<long long>(shape[2]), along,
                         threads, got, expected);
          }
        }
      }
    }
  }
}

// Groups of channels, each with weights of its own; long enough to be shared out.
void check_groups(const KernelTable& table) {
  const int64_t batch = 3, groups = 4, channels = 3, pixels = 1031, n = channels * pixels;
  std::vector<float> x(static_cast<size_t>(batch * groups * n)), y(x.size()), wanted(x.size());
  std::vector<float> weight(static_cast<size_t>(groups * channels)), bias(weight.size());
  Random random(4);
  for (float& value : x) value = static_cast<float>(random.unit());
  for (float& value : weight) value = static_cast<float>(random.unit());
  for (float& value : bias) value = static_cast<float>(random.unit());
  for (int64_t row = 0; row < batch * groups; ++row) {
    const int64_t first = row % groups * channels;
    reference_norm(x.data() + row * n, n, true, weight.data() + first, bias.data() + first, pixels,
                   1e-3f, wanted.data() + row * n);
  }
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y.data();
  args.weight = weight.data();
  args.bias = bias.data();
  args.run = pixels;
  args.epsilon = 1e-3f;
  StridedRows rows(n, {1, 1, 0});
  rows.add_axis(batch, {groups * n, groups * n, 0});
  rows.add_axis(groups, {n, n, 0});
  for (const int threads : {1, 2, 8}) {
    std::fill(y.begin(), y.end(), 0.0f);
    run_rows(table, RowFunction::kLayerNorm, rows, args, nullptr, groups, threads);
    OCTAVO_CHECK(y == wanted, "groups by %d threads", threads);
  }
}

void check_no_memory(const KernelTable& table) {
  const int64_t n = 50000, rows_count = 40;
  std::vector<float> x(static_cast<size_t>(n * rows_count), 1.0f), y(x.size());
  StridedRows rows(n, {rows_count, 1, 0});  // gathered: neighbours lie apart in y
  rows.add_axis(rows_count, {1, n, 0});
  FloatRowsArgs args{};
  args.x = x.data();
  args.y = y.data();
  args.run = 1;
  std::thread([&] {
    for (const int threads : {1, 2}) {
      memory_is_out = true;
      bool thrown = false;
      try {
        run_rows(table, RowFunction::kSoftmax, rows, args, nullptr, 1, threads);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      memory_is_out = false;
      OCTAVO_CHECK(thrown, "no memory: nothing was thrown");
    }
    run_rows(table, RowFunction::kSoftmax, rows, args, nullptr, 1, 1);
  }).join();
  std::vector<float> ones(static_cast<size_t>(n), 1.0f), wanted(ones.size());
  reference_softmax(ones.data(), n, nullptr, nullptr, wanted.data());
  OCTAVO_CHECK(y[0] == wanted[0] && y.back() == wanted.back(), "memory again: another result");
}

void test_rows(const KernelTable& table) {
  running.isa = table.info->name;
  const bool small = in_qemu();
  const bool is_slow = !small && table.info->required == 0;
  const std::vector<float> x = function_values(!small && !is_slow);
  const std::vector<float> hashed = function_values(false);
  for (const Function& f : kFunctions) {
    check_function(table, f, x);
    const uint32_t hash = hash_of(table, f, hashed);
    OCTAVO_CHECK(hash == f.hash, "%s: the bits have changed: hash 0x%08x, was 0x%08x", f.name, hash,
                 f.hash);
  }

  RowsTest test;
  Random random(7);
  // Every length past the lanes of a sum, ends included, of every function.
  for (int64_t n = 0; n <= (small ? 70 : 200); ++n) {
    for (int64_t function = 0; function < 3; ++function) {
      RowsCase c = random_case(random);
      c.function = function;
      c.n = n;
      if (function != 0)
        c.mask = 0;
      else
        c.residual = 0;
      if (c.mask_gap < 0) c.mask_gap = -n;
      test.check(table, c);
    }
  }
  for (int i = 0; i < (small ? 200 : 3000); ++i) test.check(table, random_case(random));
  for (int i = 0; i < (small ? 2 : 20); ++i) {
    RowsCase c = random_case(random);
    c.n = random.between(500, 3000);
    if (c.mask_gap < 0) c.mask_gap = -c.n;
    test.check(table, c);
  }
  // Weights that runs of values share.
  for (int i = 0; i < (small ? 20 : 300); ++i) {
    RowsCase c = random_case(random);
    c.function = random.between(1, 2);
    c.mask = 0;
    c.run = random.between(2, 80);
    c.n = c.run * random.between(1, 4);
    test.check(table, c);
  }
  {
    RowsCase c;  // no rows
    c.run = c.n = 1;
    test.check(table, c);
  }
  OCTAVO_CHECK(test.nans > 0 && test.zeros > 0, "no NaN, or no row of zeros: vacuous");
  ColumnsTest columns;
  for (int64_t count = 1; count <= (small ? 20 : 140); ++count)
    columns.check(table, random, count, random.between(1, 20));
  for (int64_t n = 1; n <= (small ? 70 : 200); ++n)
    columns.check(table, random, random.between(1, 80), n);
  for (int64_t n = 0; n <= 70; ++n) check_rotate(table, random, n);
  for (int i = 0; i < (small ? 10 : 150); ++i) check_strides(table, random);
  check_groups(table);
  check_no_memory(table);
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
  running.cases = 0;
}

// Each was compared with the reference, functions with each other's hash.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  RowsCase c;
  if (!parse_case(line, c)) return false;
  RowsTest test;
  test.check(table, c);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  return octavo::run_tests(argc, argv, octavo::test_rows, octavo::compare_tables,
                           octavo::repeat_case);
}
