#include "drivers/gemm_f32.h"

#include <algorithm>
#include <cstring>

#include "drivers/gemm.h"
#include "drivers/sizes.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Values of K of one part: with 64 columns a panel of 128 kB.
constexpr int64_t kPart = 512;
// Rows of A in one block, about: B is read once a block (and widened, if it is float16).
constexpr int64_t kBlockRows = 192;
// Bytes ahead of the reads of a B that lies beyond L2.
constexpr int64_t kPrefetch = 16384;
// Integer dot products do more in the time of a fused multiply-add.
constexpr int64_t kMacsPerMac = 4;

template <class T>
void pack_values(const FloatMatrix& b, int64_t first, int64_t width, T* panel) {
  const auto* data = static_cast<const T*>(b.data) + first * b.col_stride;
  const int64_t n = std::min(width, b.cols - first);
  constexpr int64_t kBlock = 16;  // rows of a line each, where columns are runs
  for (int64_t from = 0; from < b.rows; from += kBlock) {
    const int64_t to = std::min(b.rows, from + kBlock);
    if (b.col_stride == 1) {
      for (int64_t k = from; k < to; ++k)
        std::memcpy(panel + k * width, data + k * b.row_stride, static_cast<size_t>(n) * sizeof(T));
    } else {
      for (int64_t c = 0; c < n; ++c) {
        for (int64_t k = from; k < to; ++k)
          panel[k * width + c] = data[k * b.row_stride + c * b.col_stride];
      }
    }
    for (int64_t k = from; k < to && n < width; ++k)
      std::fill(panel + k * width + n, panel + (k + 1) * width, T{0});
  }
}

class Gemm {
 public:
  Gemm(const FloatGemm& g, const PackedFloats& b)
      : g_(g), b_(b), info_(*b.table->info), kernels_(*b.table->gemm_f32) {}

  // Rows [from, to), panels [p0, p1).
  void compute(int64_t from, int64_t to, int64_t p0, int64_t p1) const {
    const int64_t m = to - from, nr = info_.nr;
    const bool streams = static_cast<int64_t>(b_.nbytes()) > l2_bytes();
    // One tile a panel: nothing is read twice, and sums need not pass through C.
    const int64_t part = m <= info_.mr ? std::max<int64_t>(b_.k, 1) : kPart;
    const bool widens = b_.is_half && m > 2 * info_.mr;
    float* wide = nullptr;
    if (widens)
      wide = static_cast<float*>(
          scratch(ScratchSlot::kExpanded, static_cast<size_t>(kPart * nr) * sizeof(float)));
    // Two panels: enough chains to hide the latency of a multiply-add.
    const bool pairs = m <= 2 && b_.k > 0;
    GemmArgs args{};
    args.lda = g_.row_stride;
    args.m = m;
    args.segments = 1;
    args.ldc = g_.ldc;
    args.lo = g_.lo;
    args.hi = g_.hi;
    if (streams && m >= 3) args.b_prefetch = kPrefetch;
    for (int64_t k = 0; k == 0 || k < b_.k; k += part) {
      const bool is_last = k + part >= b_.k;
      args.a = g_.a + from * g_.row_stride + k;
      args.segment_length = std::min(part, b_.k - k);
      args.accumulate = k > 0;
      args.activate = is_last && g_.activate;
      for_panels(p0, p1, pairs ? 2 : 1, g_.backwards, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
          const int64_t column = p * nr;
          args.width = b_.panel_width(p);
          args.n = std::min(nr, b_.n - column);
          args.b = b_.panel(p, k);
          args.b_next = 0;
          args.bias = is_last && g_.bias ? g_.bias + column : nullptr;
          args.c = g_.c + from * g_.ldc + column;
          if (widens) {
            kernels_.widen(static_cast<const uint16_t*>(args.b), args.segment_length * args.width,
                           wide);
            args.b = wide;
          } else if (pairs && p + 1 < end && b_.n - column >= 2 * nr) {
            args.b_next = b_.panel_stride;
            args.width = args.n = 2 * nr;
            ++p;
          }
          (b_.is_half && !widens ? kernels_.run_half : kernels_.run)(args);
        }
      });
    }
  }

 private:
  const FloatGemm& g_;
  const PackedFloats& b_;
  const InfoKernels& info_;
  const GemmF32Kernels& kernels_;
};

}  // namespace

PackedFloats::PackedFloats(const KernelTable& kernels, int64_t rows, int64_t cols, bool half,
                           void* panels)
    : table(&kernels),
      k(rows),
      n(cols),
      padded_n(round_up(cols, kernels.info->nv)),
      is_half(half),
      panel_stride(rows * kernels.info->nr),
      panels_(static_cast<char*>(panels)) {}

PackedFloats::PackedFloats(const KernelTable& kernels, const FloatMatrix& b)
    : PackedFloats(kernels, b.rows, b.cols, b.is_half, nullptr) {
  owned_ = AlignedBuffer(nbytes());
  panels_ = static_cast<char*>(owned_.data());
  fill(b);
}

int64_t PackedFloats::bytes_of(const KernelTable& kernels, int64_t k, int64_t n, bool is_half) {
  return round_up(k * round_up(n, kernels.info->nv) * (is_half ? 2 : 4), 64);
}

PackedFloats PackedFloats::corner(int64_t rows, int64_t cols) const {
  PackedFloats part(*table, rows, cols, is_half, panels_);
  part.panel_stride = panel_stride;
  return part;
}

size_t PackedFloats::nbytes() const { return static_cast<size_t>(bytes_of(*table, k, n, is_half)); }

void PackedFloats::fill(const FloatMatrix& b) {
  for (int64_t p = 0; p < panel_count(); ++p) {
    const int64_t first = p * table->info->nr;
    char* panel = panels_ + p * panel_stride * (is_half ? 2 : 4);
    if (is_half)
      pack_values(b, first, panel_width(p), reinterpret_cast<uint16_t*>(panel));
    else
      pack_values(b, first, panel_width(p), reinterpret_cast<float*>(panel));
  }
}

int64_t PackedFloats::panel_count() const { return (n + table->info->nr - 1) / table->info->nr; }

int64_t PackedFloats::panel_width(int64_t panel) const {
  return std::min<int64_t>(table->info->nr, padded_n - panel * table->info->nr);
}

const char* PackedFloats::panel(int64_t panel, int64_t from) const {
  return panels_ + (panel * panel_stride + from * panel_width(panel)) * (is_half ? 2 : 4);
}

void PackedFloats::unpack(void* b, int64_t row_stride, int64_t col_stride) const {
  const int64_t bytes = is_half ? 2 : 4;
  for (int64_t p = 0; p < panel_count(); ++p) {
    const int64_t width = panel_width(p), first = p * table->info->nr;
    for (int64_t row = 0; row < k; ++row) {
      const char* from = panel(p, row);
      for (int64_t c = 0; c < std::min(width, n - first); ++c)
        std::memcpy(static_cast<char*>(b) + (row * row_stride + (first + c) * col_stride) * bytes,
                    from + c * bytes, static_cast<size_t>(bytes));
    }
  }
}

void gemm_f32(const FloatGemm& g, const PackedFloats& b, int threads) {
  if (g.m <= 0 || b.n <= 0) return;
  const InfoKernels& info = *b.table->info;
  threads =
      threads_worth(*b.table, (g.m + 1) * b.n * std::max<int64_t>(b.k, 1) * kMacsPerMac, threads);
  const Gemm gemm(g, b);
  const int64_t panels = b.panel_count();
  const char* kernel = b.is_half ? "gemm_f16f32" : "gemm_f32";
  if (threads > 1 && g.m < int64_t{2} * threads * info.mr) {
    // Even numbers of panels, so that pairs of them can be taken together.
    int64_t step = (panels + 2 * threads - 1) / (2 * threads);
    if (step > 1) step = round_up(step, 2);
    note_kernel(*b.table, kernel, "threads share panels", g.m, b.n, b.k, threads);
    parallel_for(static_cast<int>((panels + step - 1) / step), threads,
                 [&](int t) { gemm.compute(0, g.m, t * step, std::min(panels, (t + 1) * step)); });
    return;
  }
  int64_t blocks = (g.m + kBlockRows - 1) / kBlockRows;
  if (blocks < int64_t{4} * threads) blocks = round_up(blocks, threads);
  note_kernel(*b.table, kernel, "blocks of rows", g.m, b.n, b.k, threads);
  parallel_for(static_cast<int>(blocks), threads,
               [&](int t) { gemm.compute(g.m * t / blocks, g.m * (t + 1) / blocks, 0, panels); });
}

}  // namespace octavo
