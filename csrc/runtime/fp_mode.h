// Round to nearest, no flush-to-zero, denormals kept: set while our kernels run, restored after.
#pragma once

#include <cstdint>

namespace octavo {

// Costs a register read where the mode is the default one already. Exception masks and the sticky
// status flags stay as they are. The arithmetic to protect must be a call of its own: a compiler
// may move floating-point instructions of the same function across the guard.
class FpModeGuard {
 public:
  FpModeGuard() noexcept;
  ~FpModeGuard() noexcept;
  FpModeGuard(const FpModeGuard&) = delete;
  FpModeGuard& operator=(const FpModeGuard&) = delete;

 private:
  uint64_t saved_;
  bool changed_;
};

// For tests: the control bits (of MXCSR, FPCR), without the sticky status flags; and writing them.
uint64_t fp_control();
void set_fp_control(uint64_t value);

}  // namespace octavo
