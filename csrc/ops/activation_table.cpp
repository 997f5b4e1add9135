#include "ops/activation_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace octavo {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// exp(r) - 1 for |r| <= 0.35: Taylor's series to r^15 / 15!, whose next term is below 2^-60 r.
double small_expm1(double r) {
  double sum = 0.0;
  for (int n = 15; n >= 2; --n) sum = (sum + 1.0) * r / n;
  return (sum + 1.0) * r;
}

// exp(x) = 2^k exp(r) with x = k ln 2 + r; ln 2 in two parts, the first so short that its product
// with k is exact (Cody and Waite, "Software Manual for the Elementary Functions", 1980).
double exponential(double x) {
  if (x > 709.0) return kInfinity;
  if (x < -708.0) return 0.0;
  const double k = std::floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  const int64_t bits = (static_cast<int64_t>(k) + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return power * (1.0 + small_expm1(r));
}

double expm1(double x) { return std::fabs(x) <= 0.35 ? small_expm1(x) : exponential(x) - 1.0; }

double tanh(double x) {
  if (std::fabs(x) > 20.0) return x > 0.0 ? 1.0 : -1.0;
  const double e = expm1(2.0 * x);
  return e / (e + 2.0);
}

// erf(x) = 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)): Abramowitz and
// Stegun, "Handbook of Mathematical Functions", 7.1.6. No term is negative.
double erf(double x) {
  if (std::fabs(x) > 6.0) return x > 0.0 ? 1.0 : -1.0;
  double term = x, sum = x;
  for (int n = 1; n < 200 && sum != 0.0; ++n) {
    term = term * (2.0 * x * x) / (2 * n + 1);
    if (sum + term == sum) break;
    sum += term;
  }
  return 1.1283791670955126 * exponential(-x * x) * sum;
}

double sigmoid(double x) {
  return x < 0.0 ? exponential(x) / (1.0 + exponential(x)) : 1.0 / (1.0 + exponential(-x));
}

double clip(double x, double lo, double hi) { return std::min(std::max(x, lo), hi); }

struct Function {
  const char* name;
  double (*of)(double x, double alpha, double beta);
  double alpha, beta;  // where the caller says nothing
};

constexpr Function kFunctions[] = {
    {"identity", [](double x, double, double) { return x; }, 0, 0},
    {"relu", [](double x, double, double) { return std::max(x, 0.0); }, 0, 0},
    {"clip", clip, -kInfinity, kInfinity},
    {"leaky_relu", [](double x, double a, double) { return x < 0.0 ? a * x : x; }, 0.01, 0},
    {"elu", [](double x, double a, double) { return x < 0.0 ? a * expm1(x) : x; }, 1.0, 0},
    {"hard_sigmoid", [](double x, double a, double b) { return clip(a * x + b, 0.0, 1.0); }, 0.2,
     0.5},
    {"hard_swish", [](double x, double, double) { return x * clip(x / 6.0 + 0.5, 0.0, 1.0); }, 0,
     0},
    {"sigmoid", [](double x, double, double) { return sigmoid(x); }, 0, 0},
    {"silu", [](double x, double, double) { return x * sigmoid(x); }, 0, 0},
    {"tanh", [](double x, double, double) { return tanh(x); }, 0, 0},
    {"gelu", [](double x, double, double) { return 0.5 * x * (1.0 + erf(x * 0.7071067811865476)); },
     0, 0},
    {"gelu_tanh",
     [](double x, double, double) {
       return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x))));
     },
     0, 0},
};

}  // namespace

void fill_activation_table(const std::string& name, const CodeSpec& x, const CodeSpec& y,
                           const double* alpha, const double* beta, uint8_t* codes) {
  const auto* function = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                      [&](const Function& f) { return name == f.name; });
  if (function == std::end(kFunctions)) {
    std::string known;
    for (const Function& f : kFunctions) known += (known.empty() ? "" : ", ") + std::string(f.name);
    throw std::invalid_argument("activation must be one of " + known + ", got '" + name + "'");
  }
  const double a = alpha ? *alpha : function->alpha, b = beta ? *beta : function->beta;
  const int32_t least = y.is_signed ? -128 : 0;
  const auto lo = static_cast<float>(least - y.zero_point);
  const auto hi = static_cast<float>(least + 255 - y.zero_point);
  for (int32_t i = 0; i < 256; ++i) {
    const int32_t code = x.is_signed && i >= 128 ? i - 256 : i;
    const double real = static_cast<double>(x.scale) * (code - x.zero_point);
    float v = static_cast<float>(function->of(real, a, b)) / y.scale;
    if (v != v) v = 0.0f;
    v = std::nearbyint(std::min(std::max(v, lo), hi));
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(v) + y.zero_point);
  }
}

}  // namespace octavo
