// The arguments of float functions and norms, as their functions and plans take them.
#pragma once

#include <string>

#include "bindings/ndarray.h"
#include "kernels/float_rows.h"

namespace octavo {

FloatFunction function_named(const std::string& given);
float epsilon_of(const py::object& object);

}  // namespace octavo
