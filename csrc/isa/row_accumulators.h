// The part of a tile trait that is the same wherever one accumulator covers one row: row vectors
// are accumulators as they are.
#pragma once

#include <stdint.h>

namespace octavo {
namespace {

template <class V>
struct RowAccumulators {
  using Vector = V;
  using Row = typename V::I;
  using Acc = typename V::I;
  static constexpr bool kIntegers = true;
  static constexpr int kAccRows = 1;
  static constexpr int kVectorColumns = V::kLanes;

  static OCTAVO_INLINE Acc zero() { return V::set_i(0); }
  static OCTAVO_INLINE Acc add_acc(Acc a, Acc b) { return V::add_i(a, b); }
  static OCTAVO_INLINE Row load_row(const int32_t* p) { return V::load_i(p); }
  static OCTAVO_INLINE Row set_row(int32_t x) { return V::set_i(x); }
  static OCTAVO_INLINE Row add_product(Row sum, Row a, Row b) {
    return V::add_i(sum, V::mul_i(a, b));
  }

  // Row vectors of block i, column w, to its accumulators, and back.
  template <int kW, int kRows>
  static OCTAVO_INLINE void split(const Row (&rows)[kRows][kW], int i, int w, Acc (&acc)[1]) {
    acc[0] = rows[i][w];
  }
  template <int kW, int kRows>
  static OCTAVO_INLINE void join(const Acc (&acc)[1], Row (&rows)[kRows][kW], int i, int w) {
    rows[i][w] = acc[0];
  }
};

}  // namespace
}  // namespace octavo
