// What a call of a recurrent operator and a plan with one have in common.
#pragma once

#include <vector>

#include "bindings/ndarray.h"
#include "ops/recurrent.h"

namespace octavo {

// What Python holds: the operators that the recurrent one calls must outlive it.
struct RecurrentObject {
  std::vector<py::object> parts;
  Recurrent op;
  bool batch_first;
};

// A call on x of this shape, without arrays, and the shapes of its results; throws where x is not
// so.
struct RecurrentShapes {
  RecurrentCall call;
  Shape state, sequence;
  int64_t macs;

  RecurrentShapes(const RecurrentObject& object, const Shape& x);
  int64_t state_size() const { return state[0] * state[1] * state[2]; }
};

}  // namespace octavo
