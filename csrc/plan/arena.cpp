#include "plan/arena.h"

#include <algorithm>
#include <numeric>

namespace octavo {

ArenaLayout place(const std::vector<Lifetime>& values) {
  const auto rounded = [&](size_t i) {
    return (values[i].bytes + ArenaLayout::kAlignment - 1) / ArenaLayout::kAlignment *
           ArenaLayout::kAlignment;
  };
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return values[a].bytes != values[b].bytes ? values[a].bytes > values[b].bytes : a < b;
  });
  ArenaLayout layout{std::vector<int64_t>(values.size(), 0), 0};
  std::vector<size_t> placed;  // by offset
  for (size_t i : order) {
    const int64_t bytes = rounded(i);
    int64_t end = 0, best = -1, best_gap = 0;
    for (size_t other : placed) {
      if (values[other].last < values[i].first || values[i].last < values[other].first) continue;
      const int64_t gap = layout.offsets[other] - end;
      if (gap >= bytes && (best < 0 || gap < best_gap)) {
        best = end;
        best_gap = gap;
      }
      end = std::max(end, layout.offsets[other] + rounded(other));
    }
    layout.offsets[i] = best < 0 ? end : best;
    layout.bytes = std::max(layout.bytes, layout.offsets[i] + bytes);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i,
                         [&](size_t a, size_t b) { return layout.offsets[a] < layout.offsets[b]; }),
        i);
  }
  return layout;
}

ArenaPool::~ArenaPool() {
  for (auto& slot : free_) delete slot.load(std::memory_order_acquire);
}

std::unique_ptr<Arena> ArenaPool::take(int64_t bytes) {
  std::unique_ptr<Arena> arena;
  for (auto& slot : free_) {
    arena.reset(slot.exchange(nullptr, std::memory_order_acq_rel));
    if (arena) break;
  }
  if (!arena) arena = std::make_unique<Arena>();
  const auto needed = static_cast<size_t>(bytes);
  if (!arena->memory.data() || arena->memory.size() < needed) {
    arena->owner = 0;
    arena->memory = AlignedBuffer();  // before there are both
    arena->memory = AlignedBuffer(needed);
  }
  return arena;
}

void ArenaPool::give_back(std::unique_ptr<Arena> arena) {
  for (auto& slot : free_) {
    Arena* none = nullptr;
    if (slot.compare_exchange_strong(none, arena.get(), std::memory_order_acq_rel)) {
      (void)arena.release();  // NOLINT(bugprone-unused-return-value): the slot owns it now
      return;
    }
  }
}

}  // namespace octavo
