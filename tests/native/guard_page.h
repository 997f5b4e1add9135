// Memory between two unmapped pages: what is read or written beyond it on either side crashes.
//
//   | no access | slack ...... canaries | operand | no access |     Side::kEnd
//   | no access | operand | canaries ...... slack | no access |     Side::kBegin
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace octavo {

enum class Side { kEnd, kBegin };

class GuardedBuffer {
 public:
  static constexpr uint8_t kCanary = 0xa5;
  static constexpr size_t kCanaries = 256;
  // Bytes between an operand and the page it lies at. 0, but where an emulator needs more.
  static inline size_t distance = 0;

  GuardedBuffer() = default;
  ~GuardedBuffer() { release(); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  // Room for `bytes`, filled with canaries, at one of the two pages; the last room is gone.
  uint8_t* place(size_t bytes, Side side) {
    const size_t touched = distance + bytes + kCanaries;
    reserve(touched);
    used_ = bytes;
    side_ = side;
    begin_ = side == Side::kBegin ? base_ + distance : base_ + capacity_ - distance - bytes;
    std::memset(side == Side::kBegin ? base_ : base_ + capacity_ - touched, kCanary, touched);
    return begin_;
  }

  template <class T>
  T* place_values(size_t count, Side side) {
    return reinterpret_cast<T*>(place(count * sizeof(T), side));
  }

  // A copy of `count` values.
  template <class T>
  T* copy(const T* values, size_t count, Side side) {
    uint8_t* room = place(count * sizeof(T), side);
    if (count > 0) std::memcpy(room, values, count * sizeof(T));
    return reinterpret_cast<T*>(room);
  }

  // False if something was written beside the room, where memory is mapped.
  bool intact() const {
    const bool at_begin = side_ == Side::kBegin;
    return untouched(begin_ - (at_begin ? distance : kCanaries), begin_) &&
           untouched(begin_ + used_, begin_ + used_ + (at_begin ? kCanaries : distance));
  }

 private:
  static bool untouched(const uint8_t* first, const uint8_t* last) {
    return std::all_of(first, last, [](uint8_t byte) { return byte == kCanary; });
  }

  void reserve(size_t bytes) {
    if (bytes <= capacity_) return;
    release();
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    capacity_ = (bytes + bytes / 2 + page - 1) / page * page;
    void* mapped = mmap(nullptr, capacity_ + 2 * page, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
      std::perror("mmap");
      std::exit(1);
    }
    base_ = static_cast<uint8_t*>(mapped) + page;
    if (mprotect(base_, capacity_, PROT_READ | PROT_WRITE) != 0) {
      std::perror("mprotect");
      std::exit(1);
    }
  }

  void release() {
    if (!base_) return;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    munmap(base_ - page, capacity_ + 2 * page);
    base_ = nullptr;
    capacity_ = 0;
  }

  uint8_t* base_ = nullptr;
  size_t capacity_ = 0;
  uint8_t* begin_ = nullptr;
  size_t used_ = 0;
  Side side_ = Side::kEnd;
};

}  // namespace octavo
