// Elementwise kernels from 8-bit codes to 8-bit codes (DESIGN section 4, rules 4 and 8).
//
//   add        rint(float32(a - az) * a_scale + float32(b - bz) * b_scale) + yz, no fma
//   multiply   rint(float32((a - az) * (b - bz)) * a_scale) + yz
//   lookup     table[x], x as the byte it is
//
// y may be a, b or x itself; else they must not overlap.
#pragma once

#include <stdint.h>

#include "kernels/bytes.h"

namespace octavo {

struct AddArgs {
  const uint8_t* a;
  const uint8_t* b;
  uint8_t* y;
  int64_t count;
  bool a_signed, b_signed, y_signed;  // int8, else uint8
  int32_t a_zero, b_zero, y_zero;
  float a_scale, b_scale;  // float32(as / ys), float32(bs / ys), below 2^100
  float lo, hi;            // bounds of the code less y_zero: whole numbers
  bool b_is_one = false;   // b points to one code, for every a
};

struct EltwiseKernels {
  void (*add)(const AddArgs& args);
  void (*multiply)(const AddArgs& args);  // a_scale is float32((as * bs) / ys), b_scale is not read
  void (*lookup)(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y);
  // Rows of `count` bytes, one after another in x, y_step apart in y; through a table, or (null) as
  // they are; y may be x where there is one row.
  void (*place)(const uint8_t* x, int64_t rows, int64_t count, const uint8_t* table, uint8_t* y,
                int64_t y_step);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// y[i ..] = body(i, n) for runs of n = Bytes::kCount, the last one repeating some of the run before
// it; a shorter n where there are no more. The last run is read before anything is written.
template <class Bytes, class Body>
OCTAVO_INLINE void map_bytes(int64_t count, uint8_t* y, const Body& body) {
  constexpr int64_t kStep = Bytes::kCount;
  if (count < kStep) {
    if (count > 0) Bytes::store_part(y, body(0, count), count);
    return;
  }
  const typename Bytes::B last = body(count - kStep, kStep);
  for (int64_t i = 0; i + kStep < count; i += kStep) Bytes::store(y + i, body(i, kStep));
  Bytes::store(y + count - kStep, last);
}

// Codes from two tensors: combine(a, b) of floats less their zero points is what is rounded.
template <class Isa, bool kOneB, class Combine>
OCTAVO_INLINE void combine_codes(const AddArgs& args, const Combine& combine) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  using B = typename Bytes::B;
  using F = typename V::F;
  // Signed codes are brought to bytes by flipping the top bit, as if 128 were added.
  const B a_flip = Bytes::set(args.a_signed ? 0x80 : 0),
          b_flip = Bytes::set(args.b_signed ? 0x80 : 0);
  const F a_center = Bytes::center(args.a_zero + (args.a_signed ? 128 : 0));
  const F b_center = Bytes::center(args.b_zero + (args.b_signed ? 128 : 0));
  const uint8_t flip = args.y_signed ? 0 : 0x80;
  const int32_t offset = args.y_zero - flip;
  const B y_flip = Bytes::set(flip);
  // Clamping codes is clamping before rounding, for the bounds are whole.
  const auto bound = [&](float x) {
    return Bytes::set(static_cast<uint8_t>(static_cast<int32_t>(x) + offset));
  };
  const B lo = bound(args.lo), hi = bound(args.hi);
  // What exceeds int32 is brought below it where it is positive, and comes out of the conversion
  // as the least int32 where it is negative; narrow() saturates.
  const F most = V::set(0x1p20f);
  F one[4];
  Bytes::centered(Bytes::exclusive_or(Bytes::set(kOneB ? *args.b : 0), b_flip), b_center, one);
  map_bytes<Bytes>(args.count, args.y, [&](int64_t i, int64_t n) OCTAVO_INLINE_LAMBDA {
    F a[4], b[4];
    Bytes::centered(Bytes::exclusive_or(load_bytes<Bytes>(args.a + i, n), a_flip), a_center, a);
    if (!kOneB)
      Bytes::centered(Bytes::exclusive_or(load_bytes<Bytes>(args.b + i, n), b_flip), b_center, b);
    typename V::I codes[4];
    OCTAVO_UNROLL
    for (int v = 0; v < 4; ++v)
      codes[v] = V::round(V::min(combine(a[v], kOneB ? one[v] : b[v]), most));
    const B y = Bytes::narrow(codes, offset);
    return Bytes::exclusive_or(Bytes::template min<true>(Bytes::template max<true>(y, lo), hi),
                               y_flip);
  });
}

template <class Isa>
void eltwise_add(const AddArgs& args) {
  using V = typename Isa::Vector;
  const typename V::F a_scale = V::set(args.a_scale), b_scale = V::set(args.b_scale);
  const auto sum = [&](typename V::F a, typename V::F b) OCTAVO_INLINE_LAMBDA {
    return V::add(V::mul(a, a_scale), V::mul(b, b_scale));
  };
  args.b_is_one ? combine_codes<Isa, true>(args, sum) : combine_codes<Isa, false>(args, sum);
}

template <class Isa>
void eltwise_multiply(const AddArgs& args) {
  using V = typename Isa::Vector;
  const typename V::F scale = V::set(args.a_scale);
  const auto product = [&](typename V::F a, typename V::F b) OCTAVO_INLINE_LAMBDA {
    return V::mul(V::mul(a, b), scale);  // a b is below 2^17 and exact
  };
  args.b_is_one ? combine_codes<Isa, true>(args, product)
                : combine_codes<Isa, false>(args, product);
}

// y[i] = of(x[i]) for vectors of bytes.
template <class Bytes, class Of>
OCTAVO_INLINE void place_rows(const uint8_t* x, int64_t rows, int64_t count, uint8_t* y,
                              int64_t y_step, const Of& of) {
  for (int64_t row = 0; row < rows; ++row, x += count, y += y_step) {
    map_bytes<Bytes>(count, y, [&](int64_t i, int64_t n) OCTAVO_INLINE_LAMBDA {
      return of(load_bytes<Bytes>(x + i, n));
    });
  }
}

template <class Isa>
void eltwise_place(const uint8_t* x, int64_t rows, int64_t count, const uint8_t* table, uint8_t* y,
                   int64_t y_step) {
  using Bytes = typename Isa::Bytes;
  using B = typename Bytes::B;
  if (!table)
    return place_rows<Bytes>(x, rows, count, y, y_step, [](B b) OCTAVO_INLINE_LAMBDA { return b; });
  // Loading the table into registers costs as much as so many bytes one by one.
  if (rows * count < Bytes::kCount) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < count; ++i) y[row * y_step + i] = table[x[row * count + i]];
    }
    return;
  }
  const typename Bytes::Lookup lookup(table);
  place_rows<Bytes>(x, rows, count, y, y_step,
                    [&](B b) OCTAVO_INLINE_LAMBDA { return lookup.of(b); });
}

template <class Isa>
void eltwise_lookup(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y) {
  eltwise_place<Isa>(x, 1, count, table, y, 0);
}

template <class Isa>
constexpr EltwiseKernels eltwise_kernels() {
  return {eltwise_add<Isa>, eltwise_multiply<Isa>, eltwise_lookup<Isa>, eltwise_place<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
