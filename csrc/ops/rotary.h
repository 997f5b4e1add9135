// Rotary position embedding: pairs of each head's values are turned by an angle of their token's
// position, whose cosine and sine are given (Su et al., RoFormer, arXiv:2104.09864, equation 34).
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace octavo {

struct RotaryArgs {
  const float* x;
  float* y;
  int64_t batch, heads, tokens, length;
  int64_t x_strides[4], y_strides[4];  // in the order of the lengths, in values

  // The first 2 * pairs values of a head turn, the rest stay. A pair is two neighbours, or else
  // value i and value pairs + i.
  int64_t pairs;
  bool is_interleaved;

  const float *cos, *sin;   // rows of `pairs` values
  const int64_t* position;  // the row of (batch, token); null: all rows in that order
};

void run_rotary(const KernelTable& table, const RotaryArgs& args, int threads);

}  // namespace octavo
