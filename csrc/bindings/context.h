// What a call takes from its surroundings, read once at the border: the kernel table and the
// number of threads (context variables that override the process's), the GIL, the FP mode.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "kernels/table.h"
#include "runtime/fp_mode.h"

namespace octavo {

struct CallContext {
  const KernelTable* table;
  int threads;
};

// Throws ValueError where OCTAVO_ISA or the forced ISA names no usable table.
CallContext call_context();

// Releases the GIL for work above about 10 us, and sets the FP mode.
class NativeScope {
 public:
  explicit NativeScope(int64_t macs)
      : saved_(macs > kReleaseMacs ? PyEval_SaveThread() : nullptr) {}
  ~NativeScope() {
    if (saved_) PyEval_RestoreThread(saved_);
  }
  NativeScope(const NativeScope&) = delete;
  NativeScope& operator=(const NativeScope&) = delete;

  // Elementwise work costs about as much a value as this many multiply-accumulates.
  static constexpr int64_t kMacsPerValue = 32;

 private:
  static constexpr int64_t kReleaseMacs = 2'000'000;
  PyThreadState* saved_;
  FpModeGuard mode_;
};

}  // namespace octavo
