#include "ops/gather.h"

#include <algorithm>
#include <cstring>

#include "ops/runs.h"
#include "runtime/aligned_buffer.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Values [first, first + count) of 4-bit codes, one a byte, as int8 or uint8.
void unpack_nibbles(const uint8_t* packed, int64_t first, int64_t count, bool is_signed,
                    uint8_t* out) {
  const uint8_t sign = is_signed ? 8 : 0;  // (x ^ 8) - 8 is two's complement of 4 bits
  const auto code = [&](int nibble) { return static_cast<uint8_t>((nibble ^ sign) - sign); };
  packed += first / 2;
  if (first % 2 != 0 && count > 0) {
    *out++ = code(*packed++ >> 4);
    --count;
  }
  for (int64_t i = 0; i < count / 2; ++i) {
    out[2 * i] = code(packed[i] & 15);
    out[2 * i + 1] = code(packed[i] >> 4);
  }
  if (count % 2 != 0) out[count - 1] = code(packed[count / 2] & 15);
}

// The kernel takes whole vectors: the last values of a row go through room that has them.
void widen_row(const KernelTable& kernels, const uint16_t* half, int64_t count, float* out) {
  constexpr int64_t kRoom = 32;  // values; at least two vectors of any table
  const int64_t most = std::max<int64_t>(0, count - kRoom / 2), left = count - most;
  kernels.gemm_f32->widen(half, most, out);
  uint16_t last[kRoom] = {};
  float wide[kRoom];
  std::copy(half + most, half + count, last);
  kernels.gemm_f32->widen(last, left, wide);
  std::copy(wide, wide + left, out + most);
}

void gather_row(const KernelTable& kernels, const StoredTable& t, int64_t row, float* out) {
  const int64_t n = t.length;
  if (t.kind == StoredTable::Kind::kF32) {
    const float* from = static_cast<const float*>(t.data) + row * n;
    std::copy(from, from + n, out);
    return;
  }
  if (t.kind == StoredTable::Kind::kF16)
    return widen_row(kernels, static_cast<const uint16_t*>(t.data) + row * n, n, out);
  const auto* codes = static_cast<const uint8_t*>(t.data);
  if (t.kind == StoredTable::Kind::kNibbles) {
    auto* bytes = static_cast<uint8_t*>(scratch(ScratchSlot::kRows, static_cast<size_t>(n)));
    unpack_nibbles(codes, row * n, n, t.is_signed, bytes);
    codes = bytes;
  } else {
    codes += row * n;
  }
  const int32_t none = 0;
  const int64_t size = t.group_size > 0 ? t.group_size : n;
  int64_t at = t.group_size > 0 ? row * ((n + size - 1) / size) : 0;
  for (int64_t k = 0; k < n; k += size, ++at)
    kernels.quantize->dequantize(codes + k, std::min(size, n - k), t.is_signed, t.scale + at, 0,
                                 t.zero_point ? t.zero_point + at : &none, 0, out + k);
}

}  // namespace

void run_gather(const KernelTable& kernels, const StoredTable& table, const int64_t* index,
                int64_t count, float* out, int threads) {
  note_kernel(kernels, "gather_f32", "rows", count, table.length, 1, threads);
  if (table.length == 0) return;
  for_each_group(count, table.length, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      gather_row(kernels, table, index[i], out + i * table.length);
  });
}

}  // namespace octavo
