// Memory that can run out: included by one source of a program, it replaces what AlignedBuffer and
// scratch() take theirs from. (It does not link with the thread sanitizer, which replaces it too.)
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>

namespace octavo {
inline std::atomic<bool> memory_is_out{false};
}  // namespace octavo

void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto step = static_cast<std::size_t>(alignment);
  void* data =
      octavo::memory_is_out ? nullptr : std::aligned_alloc(step, (bytes + step - 1) / step * step);
  if (!data) throw std::bad_alloc();
  return data;
}
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete(void* data, std::size_t, std::align_val_t) noexcept { std::free(data); }
