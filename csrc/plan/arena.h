// Where the values of a plan lie: offsets in one block of memory, chosen once, such that values
// that live at the same time lie apart; and the blocks, one for each call that runs, which plans
// share.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/aligned_buffer.h"

namespace octavo {

// A value is written by step `first` and read last by step `last`.
struct Lifetime {
  int64_t bytes;
  int first, last;
};

struct ArenaLayout {
  static constexpr int64_t kAlignment = 64;

  std::vector<int64_t> offsets;
  int64_t bytes;
};

// Largest values first, each into the smallest gap that holds it among those placed that live when
// it does ("greedy by size" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
// Inference", 2020).
ArenaLayout place(const std::vector<Lifetime>& values);

// The memory of one call, and where each value of the plan `owner` lies in it.
struct Arena {
  AlignedBuffer memory;
  uint64_t owner = 0;
  std::vector<char*> pointers;
};

// Arenas that no call uses: as many as calls ran at once, as large as the largest plan among those
// that share them. Without a mutex: one that is held at a fork would hang the child, which here
// loses an arena at most.
class ArenaPool {
 public:
  ArenaPool() = default;
  ~ArenaPool();
  ArenaPool(const ArenaPool&) = delete;
  ArenaPool& operator=(const ArenaPool&) = delete;

  std::unique_ptr<Arena> take(int64_t bytes);  // throws std::bad_alloc
  void give_back(std::unique_ptr<Arena> arena);

 private:
  std::array<std::atomic<Arena*>, 8> free_{};
};

}  // namespace octavo
