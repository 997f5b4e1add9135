#include "runtime/aligned_buffer.h"

#include <cstdint>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace octavo {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

size_t alignment_for(size_t bytes) { return bytes >= kHugePage ? kHugePage : kLine; }

// `bytes` is a multiple of kLine.
void* allocate(size_t bytes) {
  void* data = ::operator new(bytes, std::align_val_t(alignment_for(bytes)));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // Whole huge pages alone, so that memory use stays what was asked for. A refusal costs speed
  // only.
  if (bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return data;
}

void release(void* data, size_t bytes) {
  if (data) ::operator delete(data, std::align_val_t(alignment_for(bytes)));
}

size_t round_up(size_t bytes, size_t step) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  return (bytes + step - 1) / step * step;
}

// Plain data, so that reading it needs no check that the thread has initialized it.
struct Scratch {
  void* data;
  size_t size;
};
thread_local Scratch slots[static_cast<size_t>(ScratchSlot::kCount)];

struct ReleaseAtThreadEnd {
  bool armed = false;
  ~ReleaseAtThreadEnd() {
    for (Scratch& slot : slots) {
      release(slot.data, slot.size);
      slot = {nullptr, 0};
    }
  }
};
thread_local ReleaseAtThreadEnd release_at_thread_end;

[[gnu::noinline]] void* grow(Scratch& slot, size_t bytes) {
  release_at_thread_end.armed = true;  // the first use registers the destructor
  release(slot.data, slot.size);
  slot = {nullptr, 0};
  constexpr size_t kPage = 4096;
  // An eighth more than asked for, so that sizes that creep up do not reallocate each time; always
  // at least one byte more, for scratch() compares with <.
  const size_t size = round_up(round_up(bytes, kPage) / 8 * 9 + 1, kPage);
  slot.data = allocate(size);
  slot.size = size;
  return slot.data;
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(round_up(bytes ? bytes : 1, kLine)) {
  data_ = allocate(size_);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

AlignedBuffer::~AlignedBuffer() { release(data_, size_); }

void* scratch(ScratchSlot slot, size_t bytes) {
  Scratch& s = slots[static_cast<size_t>(slot)];
  return bytes < s.size ? s.data : grow(s, bytes);
}

}  // namespace octavo
