#include "drivers/gemm_grouped.h"

#include <algorithm>
#include <cstring>

#include "drivers/gemm.h"
#include "drivers/sizes.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// How far ahead of its use a panel is fetched, where all of them lie in L3 or beyond it.
constexpr int64_t kPrefetchL3 = 4096, kPrefetchMemory = 16384;
// The rows of A that all threads prepare together before panels are shared out.
constexpr int64_t kPrepareValuesPerThread = 1 << 14;
// Packing a weight takes as long as this many multiply-accumulates.
constexpr int64_t kMacsPerPacked = 300;
// Reading and unpacking a weight takes as long as this many multiply-accumulates.
constexpr int64_t kMacsPerWeight = 2;

// The binary16 that is exactly x > 0; false if there is none.
bool exact_half(float x, uint16_t* half) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const uint32_t mantissa = (bits & 0x7fffff) | 0x800000;  // x = mantissa * 2^(exponent - 23)
  if (exponent < -24 || exponent > 15) return false;
  const int dropped = exponent >= -14 ? 13 : -1 - exponent;
  if (mantissa & ((1u << dropped) - 1)) return false;
  const uint32_t kept = mantissa >> dropped;
  *half = static_cast<uint16_t>(
      exponent >= -14 ? (static_cast<uint32_t>(exponent + 15) << 10) | (kept & 0x3ff) : kept);
  return true;
}

float half_value(uint16_t half) {  // of a positive, finite one
  const uint32_t bits = static_cast<uint32_t>(half) << 13;
  float x;
  std::memcpy(&x, &bits, 4);
  return x * 0x1p112f;
}

class Gemm {
 public:
  Gemm(const GroupedGemm& g, const PackedGroups& b)
      : g_(g), b_(b), kernels_(*b.table->gemm_grouped) {
    padded_group_ = b.steps * 2 * kernels_.kr;
    // Rows a multiple of 4 kB apart would share a set of L1.
    lda_ = round_up(b.groups * padded_group_, 64) + 64;
  }

  struct Rows {
    int8_t* q;
    float* scale;
    int32_t* start;
  };
  int64_t rows_bytes(int64_t rows) const {
    return rows * lda_ + round_up(rows * 4, 64) + round_up(rows * b_.groups * 4, 64);
  }
  Rows lay_out(char* memory, int64_t rows) const {
    Rows r;
    r.q = carve<int8_t>(memory, rows * lda_);
    r.scale = carve<float>(memory, rows);
    r.start = carve<int32_t>(memory, rows * b_.groups);
    return r;
  }

  // Rows [first, first + count) of A into rows [at, ...) of `rows`.
  void prepare(const Rows& rows, int64_t at, int64_t first, int64_t count) const {
    const GroupedRows r = {g_.a + first * g_.row_stride,
                           g_.row_stride,
                           count,
                           b_.k,
                           b_.group_size,
                           padded_group_,
                           b_.has_zero ? -1 : -b_.common_zero,
                           rows.q + at * lda_,
                           lda_,
                           rows.scale + at,
                           rows.start + at * b_.groups,
                           b_.groups};
    kernels_.prepare(r);
  }

  // `rows` holds rows [first, first + m) of A; panels [p0, p1).
  void compute(const Rows& rows, int64_t first, int64_t m, int64_t p0, int64_t p1) const {
    const int64_t nr = kernels_.columns;
    GemmGroupedArgs args{};
    args.a = rows.q;
    args.lda = lda_;
    args.m = m;
    args.row_start = rows.start;
    args.row_scale = rows.scale;
    // Bytes for one or two rows come no faster than the processor fetches them by itself.
    args.b_prefetch = b_.bits == 8 && m <= 2 ? 0 : prefetch_distance();
    args.groups = b_.groups;
    args.steps = b_.steps;
    args.last_steps = b_.last_steps;
    args.bits = b_.bits;
    args.is_half = b_.is_half;
    args.has_zero = b_.has_zero;
    args.ldc = g_.ldc;
    args.activate = g_.activate;
    args.lo = g_.lo;
    args.hi = g_.hi;
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t column = p * nr;
      args.width = b_.panel_width(p);
      args.n = std::min(nr, b_.n - column);
      args.b = b_.panel(p);
      args.bias = g_.bias ? g_.bias + column : nullptr;
      args.c = g_.c + first * g_.ldc + column;
      kernels_.run(args);
    }
  }

 private:
  int64_t prefetch_distance() const {
    static const CacheSizes caches = cache_sizes();
    const size_t bytes = b_.nbytes();
    const size_t l2 = caches.l2 ? caches.l2 : size_t{1} << 19, l3 = caches.l3 ? caches.l3 : l2;
    // Half of L3 is what others leave of it.
    return bytes <= l2 ? 0 : bytes <= l3 / 2 ? kPrefetchL3 : kPrefetchMemory;
  }

  const GroupedGemm& g_;
  const PackedGroups& b_;
  const GemmGroupedKernels& kernels_;
  int64_t padded_group_, lda_;
};

}  // namespace

int32_t PackedGroups::offset() const {
  if (bits == 4) return is_signed ? 8 : 0;
  return table->gemm_grouped->signed8 ? (is_signed ? 0 : -128) : (is_signed ? 128 : 0);
}

int64_t PackedGroups::block_bytes(int64_t width, int64_t block_steps) const {
  return (has_zero ? grouped_part(width) : 0) +
         grouped_part(block_steps * 2 * width * table->gemm_grouped->kr * bits / 8) +
         grouped_part(width * (is_half ? 2 : 4));
}

int64_t PackedGroups::panel_bytes(int64_t width) const {
  if (groups == 0) return 0;
  return (groups - 1) * block_bytes(width, steps) + block_bytes(width, last_steps);
}

int64_t PackedGroups::panel_count() const {
  const int nr = table->gemm_grouped->columns;
  return (n + nr - 1) / nr;
}

int64_t PackedGroups::panel_width(int64_t panel) const {
  const GemmGroupedKernels& kernels = *table->gemm_grouped;
  return std::min<int64_t>(kernels.columns, round_up(n - panel * kernels.columns, kernels.vector));
}

const uint8_t* PackedGroups::panel(int64_t panel) const {
  return static_cast<const uint8_t*>(panels_.data()) + panel * panel_stride;
}

PackedGroups::PackedGroups(const KernelTable& kernels, const GroupedWeights& w, int threads)
    : table(&kernels), k(w.k), n(w.n), is_signed(w.is_signed), bits(w.bits) {
  group_size = std::max<int64_t>(1, std::min(w.group_size, k));
  groups = (k + group_size - 1) / group_size;
  const int64_t step = 2 * kernels.gemm_grouped->kr;
  steps = (group_size + step - 1) / step;
  last_steps = groups > 0 ? (k - (groups - 1) * group_size + step - 1) / step : 0;
  const int64_t count = n * groups;
  uint16_t half;
  is_half = std::all_of(w.scale, w.scale + count, [&](float x) { return exact_half(x, &half); });
  common_zero = offset() + (w.zero_point && count > 0 ? w.zero_point[0] : 0);
  has_zero = w.zero_point && !std::all_of(w.zero_point, w.zero_point + count,
                                          [&](int32_t z) { return z == w.zero_point[0]; });
  panel_stride = round_up(panel_bytes(kernels.gemm_grouped->columns), 64);
  const int64_t panels = panel_count();
  const int64_t bytes =
      panels > 0 ? (panels - 1) * panel_stride + panel_bytes(panel_width(panels - 1)) : 0;
  panels_ = AlignedBuffer(static_cast<size_t>(bytes));
  std::memset(panels_.data(), 0, static_cast<size_t>(bytes));
  parallel_for(static_cast<int>(panels), threads_worth(kernels, n * k * kMacsPerPacked, threads),
               [&](int p) { pack_panel(w, p); });
}

void PackedGroups::pack_panel(const GroupedWeights& w, int64_t panel) {
  const GemmGroupedKernels& kernels = *table->gemm_grouped;
  const int64_t kr = kernels.kr, width = panel_width(panel), first = panel * kernels.columns;
  const int64_t columns = std::min(width, n - first), step_bytes = 2 * width * kr * bits / 8;
  const int32_t added = offset();
  auto* block = static_cast<uint8_t*>(panels_.data()) + panel * panel_stride;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t from = g * group_size, count = std::min(group_size, k - from);
    uint8_t* weights = block + (has_zero ? grouped_part(width) : 0);
    uint8_t* scales = weights + grouped_part((g == groups - 1 ? last_steps : steps) * step_bytes);
    for (int64_t c = 0; c < columns; ++c) {
      const uint8_t* codes = w.codes + (first + c) * k + from;
      uint8_t* at = weights + c * kr;
      for (int64_t i = 0; i < count; i += 2 * kr, at += step_bytes) {
        const int64_t low = std::min(kr, count - i), high = std::min(kr, count - i - kr);
        for (int64_t j = 0; j < low; ++j) at[j] = static_cast<uint8_t>(codes[i + j] + added);
        for (int64_t j = 0; j < high; ++j) {
          const int32_t code = codes[i + kr + j] + added;
          if (bits == 8)
            at[width * kr + j] = static_cast<uint8_t>(code);
          else
            at[j] = static_cast<uint8_t>(at[j] | code << 4);
        }
      }
      const int64_t index = (first + c) * groups + g;
      if (has_zero) block[c] = static_cast<uint8_t>(w.zero_point[index] + added);
      if (is_half)
        exact_half(w.scale[index], reinterpret_cast<uint16_t*>(scales) + c);
      else
        std::memcpy(scales + 4 * c, w.scale + index, 4);
    }
    block = scales + grouped_part(width * (is_half ? 2 : 4));
  }
}

void PackedGroups::unpack(uint8_t* codes, float* scale, int32_t* zero_point) const {
  const GemmGroupedKernels& kernels = *table->gemm_grouped;
  const int64_t kr = kernels.kr;
  const int32_t added = offset();
  const bool zero_is_signed = bits == 8 && kernels.signed8;
  for (int64_t p = 0; p < panel_count(); ++p) {
    const int64_t width = panel_width(p), first = p * kernels.columns;
    const int64_t columns = std::min(width, n - first), step_bytes = 2 * width * kr * bits / 8;
    const uint8_t* block = panel(p);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t from = g * group_size, count = std::min(group_size, k - from);
      const uint8_t* weights = block + (has_zero ? grouped_part(width) : 0);
      const uint8_t* scales =
          weights + grouped_part((g == groups - 1 ? last_steps : steps) * step_bytes);
      for (int64_t c = 0; c < columns; ++c) {
        const uint8_t* at = weights + c * kr;
        for (int64_t i = 0; codes && i < count; i += 2 * kr, at += step_bytes) {
          uint8_t* out = codes + (first + c) * k + from + i;
          const int64_t low = std::min(kr, count - i), high = std::min(kr, count - i - kr);
          for (int64_t j = 0; j < low; ++j)
            out[j] = static_cast<uint8_t>((bits == 8 ? at[j] : at[j] & 15) - added);
          for (int64_t j = 0; j < high; ++j)
            out[kr + j] =
                static_cast<uint8_t>((bits == 8 ? at[width * kr + j] : at[j] >> 4) - added);
        }
        const int64_t index = (first + c) * groups + g;
        if (scale && is_half)
          scale[index] = half_value(reinterpret_cast<const uint16_t*>(scales)[c]);
        else if (scale)
          std::memcpy(scale + index, scales + 4 * c, 4);
        if (zero_point) {
          const int32_t stored =
              zero_is_signed ? static_cast<int8_t>(block[c]) : static_cast<int32_t>(block[c]);
          zero_point[index] = (has_zero ? stored : common_zero) - added;
        }
      }
      block = scales + grouped_part(width * (is_half ? 2 : 4));
    }
  }
}

void gemm_grouped(const GroupedGemm& g, const PackedGroups& b, int threads) {
  if (g.m <= 0 || b.n <= 0) return;
  const Gemm gemm(g, b);
  threads =
      threads_worth(*b.table, (g.m + kMacsPerWeight) * b.n * std::max<int64_t>(b.k, 1), threads);
  const char* kernel = b.bits == 4 ? "gemm_s8u4f32" : "gemm_s8u8f32";
  const int64_t panels = b.panel_count();
  if (threads > 1 && g.m < int64_t{2} * threads * b.table->info->mr) {
    const Gemm::Rows rows = gemm.lay_out(
        static_cast<char*>(scratch(ScratchSlot::kA, static_cast<size_t>(gemm.rows_bytes(g.m)))),
        g.m);
    const int64_t wanted = 1 + g.m * b.k / kPrepareValuesPerThread;
    const int parts = static_cast<int>(std::min<int64_t>({threads, wanted, g.m}));
    parallel_for(parts, parts, [&](int t) {
      const int64_t from = g.m * t / parts, to = g.m * (t + 1) / parts;
      gemm.prepare(rows, from, from, to - from);
    });
    const int64_t step = (panels + 2 * threads - 1) / (2 * threads);
    note_kernel(*b.table, kernel, "threads share panels", g.m, b.n, b.k, threads);
    parallel_for(static_cast<int>((panels + step - 1) / step), threads, [&](int t) {
      gemm.compute(rows, 0, g.m, t * step, std::min(panels, (t + 1) * step));
    });
    return;
  }
  const int64_t mc = b.table->info->mc;
  int64_t blocks = (g.m + mc - 1) / mc;
  if (blocks < int64_t{4} * threads) blocks = round_up(blocks, threads);
  note_kernel(*b.table, kernel, "blocks of rows", g.m, b.n, b.k, threads);
  parallel_for(static_cast<int>(blocks), threads, [&](int t) {
    const int64_t from = g.m * t / blocks, count = g.m * (t + 1) / blocks - from;
    const Gemm::Rows rows = gemm.lay_out(
        static_cast<char*>(scratch(ScratchSlot::kA, static_cast<size_t>(gemm.rows_bytes(count)))),
        count);
    gemm.prepare(rows, 0, from, count);
    gemm.compute(rows, from, count, 0, panels);
  });
}

}  // namespace octavo
