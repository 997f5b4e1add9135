#include "runtime/fp_mode.h"

#if !defined(__x86_64__) && !defined(__i386__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace octavo {
namespace {

// kMode: the bits that change results; all are 0 in the default mode. kStatus: the sticky flags.
#if defined(__x86_64__) || defined(__i386__)
constexpr uint64_t kMode = (1u << 15) | (3u << 13) | (1u << 6);  // FTZ, rounding, DAZ
constexpr uint64_t kStatus = 0x3f;

uint64_t read_control() {
  uint32_t value;
  __asm__ volatile("stmxcsr %0" : "=m"(value) : : "memory");
  return value;
}

void write_control(uint64_t value) {
  const uint32_t mxcsr = static_cast<uint32_t>(value);
  __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr) : "memory");
}
#elif defined(__aarch64__)
// FZ16, rounding, FZ, DN (a default NaN replaces the operand's), and of newer CPUs NEP, AH, FIZ.
constexpr uint64_t kMode = (1u << 19) | (3u << 22) | (1u << 24) | (1u << 25) | 7u;
constexpr uint64_t kStatus = 0;  // they are in FPSR

uint64_t read_control() {
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value) : : "memory");
  return value;
}

void write_control(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
// Elsewhere only the rounding mode can be asked for; 0 stands for FE_TONEAREST.
constexpr uint64_t kMode = ~uint64_t{0};
constexpr uint64_t kStatus = 0;

uint64_t read_control() { return static_cast<uint64_t>(std::fegetround() ^ FE_TONEAREST); }
void write_control(uint64_t value) { std::fesetround(static_cast<int>(value) ^ FE_TONEAREST); }
#endif

}  // namespace

FpModeGuard::FpModeGuard() noexcept : saved_(read_control()), changed_((saved_ & kMode) != 0) {
  if (changed_) write_control(saved_ & ~kMode);
}

FpModeGuard::~FpModeGuard() noexcept {
  if (changed_) write_control((read_control() & ~kMode) | (saved_ & kMode));
}

uint64_t fp_control() { return read_control() & ~kStatus; }

void set_fp_control(uint64_t value) {
  write_control((value & ~kStatus) | (read_control() & kStatus));
}

}  // namespace octavo
