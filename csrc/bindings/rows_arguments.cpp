#include "bindings/rows_arguments.h"

#include <cmath>
#include <utility>

namespace octavo {
namespace {

constexpr std::pair<const char*, FloatFunction> kFunctions[] = {
    {"exp", FloatFunction::kExp},           {"erf", FloatFunction::kErf},
    {"tanh", FloatFunction::kTanh},         {"sigmoid", FloatFunction::kSigmoid},
    {"silu", FloatFunction::kSilu},         {"gelu", FloatFunction::kGelu},
    {"gelu_tanh", FloatFunction::kGeluTanh}};

}  // namespace

FloatFunction function_named(const std::string& given) {
  std::string list;
  for (const auto& [known, function] : kFunctions) {
    if (given == known) return function;
    list += std::string(list.empty() ? "" : ", ") + known;
  }
  raise_value("name must be one of ", list, ", got ", given);
}

float epsilon_of(const py::object& object) {
  const float epsilon = one_float(object.ptr(), "eps");
  if (!(epsilon >= 0.0f) || std::isinf(epsilon))
    raise_value("eps must be at least 0 and finite, got ", epsilon);
  return epsilon;
}

}  // namespace octavo
