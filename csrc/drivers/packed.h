// B packed for one table: panels, column sums, and what is known of its size.
//
// Layout: panel after panel as kernels/pack.h draws them; every panel but the last is nr columns
// wide, so panel p starts at p * panel_stride bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/table.h"
#include "runtime/aligned_buffer.h"
#include "runtime/dispatch.h"

namespace octavo {

// 8-bit values at any strides (in bytes), int8 or uint8.
struct ByteMatrix {
  const uint8_t* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;
  bool is_signed;
};

// More than this many products of 8-bit values may exceed int32 (255 * 255 * 33025 < 2^31).
constexpr int64_t kMaxExactK = 33025;
static_assert(int64_t{255} * 255 * kMaxExactK < (int64_t{1} << 31), "one chunk must be exact");

struct PackedB {
  const KernelTable* table;
  int64_t k, n;
  int64_t padded_n;      // n rounded up to row vectors
  int64_t groups;        // k-groups of a panel
  int64_t panel_stride;  // bytes
  bool is_signed;        // as given; what is stored is always int8
  const int8_t* panels;
  const int32_t* col_sum;  // padded_n sums of the stored values
  int64_t max_abs_sum;     // bound on sum over k |stored value| of any column

  int64_t panel_count() const;
  int64_t panel_width(int64_t panel) const;
  uint8_t flip() const { return is_signed ? 0 : 0x80; }
};

// Calls body(first, last) for all panels of [p0, p1) in order; or for `unit` at a time, the last
// first: who multiplies by the same B in turns of both orders finds in the caches what it read
// last.
template <class Body>
void for_panels(int64_t p0, int64_t p1, int64_t unit, bool backwards, const Body& body) {
  if (!backwards) return body(p0, p1);
  for (int64_t p = p0 + (p1 - p0 - 1) / unit * unit; p >= p0; p -= unit)
    body(p, p + unit < p1 ? p + unit : p1);
}

// Sizes and strides of B (k x n) packed for `table`, with no data yet; the bytes that panels and
// column sums take, each a multiple of 64.
PackedB plan_packed(const KernelTable& table, int64_t k, int64_t n, bool is_signed);
size_t panel_bytes(const PackedB& b);
size_t column_bytes(const PackedB& b);

// Packs `b` into memory that holds panel_bytes and column_bytes.
PackedB pack_into(const KernelTable& table, const ByteMatrix& b, int8_t* panels, int32_t* col_sum,
                  int threads);

// k x n values at the strides of `out` (whose data is written), as they were given.
void unpack(const PackedB& b, uint8_t* out, int64_t row_stride, int64_t col_stride) noexcept;

// Sums over all of K of the stored values of each column, exact for any K.
void wide_column_sums(const PackedB& b, int64_t* sums);

// One object a table, made when first asked for. Published by compare-exchange: a mutex held at
// fork would hang the child.
template <class T>
class PerTable {
 public:
  PerTable() : slots_(all_tables().size()) {
    for (auto& slot : slots_) slot.store(nullptr, std::memory_order_relaxed);
  }
  ~PerTable() {
    for (auto& slot : slots_) delete slot.load(std::memory_order_acquire);
  }
  PerTable(const PerTable&) = delete;
  PerTable& operator=(const PerTable&) = delete;

  template <class Make>
  const T& get(const KernelTable* table, const Make& make) const {
    std::atomic<T*>& slot = slots_[index(table)];
    T* found = slot.load(std::memory_order_acquire);
    if (found) return *found;
    std::unique_ptr<T> made = make();
    if (slot.compare_exchange_strong(found, made.get(), std::memory_order_acq_rel))
      return *made.release();
    return *found;
  }
  // Any object there is; null if none was made yet.
  const T* any() const {
    for (auto& slot : slots_) {
      if (const T* found = slot.load(std::memory_order_acquire)) return found;
    }
    return nullptr;
  }

 private:
  static size_t index(const KernelTable* table) {
    const auto& tables = all_tables();
    size_t i = 0;
    while (tables[i] != table) ++i;
    return i;
  }
  mutable std::vector<std::atomic<T*>> slots_;
};

// B that owns its memory.
class OwnedPackedB {
 public:
  OwnedPackedB(const KernelTable& table, const ByteMatrix& b, int threads);
  const PackedB& view() const { return view_; }
  size_t nbytes() const { return panels_.size() + col_sum_.size(); }

 private:
  AlignedBuffer panels_, col_sum_;
  PackedB view_;
};

// B for whichever table asks. Keeps packed forms alone; a new one is made from an old one.
class PackedMatrix {
 public:
  PackedMatrix(const KernelTable& table, const ByteMatrix& b, int threads);
  const PackedB& form(const KernelTable* table) const;
  int64_t rows() const { return k_; }
  int64_t cols() const { return n_; }
  bool is_signed() const { return is_signed_; }
  // As large as the first form made.
  size_t nbytes() const;
  const char* isa() const;
  void unpack(uint8_t* out, int64_t row_stride, int64_t col_stride) const noexcept;

 private:
  int64_t k_, n_;
  bool is_signed_;
  PerTable<OwnedPackedB> forms_;
};

}  // namespace octavo
