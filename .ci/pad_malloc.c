// Preloaded under qemu, whose vmaskmovps reads all eight floats, masked or not: what follows a row at
// the very end of the heap must be mapped, or our kernels fault as they would on no CPU.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static size_t padded(size_t bytes) { return bytes > SIZE_MAX - 64 ? SIZE_MAX : bytes + 64; }

void* malloc(size_t bytes) { return __libc_malloc(padded(bytes)); }

void* calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) bytes = SIZE_MAX;
  return __libc_calloc(1, padded(bytes));
}

void* realloc(void* old, size_t bytes) { return __libc_realloc(old, bytes ? padded(bytes) : 0); }

void* aligned_alloc(size_t alignment, size_t bytes) {
  return __libc_memalign(alignment, padded(bytes));
}

int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  *memory = __libc_memalign(alignment, padded(bytes));
  return *memory ? 0 : ENOMEM;
}
