// Names for the instruction sets that a trait may require; runtime/cpu_features finds which of
// them this CPU and operating system support.
#pragma once

#include <stdint.h>

namespace octavo {

enum CpuFeature : uint32_t {
  kAvx2 = 1u << 0,
  kFma = 1u << 1,
  kF16c = 1u << 2,
  kAvxVnni = 1u << 3,
  kAvx512F = 1u << 4,
  kAvx512Bw = 1u << 5,
  kAvx512Dq = 1u << 6,
  kAvx512Vl = 1u << 7,
  kAvx512Vnni = 1u << 8,
  kNeon = 1u << 16,
  kNeonDot = 1u << 17,
  kNeonI8mm = 1u << 18,
};

}  // namespace octavo
