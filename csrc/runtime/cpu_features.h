// What this machine offers: instruction sets that the CPU has *and* the operating system saves,
// caches, and the cores that we may use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace octavo {

// CpuFeature bits (isa/features.h). Cached after the first call.
uint32_t cpu_features();

// Bits, named, for octavo.show_config(): "avx2 fma f16c avxvnni ...".
std::string feature_names(uint32_t features);

// The model name of the CPU; "unknown" where the system does not tell.
std::string cpu_name();

// Asks the system at every call.
struct CacheSizes {
  size_t l1d, l2, l3;  // bytes of one instance as one core sees it; 0 = not known
};
CacheSizes cache_sizes();
// Of level 2; half a megabyte where not known. Asks once.
int64_t l2_bytes();

// Cores that the affinity mask and the cgroup CPU quota (v1 and v2, nested groups included,
// rounded up) allow; at least 1. Asks the system at every call. `root` replaces "/" in tests.
int usable_cores(const std::string& root = "");

// Tells the CPU that this thread waits in a loop.
void spin_pause();

}  // namespace octavo
