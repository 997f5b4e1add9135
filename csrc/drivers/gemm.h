// C = epilogue(A * B): blocks, edges, small M, threads, and sums beyond int32, around the kernel.
//
//   for each block of mc rows of A      (or, where rows are few: for each group of panels)
//     prepare the block: copy, widen or quantize; row sums where B has zero points
//     for each panel of B
//       expand the panel, where the ISA computes on wider values
//       the micro-kernel runs over the tiles of the block
//
// A block of prepared rows and one panel stay in L2; a panel is read once a block.
// K is never split where int32 holds every sum: it is where the caller asked for int64, or where
// K > kMaxExactK and the packed values allow a larger sum. Then chunks of at most 32768 values are
// summed in int64 and finished by plain loops of the same rounding.
#pragma once

#include <cstdint>

#include "drivers/packed.h"

namespace octavo {

struct GemmA {
  enum class Kind {
    kBytes,         // 8-bit codes
    kQuantize,      // float32, quantized with `scale` and `zero_point` as they are read
    kQuantizeRows,  // float32, each row quantized to uint8 by its own range
  };
  Kind kind;
  const void* data;
  int64_t m;
  int64_t row_stride;         // in values
  int64_t k_stride;           // in values; 1 for float32
  bool is_signed;             // of the codes
  const int32_t* zero_point;  // kBytes, kQuantize
  int64_t zero_point_step;    // 0: one for all rows; 1: one each (kBytes only)
  float scale;                // kQuantize
  const float* row_scale;     // kBytes; null: 1. As kQuantizeRows multiplies by its own
  bool backwards;             // panels of B are taken last to first; see for_panels()
};

struct GemmC {
  enum class Type { kS32, kS64, kU8, kS8, kF32 };
  Type type;
  void* data;
  int64_t ldc;
  // Arrays over columns hold padded_n values (pad with anything finite).
  const int32_t* bias_s32;      // null: none; added to the sums
  int64_t max_abs_bias;         // greatest |bias_s32|
  const int32_t* b_zero_point;  // null: none; of the stored (int8) values
  const float* multiplier;      // kU8, kS8, kF32
  const float* bias_f32;        // kF32; null: none
  bool activate;                // kF32: clip to [lo, hi]
  float lo, hi;                 // kU8, kS8: bounds of the code less zero_point
  int32_t zero_point;
};

// Work below which a product stays on one thread, in dot products a thread. The default is where
// two threads begin to win; tests set 1, so that small products are shared out too.
constexpr int64_t kDotsPerThread = 48000;
void set_dots_per_thread(int64_t dots);

// How many of `threads` so many multiply-accumulates keep busy.
int threads_worth(const KernelTable& table, int64_t macs, int threads);

// What the micro-kernel calls it (sums in int64 are finished elsewhere), and its size.
GemmOutput output_of(GemmC::Type type);
int64_t type_bytes(GemmC::Type type);

// Stored bytes of the largest panel that is worth widening as a whole.
constexpr int64_t kExpandedPanel = 1 << 14;

// The zero point of A once it is as `table` reads it (flipped or not).
int32_t stored_a_zero_point(const KernelTable& table, bool a_is_signed, int32_t zero_point);

// bias - zero_point * column sum, padded_n values: where accumulators start if all rows share a
// zero point. `zero_point` is the stored one.
void column_start(const PackedB& b, int32_t zero_point, const int32_t* bias, int32_t* out) noexcept;

// `col_start`: column_start()'s result where A has one zero point and it is known; null: computed.
// False if a result does not fit int32 (kS32 only; C is then unspecified).
bool gemm(const GemmA& a, const PackedB& b, const GemmC& c, const int32_t* col_start, int threads);

}  // namespace octavo
