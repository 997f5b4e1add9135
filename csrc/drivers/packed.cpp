#include "drivers/packed.h"

#include <algorithm>
#include <cstdlib>

#include "drivers/sizes.h"
#include "runtime/thread_pool.h"

namespace octavo {
namespace {

// Packing below this many bytes a thread costs less than waking one.
constexpr int64_t kPackBytesPerThread = 1 << 17;

int64_t largest_abs_sum(const PackedB& b) {
  // Up to kMaxExactK every product is exact whatever the values: no need to look.
  if (b.k <= kMaxExactK) return 128 * b.k;
  const int kr = b.table->info->kr;
  int64_t largest = 0;
  for (int64_t p = 0; p < b.panel_count(); ++p) {
    const int64_t width = b.panel_width(p);
    const int8_t* panel = b.panels + p * b.panel_stride;
    for (int64_t column = 0; column < width; ++column) {
      int64_t sum = 0;
      for (int64_t g = 0; g < b.groups; ++g) {
        for (int i = 0; i < kr; ++i) sum += std::abs(int{panel[(g * width + column) * kr + i]});
      }
      largest = std::max(largest, sum);
    }
  }
  return largest;
}

}  // namespace

int64_t PackedB::panel_count() const {
  const int nr = table->info->nr;
  return (n + nr - 1) / nr;
}

int64_t PackedB::panel_width(int64_t panel) const {
  const int nr = table->info->nr;
  return std::min<int64_t>(nr, padded_n - panel * nr);
}

PackedB plan_packed(const KernelTable& table, int64_t k, int64_t n, bool is_signed) {
  PackedB b{};
  b.table = &table;
  b.k = k;
  b.n = n;
  b.padded_n = round_up(n, table.info->nv);
  b.groups = (k + table.info->kr - 1) / table.info->kr;
  b.panel_stride = b.groups * table.info->kr * table.info->nr;
  b.is_signed = is_signed;
  return b;
}

size_t panel_bytes(const PackedB& b) {
  return static_cast<size_t>(round_up(b.groups * b.table->info->kr * b.padded_n, 64));
}

size_t column_bytes(const PackedB& b) {
  return static_cast<size_t>(round_up(b.padded_n * int64_t{sizeof(int32_t)}, 64));
}

PackedB pack_into(const KernelTable& table, const ByteMatrix& b, int8_t* panels, int32_t* col_sum,
                  int threads) {
  PackedB packed = plan_packed(table, b.rows, b.cols, b.is_signed);
  packed.panels = panels;
  packed.col_sum = col_sum;
  const int nr = table.info->nr;
  const int64_t panel_count = packed.panel_count();
  const int64_t wanted = 1 + b.rows * b.cols / kPackBytesPerThread;
  const int64_t parts = std::min<int64_t>({threads, wanted, panel_count});
  parallel_for(static_cast<int>(parts), threads, [&](int part) {
    const int64_t from = panel_count * part / parts * nr;
    const int64_t to = std::min(packed.padded_n, panel_count * (part + 1) / parts * nr);
    table.pack->pack(b.data + from * b.col_stride, b.row_stride, b.col_stride, b.rows,
                     std::min(to, b.cols) - from, to - from, packed.flip(),
                     panels + from / nr * packed.panel_stride, col_sum + from);
  });
  packed.max_abs_sum = largest_abs_sum(packed);
  return packed;
}

void unpack(const PackedB& b, uint8_t* out, int64_t row_stride, int64_t col_stride) noexcept {
  if (b.k == 0) return;  // `out` may be null
  const int nr = b.table->info->nr;
  for (int64_t p = 0; p < b.panel_count(); ++p) {
    const int64_t first = p * nr;
    b.table->pack->unpack(b.panels + p * b.panel_stride, b.k, std::min<int64_t>(nr, b.n - first),
                          b.panel_width(p), b.flip(), out + first * col_stride, row_stride,
                          col_stride);
  }
}

void wide_column_sums(const PackedB& b, int64_t* sums) {
  const InfoKernels& info = *b.table->info;
  const int64_t chunk = (int64_t{1} << 24) / info.kr;  // groups: 128 * 2^24 fits int32
  std::vector<int32_t> part(static_cast<size_t>(info.nr));
  std::fill(sums, sums + b.padded_n, 0);
  for (int64_t p = 0; p < b.panel_count(); ++p) {
    const int64_t width = b.panel_width(p);
    for (int64_t g = 0; g < b.groups; g += chunk - 1) {
      std::fill(part.begin(), part.end(), 0);
      b.table->pack->column_sums(b.panels + p * b.panel_stride + g * width * info.kr,
                                 std::min(chunk - 1, b.groups - g), width, part.data());
      for (int64_t c = 0; c < width; ++c) sums[p * info.nr + c] += part[static_cast<size_t>(c)];
    }
  }
}

OwnedPackedB::OwnedPackedB(const KernelTable& table, const ByteMatrix& b, int threads)
    : panels_(panel_bytes(plan_packed(table, b.rows, b.cols, b.is_signed))),
      col_sum_(column_bytes(plan_packed(table, b.rows, b.cols, b.is_signed))),
      view_(pack_into(table, b, static_cast<int8_t*>(panels_.data()),
                      static_cast<int32_t*>(col_sum_.data()), threads)) {}

PackedMatrix::PackedMatrix(const KernelTable& table, const ByteMatrix& b, int threads)
    : k_(b.rows), n_(b.cols), is_signed_(b.is_signed) {
  forms_.get(&table, [&] { return std::make_unique<OwnedPackedB>(table, b, threads); });
}

const PackedB& PackedMatrix::form(const KernelTable* table) const {
  return forms_
      .get(table,
           [&] {
             std::vector<uint8_t> plain(static_cast<size_t>(k_ * n_ + 1));  // never null
             unpack(plain.data(), n_, 1);
             const ByteMatrix b{plain.data(), k_, n_, n_, 1, is_signed_};
             return std::make_unique<OwnedPackedB>(*table, b, 1);
           })
      .view();
}

size_t PackedMatrix::nbytes() const { return forms_.any()->nbytes(); }

const char* PackedMatrix::isa() const { return forms_.any()->view().table->info->name; }

void PackedMatrix::unpack(uint8_t* out, int64_t row_stride, int64_t col_stride) const noexcept {
  octavo::unpack(forms_.any()->view(), out, row_stride, col_stride);
}

}  // namespace octavo
