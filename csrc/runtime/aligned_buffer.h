// Memory for packed operands and scratch: 64-byte aligned, never below 64 bytes. From 2 MiB on it
// is aligned to 2 MiB and the system is asked for huge pages.
#pragma once

#include <cstddef>

namespace octavo {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes);  // throws std::bad_alloc; contents undefined
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  void* data() const { return data_; }
  size_t size() const { return size_; }  // what was asked for, rounded up to 64 bytes

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Scratch of the calling thread, one buffer per purpose; grows and is kept until the thread ends,
// so that a repeated call allocates nothing. The pointer is valid until the same slot is asked for
// more bytes by the same thread. Throws std::bad_alloc, only when it has to grow.
enum class ScratchSlot {
  kA,
  kB,
  kExpanded,
  kRows,
  kColumns,
  kAccumulators,
  kMultiplier,
  kWide,
  kOutput,
  kWindow,
  kChannels,
  kLayoutIn,
  kLayoutOut,
  kCount
};
void* scratch(ScratchSlot slot, size_t bytes);

}  // namespace octavo
