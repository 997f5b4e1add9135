// LSTM and GRU by ONNX's equations (docs/recurrent.md): prepared once, run many times, from many
// threads.
//
//   for each chunk of steps
//     the input's part of the gates, all steps and rows of the batch at once
//     for each direction and group of rows (shared out to threads: nobody waits within a chunk)
//       for each step: the state's product, the cell
//
// A cell lies in the order of ONNX's weights: i o f c of an LSTM, z r h of a GRU.
#pragma once

#include <cstdint>
#include <limits>
#include <variant>
#include <vector>

#include "ops/float_linear.h"
#include "ops/grouped_linear.h"
#include "ops/linear.h"

namespace octavo {

// An operator that gives float32 for float32; it belongs to the caller.
using Projection = std::variant<const Linear*, const FloatLinear*, const GroupedLinear*>;

struct CellFunction {
  enum class Kind { kSigmoid, kTanh, kRelu, kHardSigmoid };
  Kind kind;
  float alpha, beta;  // kHardSigmoid
};

struct CellDirection {
  bool is_reverse;
  Projection input;  // gates * hidden values of a row of x
  // One of as many values of a row of H; or, where a GRU resets before the product, one of z and r
  // and one of the candidate, of a row of r * H.
  std::vector<Projection> state;
  std::vector<float> peepholes;  // empty, or i, o, f of an LSTM
  CellFunction f, g, h;
};

struct RecurrentSpec {
  bool is_lstm;
  int64_t hidden;
  bool couples_forget = false;                          // LSTM: f = 1 - i
  float clip = std::numeric_limits<float>::infinity();  // of what f and g are given
  std::vector<CellDirection> directions;
};

// Strides are in values; values of a row lie side by side.
struct RecurrentCall {
  int64_t steps, batch;
  const float* x;
  int64_t x_step, x_row;
  float* y;
  int64_t y_step, y_row, y_direction;
  float *h, *c;  // the state, before and after; a GRU has no c of its own, and takes that for h
  int64_t state_row, state_direction;
  const int32_t* lengths;  // steps of each row; null: all
};

class Recurrent {
 public:
  // Throws std::invalid_argument where the parts do not go together.
  explicit Recurrent(RecurrentSpec spec);

  void run(const RecurrentCall& call, const KernelTable& table, int threads) const;

  bool is_lstm() const { return spec_.is_lstm; }
  int64_t in_features() const;
  int64_t hidden() const { return spec_.hidden; }
  int64_t directions() const { return static_cast<int64_t>(spec_.directions.size()); }

 private:
  int64_t width() const { return (spec_.is_lstm ? 4 : 3) * spec_.hidden; }  // of all gates

  RecurrentSpec spec_;
};

}  // namespace octavo
