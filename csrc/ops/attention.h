// Attention: out = softmax(scale * q k^T + mask) v for each head (docs/attention.md).
//
// For each head of k and v, packed once, and each block of rows of q: the products with all keys,
// softmax over whole rows, the products with all values. A block's scores stay in L2 and nothing
// else of them exists. A row's result depends on that row alone, so blocks may be of any size.
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace octavo {

// An array with axes (batch ..., head, row, value), or less its last ones where they are 1 for all.
// Strides are in values, 0 along axes that the array is stretched along.
struct AttentionArray {
  static constexpr int kMaxAxes = 64;
  const void* data = nullptr;  // null: not given
  int64_t strides[kMaxAxes] = {};
};

// float32, or 8-bit codes with a scale (float32) and a zero point (int32).
struct AttentionOperand {
  AttentionArray values;
  bool is_codes = false, is_signed = false;
  AttentionArray scale, zero_point;
  bool by_row = false;  // each row has a scale, be it the only one
};

// Everything was validated.
struct AttentionSpec {
  int batch_axes = 0;
  int64_t batch[AttentionArray::kMaxAxes] = {};
  int64_t heads = 0, kv_heads = 0;  // heads is a multiple of kv_heads: neighbours share one
  int64_t queries = 0, keys = 0, depth = 0, value_depth = 0;
  // In integers: a value stride of 1 in floats; scales of q are of whole heads, those of k of rows;
  // v has zero points that are the same for all its rows.
  AttentionOperand q, k, v;
  bool integers = false;
  float scale = 1.0f;
  AttentionArray added;  // float32, added to the products
  AttentionArray keep;   // uint8: keys where it is 0 are hidden
  bool causal = false;   // row i sees keys [0, past + i]
  int64_t past = 0;
  float* out = nullptr;
  int64_t out_strides[AttentionArray::kMaxAxes] = {};  // that of values is 1
};

void run_attention(const KernelTable& table, const AttentionSpec& spec, int threads);

// Rows of `depth` values to symmetric int8 by rule 7 of the arithmetic, codes `code_stride` apart;
// but a row of zeros has a scale of 0, lest the largest weight times scale of attention be its own.
void quantize_symmetric_rows(const KernelTable& table, const float* x, int64_t row_stride,
                             int64_t rows, int64_t depth, int8_t* codes, int64_t code_stride,
                             float* scale);

}  // namespace octavo
