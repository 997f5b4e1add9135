#include "bindings/recurrent_call.h"

#include "bindings/context.h"

namespace octavo {

RecurrentShapes::RecurrentShapes(const RecurrentObject& object, const Shape& x) : call{} {
  const Recurrent& op = object.op;
  const bool batch_first = object.batch_first;
  if (x.size() != 3)
    raise_value("x must have shape ", batch_first ? "(batch, steps, " : "(steps, batch, ",
                "in), got ", shape_text(x));
  if (x[2] != op.in_features())
    raise_value("w has in_features=", op.in_features(), ", x has ", x[2], "; they must be equal");
  const int64_t n = op.hidden(), directions = op.directions(), in = op.in_features();
  const auto shape = [](std::initializer_list<int64_t> lengths) {
    Shape made;
    for (const int64_t length : lengths) made.push_back(static_cast<py::ssize_t>(length));
    return made;
  };
  call.steps = x[batch_first ? 1 : 0];
  call.batch = x[batch_first ? 0 : 1];
  state = batch_first ? shape({call.batch, directions, n}) : shape({directions, call.batch, n});
  sequence = batch_first ? shape({call.batch, call.steps, directions, n})
                         : shape({call.steps, directions, call.batch, n});
  call.x_step = batch_first ? in : call.batch * in;
  call.x_row = batch_first ? call.steps * in : in;
  call.y_direction = batch_first ? n : call.batch * n;
  call.y_step = directions * (batch_first ? n : call.batch * n);
  call.y_row = batch_first ? call.steps * directions * n : n;
  call.state_row = batch_first ? directions * n : n;
  call.state_direction = call.y_direction;
  macs = call.steps * call.batch * directions * (op.is_lstm() ? 4 : 3) * n *
         (in + n + NativeScope::kMacsPerValue);
}

}  // namespace octavo
