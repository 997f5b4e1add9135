// info: what an ISA is called, what it needs of the CPU, and the sizes that drivers must respect;
// with a register-only loop that measures its peak.
#pragma once

#include <stdint.h>

namespace octavo {

struct InfoKernels {
  const char* name;   // the ISA, as OCTAVO_ISA spells it
  uint32_t required;  // CpuFeature bits
  bool test_only;     // never chosen unless asked for by name
  int kr;             // values of K in one group of packed B, per column
  int nr;             // columns of a full panel of packed B
  int nv;             // columns that one row vector holds: the last panel is a multiple of it
  int mr;             // rows of a full-width tile
  bool a_signed;      // A is brought to int8 (else to uint8) by flipping the top bit
  bool flips;         // the micro-kernel does so (a_flip); else A must come flipped
  int a_bytes;        // bytes of one value of A as the micro-kernel reads it (2: prepare_a widens)
  int b_bytes;        // bytes of one value of B after expand_b (1: the stored form is used)
  int mc;             // rows of A that are prepared together
  int dot_macs;       // multiply-accumulates of one dot product: how fast the ISA is
  // Multiply-accumulates done by `iterations` rounds of dot products that touch no memory.
  int64_t (*peak)(int64_t iterations);
  // Reads `bytes` bytes with the widest loads, as fast as they come.
  int32_t (*read)(const uint8_t* p, int64_t bytes);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

template <class Isa>
int64_t peak_loop(int64_t iterations) {
  using T = typename Isa::U8S8;
  constexpr int kChains = 12;  // enough to hide the latency of any dot product
  typename T::Acc acc[kChains];
  alignas(64) int8_t bytes[T::kBVectorBytes] = {};
  typename T::BVec b = T::load_b(bytes);
  alignas(64) typename T::AValue a_bytes[2 * 8] = {};
  typename T::AVec a = T::load_a(a_bytes, 8, T::broadcast_flip(0));
  OCTAVO_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = T::zero();
  for (int64_t n = 0; n < iterations; ++n) {
    OCTAVO_UNROLL
    for (int i = 0; i < kChains; ++i) {
      T::opaque(a);
      T::opaque(b);  // else part of a product that never changes is taken out of the loop
      T::dot(acc[i], a, b);
      T::opaque(acc[i]);
    }
  }
  return iterations * kChains * T::kMacsPerDot;
}

template <class Isa>
int32_t read_loop(const uint8_t* p, int64_t bytes) {
  using V = typename Isa::Vector;
  constexpr int N = 8;
  constexpr int64_t kStep = N * V::kLanes * static_cast<int64_t>(sizeof(int32_t));
  typename V::I sum[N];
  for (auto& x : sum) x = V::set_i(0);
  for (int64_t i = 0; i + kStep <= bytes; i += kStep) {
    const auto* values = reinterpret_cast<const int32_t*>(p + i);
    OCTAVO_UNROLL
    for (int v = 0; v < N; ++v) sum[v] = V::add_i(sum[v], V::load_i(values + v * V::kLanes));
  }
  for (int v = 1; v < N; ++v) sum[0] = V::add_i(sum[0], sum[v]);
  int32_t lanes[V::kLanes];
  V::store(lanes, sum[0]);
  return lanes[0];
}

template <class Isa>
constexpr InfoKernels info_kernels() {
  using T = typename Isa::U8S8;
  return {Isa::kName,
          Isa::kRequired,
          Isa::kTestOnly,
          T::kKr,
          T::kMaxVectors * T::kVectorColumns,
          T::kVectorColumns,
          T::kRows[T::kMaxVectors - 1],
          T::kASigned,
          T::kFlips,
          static_cast<int>(sizeof(typename T::AValue)),
          T::kExpandedBytes,
          T::kMc,
          static_cast<int>(T::kMacsPerDot),
          peak_loop<Isa>,
          read_loop<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
