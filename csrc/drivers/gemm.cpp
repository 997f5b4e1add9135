#include "drivers/gemm.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "drivers/sizes.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// kDotsPerThread takes some 6 us on any ISA: below, another thread costs more than it saves, for
// the job, A and C travel between the cores' caches.
std::atomic<int64_t> dots_per_thread{kDotsPerThread};
// Reading a byte of B takes as long as this many multiply-accumulates of the widest dot product.
constexpr int64_t kMacsPerByteOfB = 3;
// The rows of A that all threads prepare together before panels are shared out.
constexpr int64_t kPrepareValuesPerThread = 1 << 14;
// Columns from which one panel alone keeps the loads of A few.
constexpr int64_t kWidePanel = 64;
// Values of K that int32 sums for any 8-bit operands.
constexpr int64_t kWideChunk = 32768;

// Rows of A as the micro-kernel reads them. Pointers are to the block's first row.
struct Block {
  const void* a;
  int64_t lda;
  uint8_t flip;
  const int32_t* row_a;    // null where all rows share one zero point
  const int32_t* row_b;    // null where B has no zero points
  const float* row_scale;  // null: 1
};

class Gemm {
 public:
  Gemm(const GemmA& a, const PackedB& b, const GemmC& c)
      : a_(a), b_(b), c_(c), kernels_(*b.table), info_(*b.table->info) {
    from_float_ = a.kind != GemmA::Kind::kBytes;
    const bool widens = info_.a_bytes == 2;
    flip_ = !widens && a.is_signed != info_.a_signed ? 0x80 : 0;
    is_signed_ = a.is_signed;
    zero_shift_ = 0;
    if (flip_ && !info_.flips) {
      copy_flip_ = flip_;
      flip_ = 0;
      is_signed_ = !a.is_signed;
      zero_shift_ = a.is_signed ? 128 : -128;
    }
    copies_ = from_float_ || a.k_stride != 1 || copy_flip_;
    owns_rows_ = copies_ || widens;
    byte_stride_ = round_up(b.k, 64);
    wide_stride_ = round_up(b.k, 64);
    per_row_zero_ = a.kind == GemmA::Kind::kQuantizeRows ||
                    (a.kind == GemmA::Kind::kBytes && a.zero_point_step != 0);
  }

  bool rows_need_work() const { return owns_rows_ || per_row_zero_ || c_.b_zero_point; }

  // Scratch for `rows` prepared rows.
  int64_t block_bytes(int64_t rows) const {
    int64_t bytes = 4 * round_up(rows * 4, 64);
    if (copies_) bytes += rows * byte_stride_;
    if (info_.a_bytes == 2) bytes += rows * wide_stride_ * 2;
    return bytes;
  }

  // The layout of `rows` rows in `memory`; fill() writes a part of them.
  struct Storage {
    uint8_t* bytes;
    int16_t* wide;
    int32_t *row_a, *row_b, *zero_point;
    float* row_scale;
  };
  Storage lay_out(char* memory, int64_t rows) const {
    Storage s{};
    s.row_a = carve<int32_t>(memory, rows);
    s.row_b = carve<int32_t>(memory, rows);
    s.zero_point = carve<int32_t>(memory, rows);
    s.row_scale = carve<float>(memory, rows);
    if (copies_) s.bytes = carve<uint8_t>(memory, rows * byte_stride_);
    if (info_.a_bytes == 2) s.wide = carve<int16_t>(memory, rows * wide_stride_);
    return s;
  }

  // Prepares rows [first, first + count) into rows [at, at + count) of the storage.
  void fill(const Storage& s, int64_t at, int64_t first, int64_t count) const {
    const uint8_t* bytes = nullptr;
    int64_t stride = byte_stride_;
    if (from_float_) {
      const float* x = static_cast<const float*>(a_.data) + first * a_.row_stride;
      uint8_t* q = s.bytes + at * byte_stride_;
      if (a_.kind == GemmA::Kind::kQuantizeRows) {
        kernels_.quantize->quantize_rows(x, a_.row_stride, count, b_.k, q, byte_stride_,
                                         s.row_scale + at, s.zero_point + at);
      } else {
        const int32_t zero = *a_.zero_point + zero_shift_;
        const bool is_one_run = a_.row_stride == b_.k && byte_stride_ == b_.k;
        const int64_t runs = is_one_run ? 1 : count, length = is_one_run ? count * b_.k : b_.k;
        for (int64_t i = 0; i < runs; ++i)
          kernels_.quantize->quantize(x + i * a_.row_stride, length, &a_.scale, 0, &zero, 0,
                                      is_signed_, q + i * byte_stride_);
      }
      bytes = q;
    } else {
      const uint8_t* a = static_cast<const uint8_t*>(a_.data) + first * a_.row_stride;
      if (copies_) {
        uint8_t* q = s.bytes + at * byte_stride_;
        for (int64_t i = 0; i < count; ++i) copy_row(a + i * a_.row_stride, q + i * byte_stride_);
        bytes = q;
      } else {
        bytes = a;
        stride = a_.row_stride;
      }
    }
    for (int64_t i = 0; i < count && (per_row_zero_ || c_.b_zero_point); ++i) {
      const int32_t zero = zero_point_of(s, at + i, first + i);
      s.row_a[at + i] = -stored_a_zero_point(kernels_, a_.is_signed, zero);
      if (c_.b_zero_point) {
        const int32_t sum = kernels_.quantize->row_sum(bytes + i * stride, b_.k, is_signed_);
        s.row_b[at + i] = static_cast<int32_t>(static_cast<uint32_t>(zero + zero_shift_) *
                                                   static_cast<uint32_t>(b_.k) -
                                               static_cast<uint32_t>(sum));
      }
    }
    if (info_.a_bytes == 2)
      kernels_.gemm->prepare_a(bytes, stride, count, b_.k, is_signed_, s.wide + at * wide_stride_,
                               wide_stride_);
  }

  // Rows [at, ...) of the storage, which stand for rows [first, ...) of A.
  Block block(const Storage& s, int64_t at, int64_t first) const {
    Block block{};
    block.flip = flip_;
    if (info_.a_bytes == 2) {
      block.a = s.wide + at * wide_stride_;
      block.lda = wide_stride_;
    } else if (copies_) {
      block.a = s.bytes + at * byte_stride_;
      block.lda = byte_stride_;
    } else {
      block.a = static_cast<const uint8_t*>(a_.data) + first * a_.row_stride;
      block.lda = a_.row_stride;
    }
    if (per_row_zero_)
      block.row_a = s.row_a + at;
    else if (has_shared_)
      block.row_a = shared_;
    if (c_.b_zero_point) block.row_b = s.row_b + at;
    if (a_.kind == GemmA::Kind::kQuantizeRows)
      block.row_scale = s.row_scale + at;
    else if (a_.row_scale)
      block.row_scale = a_.row_scale + first;
    return block;
  }

  void set_column_start(const int32_t* start) { col_start_ = start; }
  // All of at most kSharedRows rows start with this factor of the column sums.
  void share_zero_point(int32_t factor) {
    has_shared_ = factor != 0;
    std::fill(shared_, shared_ + kSharedRows, factor);
  }
  bool per_row_zero() const { return per_row_zero_; }

  // Rows [first, first + m) of C, panels [p0, p1).
  void compute(const Block& block, int64_t first, int64_t m, int64_t p0, int64_t p1) const {
    const float one = 1.0f;
    const bool streams = static_cast<int64_t>(panel_bytes(b_)) > l2_bytes();
    GemmArgs g{};
    g.a = block.a;
    g.lda = block.lda;
    g.m = m;
    g.segments = 1;
    g.segment_length = b_.k;
    g.a_flip = block.flip;
    g.row_a = block.row_a;
    g.row_b = block.row_b;
    g.row_scale = block.row_scale ? block.row_scale : &one;
    g.row_scale_step = block.row_scale ? 1 : 0;
    g.ldc = c_.ldc;
    g.activate = c_.activate;
    g.lo = c_.lo;
    g.hi = c_.hi;
    g.zero_point = c_.zero_point;
    g.output = output_of(c_.type);
    // The first tile of a block meets its panel in L3 or memory.
    if (streams && m >= 3) g.b_prefetch = m <= 4 ? 8192 : 16384;
    const int64_t nr = info_.nr;
    // Widening a panel once pays where many tiles share it and it then fits L1; else each tile
    // widens what it reads.
    const bool expands =
        info_.b_bytes == 2 && m > 4 * info_.mr && b_.panel_stride <= kExpandedPanel;
    int16_t* expanded = nullptr;
    if (expands)
      expanded = static_cast<int16_t*>(
          scratch(ScratchSlot::kExpanded, static_cast<size_t>(b_.panel_stride) * 2));
    // One or two rows: from beyond L2 two streams keep more reads in flight; where panels are
    // narrow, two share the reads of A.
    const bool pairs = b_.k > 0 && (streams || nr < kWidePanel) && m <= 2;
    for_panels(p0, p1, pairs ? 2 : 1, a_.backwards, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t column = p * nr;
        g.width = b_.panel_width(p);
        g.n = std::min(nr, b_.n - column);
        const int8_t* panel = b_.panels + p * b_.panel_stride;
        g.b = panel;
        g.b_next = 0;
        if (pairs && p + 1 < end && b_.n - column >= 2 * nr) {
          g.b_next = b_.panel_stride;
          g.width = g.n = 2 * nr;
          ++p;
        } else if (expands) {
          kernels_.gemm->expand_b(panel, b_.groups * info_.kr * g.width, expanded);
          g.b = expanded;
          g.b_expanded = true;
        }
        g.col_init = col_start_ ? col_start_ + column : nullptr;
        g.col_sum = b_.col_sum + column;
        g.col_zp = c_.b_zero_point ? c_.b_zero_point + column : nullptr;
        g.multiplier = c_.multiplier ? c_.multiplier + column : nullptr;
        g.bias = c_.bias_f32 ? c_.bias_f32 + column : nullptr;
        g.c = static_cast<char*>(c_.data) + (first * c_.ldc + column) * type_bytes(c_.type);
        kernels_.gemm->run(g);
      }
    });
  }

  // As compute(), with sums in int64; `m` is small. False if an int32 result does not fit.
  bool compute_wide(const Storage& s, const Block& block, int64_t first, int64_t m,
                    const int64_t* column_sums) const {
    const int64_t chunk = kWideChunk / info_.kr * info_.kr;
    char* memory = static_cast<char*>(
        scratch(ScratchSlot::kWide, static_cast<size_t>(round_up(m * b_.padded_n * 8, 64) +
                                                        round_up(m * b_.padded_n * 4, 64))));
    int64_t* sums = carve<int64_t>(memory, m * b_.padded_n);
    int32_t* part = carve<int32_t>(memory, m * b_.padded_n);
    std::fill(sums, sums + m * b_.padded_n, 0);
    const float one = 1.0f;
    for (int64_t k = 0; k < b_.k; k += chunk) {
      GemmArgs g{};
      g.a = static_cast<const char*>(block.a) + k * info_.a_bytes;
      g.lda = block.lda;
      g.m = m;
      g.segments = 1;
      g.segment_length = std::min(chunk, b_.k - k);
      g.a_flip = block.flip;
      g.row_scale = &one;
      g.output = GemmOutput::kS32;
      g.ldc = b_.padded_n;
      for (int64_t p = 0; p < b_.panel_count(); ++p) {
        g.width = g.n = b_.panel_width(p);
        g.b = b_.panels + p * b_.panel_stride + k * g.width;
        g.c = part + p * info_.nr;
        kernels_.gemm->run(g);
      }
      for (int64_t i = 0; i < m * b_.padded_n; ++i) sums[i] += part[i];
    }
    bool fits = true;
    for (int64_t i = 0; i < m; ++i) {
      const int32_t zero = zero_point_of(s, i, first + i);
      const int64_t a_zero = stored_a_zero_point(kernels_, a_.is_signed, zero);
      int64_t row_term = 0;
      if (c_.b_zero_point)
        row_term = int64_t{zero + zero_shift_} * b_.k - wide_row_sum(s, i, first + i);
      const float row_scale = block.row_scale ? block.row_scale[i] : one;
      for (int64_t n = 0; n < b_.n; ++n) {
        int64_t sum = sums[i * b_.padded_n + n] - a_zero * column_sums[n];
        if (c_.b_zero_point) sum += row_term * c_.b_zero_point[n];
        if (c_.bias_s32) sum += c_.bias_s32[n];
        fits &= finish_wide(sum, (first + i) * c_.ldc + n, n, row_scale);
      }
    }
    return fits;
  }

 private:
  void copy_row(const uint8_t* a, uint8_t* out) const {
    const uint8_t flip = copy_flip_;
    if (a_.k_stride == 1) {
      for (int64_t k = 0; k < b_.k; ++k) out[k] = a[k] ^ flip;
    } else {
      for (int64_t k = 0; k < b_.k; ++k) out[k] = a[k * a_.k_stride] ^ flip;
    }
  }

  int32_t zero_point_of(const Storage& s, int64_t at, int64_t row) const {
    if (a_.kind == GemmA::Kind::kQuantizeRows) return s.zero_point[at];
    return a_.zero_point[row * a_.zero_point_step];
  }

  // Sum of one row of A as given, beyond int32.
  int64_t wide_row_sum(const Storage& s, int64_t at, int64_t row) const {
    const uint8_t* bytes = copies_ ? s.bytes + at * byte_stride_
                                   : static_cast<const uint8_t*>(a_.data) + row * a_.row_stride;
    int64_t sum = 0;
    for (int64_t k = 0; k < b_.k; k += kWideChunk)
      sum += kernels_.quantize->row_sum(bytes + k, std::min(kWideChunk, b_.k - k), is_signed_);
    return sum;
  }

  // The epilogue of the micro-kernel for one exact sum; float32(sum) rounds once.
  bool finish_wide(int64_t sum, int64_t at, int64_t n, float row_scale) const {
    switch (c_.type) {
      case GemmC::Type::kS64:
        static_cast<int64_t*>(c_.data)[at] = sum;
        return true;
      case GemmC::Type::kS32:
        static_cast<int32_t*>(c_.data)[at] = static_cast<int32_t>(sum);
        return sum == static_cast<int32_t>(sum);
      case GemmC::Type::kF32: {
        const float scale = row_scale * c_.multiplier[n];
        float y = static_cast<float>(sum) * scale;
        if (c_.bias_f32) y += c_.bias_f32[n];
        if (c_.activate) y = (y < c_.lo ? c_.lo : y > c_.hi ? c_.hi : y) + 0.0f;
        static_cast<float*>(c_.data)[at] = y;
        return true;
      }
      default: {
        float y = static_cast<float>(sum) * c_.multiplier[n];
        y = y < c_.lo ? c_.lo : y > c_.hi ? c_.hi : y;
        static_cast<uint8_t*>(c_.data)[at] =
            static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(y)) + c_.zero_point);
        return true;
      }
    }
  }

  const GemmA& a_;
  const PackedB& b_;
  const GemmC& c_;
  const KernelTable& kernels_;
  const InfoKernels& info_;
  const int32_t* col_start_ = nullptr;
  static constexpr int kSharedRows = 14;  // at least any table's mr
  int32_t shared_[kSharedRows];
  bool has_shared_ = false;
  uint8_t flip_, copy_flip_ = 0;
  // Of the bytes that fill() leaves: where the micro-kernel does not flip, they are copied flipped.
  bool is_signed_;
  int32_t zero_shift_;
  bool from_float_, copies_, owns_rows_, per_row_zero_;
  int64_t byte_stride_, wide_stride_;
};

bool needs_wide(const GemmA& a, const PackedB& b, const GemmC& c) {
  if (c.type == GemmC::Type::kS64) return true;
  int64_t largest = 255 * 255 * b.k;
  if (b.k > kMaxExactK) {
    int64_t zero = 0;
    for (int64_t n = 0; c.b_zero_point && n < b.n; ++n)
      zero = std::max<int64_t>(zero, std::abs(c.b_zero_point[n]));
    int64_t a_largest = 255;
    if (a.kind != GemmA::Kind::kQuantizeRows && a.zero_point_step == 0) {
      const int64_t z = *a.zero_point, least = a.is_signed ? -128 : 0;
      a_largest = std::max(std::abs(z - least), std::abs(least + 255 - z));
    }
    largest = a_largest * (b.max_abs_sum + zero * b.k);
  }
  return largest + c.max_abs_bias >= int64_t{1} << 31;
}

bool gemm_wide(Gemm& gemm, const GemmA& a, const PackedB& b, int threads) {
  constexpr int64_t kRows = 8;
  auto* sums = static_cast<int64_t*>(
      scratch(ScratchSlot::kColumns, static_cast<size_t>(b.padded_n) * sizeof(int64_t)));
  if (b.k < int64_t{1} << 24)
    std::copy(b.col_sum, b.col_sum + b.padded_n, sums);
  else
    wide_column_sums(b, sums);
  std::atomic<bool> fits{true};
  const int tasks = static_cast<int>((a.m + kRows - 1) / kRows);
  note_kernel(*b.table, "gemm_u8s8s32", "sums may exceed int32: finished in int64", a.m, b.n, b.k,
              threads);
  parallel_for(tasks, threads, [&](int task) {
    const int64_t first = task * kRows, rows = std::min(kRows, a.m - first);
    char* memory =
        static_cast<char*>(scratch(ScratchSlot::kA, static_cast<size_t>(gemm.block_bytes(rows))));
    const Gemm::Storage storage = gemm.lay_out(memory, rows);
    gemm.fill(storage, 0, first, rows);
    if (!gemm.compute_wide(storage, gemm.block(storage, 0, first), first, rows, sums))
      fits.store(false, std::memory_order_relaxed);
  });
  return fits.load();
}

}  // namespace

void set_dots_per_thread(int64_t dots) { dots_per_thread.store(std::max<int64_t>(dots, 1)); }

int threads_worth(const KernelTable& table, int64_t macs, int threads) {
  const int64_t share = dots_per_thread.load(std::memory_order_relaxed) * table.info->dot_macs;
  return static_cast<int>(std::clamp<int64_t>(macs / share, 1, std::max(threads, 1)));
}

GemmOutput output_of(GemmC::Type type) {
  switch (type) {
    case GemmC::Type::kF32:
      return GemmOutput::kF32;
    case GemmC::Type::kU8:
      return GemmOutput::kU8;
    case GemmC::Type::kS8:
      return GemmOutput::kS8;
    default:
      return GemmOutput::kS32;
  }
}

int64_t type_bytes(GemmC::Type type) {
  return type == GemmC::Type::kU8 || type == GemmC::Type::kS8 ? 1
         : type == GemmC::Type::kS64                          ? 8
                                                              : 4;
}

int32_t stored_a_zero_point(const KernelTable& table, bool a_is_signed, int32_t zero_point) {
  if (table.info->a_bytes == 2 || a_is_signed == table.info->a_signed) return zero_point;
  return a_is_signed ? zero_point + 128 : zero_point - 128;
}

void column_start(const PackedB& b, int32_t zero_point, const int32_t* bias,
                  int32_t* out) noexcept {
  const auto zero = static_cast<uint32_t>(zero_point);
  for (int64_t n = 0; n < b.padded_n; ++n) {
    const uint32_t start = bias ? static_cast<uint32_t>(bias[n]) : 0;
    out[n] = static_cast<int32_t>(start - zero * static_cast<uint32_t>(b.col_sum[n]));
  }
}

bool gemm(const GemmA& a, const PackedB& b, const GemmC& c, const int32_t* col_start, int threads) {
  if (a.m <= 0 || b.n <= 0) return true;
  const KernelTable& kernels = *b.table;
  const InfoKernels& info = *kernels.info;
  Gemm gemm(a, b, c);
  threads =
      threads_worth(kernels, (a.m + kMacsPerByteOfB) * b.n * std::max<int64_t>(b.k, 1), threads);
  if (needs_wide(a, b, c)) return gemm_wide(gemm, a, b, threads);

  if (!col_start && gemm.per_row_zero()) {
    col_start = c.bias_s32;
  } else if (!col_start && a.m <= info.mr) {
    // One tile a panel: its few accumulators take the zero point in as they start.
    gemm.share_zero_point(-stored_a_zero_point(kernels, a.is_signed, *a.zero_point));
    col_start = c.bias_s32;
  } else if (!col_start) {
    auto* start = static_cast<int32_t*>(
        scratch(ScratchSlot::kColumns, static_cast<size_t>(b.padded_n) * sizeof(int32_t)));
    column_start(b, stored_a_zero_point(kernels, a.is_signed, *a.zero_point), c.bias_s32, start);
    col_start = start;
  }
  gemm.set_column_start(col_start);

  const int64_t panels = b.panel_count();
  if (threads > 1 && a.m < int64_t{2} * threads * info.mr) {
    // Few rows: threads share the panels, and all read the same prepared rows.
    char* memory = nullptr;
    Gemm::Storage storage{};
    if (gemm.rows_need_work()) {
      memory =
          static_cast<char*>(scratch(ScratchSlot::kA, static_cast<size_t>(gemm.block_bytes(a.m))));
      storage = gemm.lay_out(memory, a.m);
      const int64_t wanted = 1 + a.m * b.k / kPrepareValuesPerThread;
      const int parts = static_cast<int>(std::min<int64_t>({threads, wanted, a.m}));
      parallel_for(parts, parts, [&](int t) {
        const int64_t from = a.m * t / parts, to = a.m * (t + 1) / parts;
        gemm.fill(storage, from, from, to - from);
      });
    }
    const Block block = gemm.block(storage, 0, 0);
    // Even numbers of panels, so that pairs of them can be streamed together.
    int64_t step = (panels + 2 * threads - 1) / (2 * threads);
    if (step > 1) step = round_up(step, 2);
    const int tasks = static_cast<int>((panels + step - 1) / step);
    note_kernel(kernels, "gemm_u8s8s32", "threads share panels", a.m, b.n, b.k, threads);
    parallel_for(tasks, threads, [&](int t) {
      gemm.compute(block, 0, a.m, t * step, std::min(panels, (t + 1) * step));
    });
    return true;
  }

  int64_t blocks = (a.m + info.mc - 1) / info.mc;
  if (blocks < int64_t{4} * threads) blocks = round_up(blocks, threads);
  note_kernel(kernels, "gemm_u8s8s32", "blocks of rows", a.m, b.n, b.k, threads);
  parallel_for(static_cast<int>(blocks), threads, [&](int t) {
    const int64_t first = a.m * t / blocks, rows = a.m * (t + 1) / blocks - first;
    Gemm::Storage storage{};
    if (gemm.rows_need_work()) {
      char* memory =
          static_cast<char*>(scratch(ScratchSlot::kA, static_cast<size_t>(gemm.block_bytes(rows))));
      storage = gemm.lay_out(memory, rows);
      gemm.fill(storage, 0, first, rows);
    }
    gemm.compute(gemm.block(storage, 0, first), first, rows, 0, panels);
  });
  return true;
}

}  // namespace octavo
