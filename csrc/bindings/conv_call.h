// What a call of a convolution and a plan with one have in common.
#pragma once

#include "bindings/ndarray.h"
#include "ops/conv.h"

namespace octavo {

Type result_type(const Conv& conv);
Type residual_type(const Conv& conv);
Type code_type(const Conv& conv);  // of codes that it was prepared for
bool takes(const Conv& conv, Type type);

Conv::Shape shape_of(const Conv& conv, const Shape& sizes);
// Throws ValueError unless x has 4 dimensions and the channels of the weights.
Shape result_shape(const Conv& conv, const Shape& x);
// For a result of this shape.
int64_t macs_of(const Conv& conv, const Shape& result);

}  // namespace octavo
