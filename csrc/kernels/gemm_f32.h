// gemm_f32 and gemm_f16f32: C = A * B, float32 sums, by the loops of gemm.h. Each output is one
// chain of fused multiply-adds, k ascending from +0: the same bits on every ISA. K may be taken in
// parts (`accumulate`: the chain goes on from C); bias and activation come with the last one.
//
// Of GemmArgs count: a (float32), lda, m, segments, pitch, segment_length, b, b_prefetch, b_next,
// width, n, c (float32), ldc, bias, activate, lo, hi, accumulate. B: [k][width] panels of float32,
// or of float16 (binary16), which is widened as it is read.
#pragma once

#include "kernels/gemm.h"

namespace octavo {

struct GemmF32Kernels {
  void (*run)(const GemmArgs& args);
  void (*run_half)(const GemmArgs& args);  // B is float16
  void (*widen)(const uint16_t* half, int64_t count, float* out);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// A float tile has the registers of the integer one.
template <class Isa, class Stored>
struct FloatTile {
  using Integers = typename Isa::U8S8;
  using Vector = typename Isa::Vector;
  using Row = typename Vector::F;
  using Acc = typename Vector::F;
  using AVec = typename Vector::F;
  using BVec = typename Vector::F;
  using Flip = int;
  using AValue = float;
  template <bool kStored>
  using BValue = Stored;
  static constexpr bool kIntegers = false;
  static constexpr int kAccRows = 1;
  static constexpr int kVectorColumns = Vector::kLanes;
  static constexpr int kKr = 1;
  static constexpr int kMaxVectors = Integers::kMaxVectors;
  static constexpr const auto& kRows = Integers::kRows;
  static constexpr int kChains = 1;
  static constexpr int kExpandedBytes = 1;

  static OCTAVO_INLINE Acc zero() { return Vector::set(0.0f); }
  static OCTAVO_INLINE Acc add_acc(Acc a, Acc b) { return Vector::add(a, b); }
  template <int kW, int kHeld>
  static OCTAVO_INLINE void split(const Row (&rows)[kHeld][kW], int i, int w, Acc (&acc)[1]) {
    acc[0] = rows[i][w];
  }
  template <int kW, int kHeld>
  static OCTAVO_INLINE void join(const Acc (&acc)[1], Row (&rows)[kHeld][kW], int i, int w) {
    rows[i][w] = acc[0];
  }
  static OCTAVO_INLINE Flip broadcast_flip(uint8_t) { return 0; }
  static OCTAVO_INLINE AVec load_a(const float* p, int64_t, Flip) { return Vector::set(*p); }
  static OCTAVO_INLINE AVec load_a_tail(const float* p, int64_t, int, Flip) {
    return Vector::set(*p);
  }
  static OCTAVO_INLINE BVec load_b(const float* p) { return Vector::load(p); }
  static OCTAVO_INLINE BVec load_b(const uint16_t* p) { return Vector::load_half(p); }
  static OCTAVO_INLINE void dot(Acc& acc, AVec a, BVec b) { acc = Vector::fma(a, b, acc); }

  template <class X>
  static OCTAVO_INLINE void keep(X& x) {
    Integers::keep(x);
  }
  template <class X>
  static OCTAVO_INLINE void opaque(X& x) {
    Integers::opaque(x);
  }
  template <class X>
  static OCTAVO_INLINE void in_order(X& x) {
    Integers::in_order(x);
  }
  template <class P>
  static OCTAVO_INLINE void keep_pointer(P& p) {
    Integers::keep_pointer(p);
  }
  static OCTAVO_INLINE void prefetch_write(const char* p) { Integers::prefetch_write(p); }
  static OCTAVO_INLINE void prefetch_read(const char* p) { Integers::prefetch_read(p); }
};

template <class Isa>
void gemm_f32_widen(const uint16_t* half, int64_t count, float* out) {
  using V = typename Isa::Vector;
  for (int64_t i = 0; i < count; i += V::kLanes) V::store(out + i, V::load_half(half + i));
}

template <class Isa>
constexpr GemmF32Kernels gemm_f32_kernels() {
  return {gemm_run<FloatTile<Isa, float>>, gemm_run<FloatTile<Isa, uint16_t>>, gemm_f32_widen<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
