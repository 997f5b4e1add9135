#include "runtime/cpu_features.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "isa/features.h"

#if defined(__x86_64__) || defined(__i386__)
#define OCTAVO_X86
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32) && defined(__aarch64__)
#include <windows.h>
#endif

namespace octavo {
namespace {

// --- instruction sets
// -----------------------------------------------------------------------------

#if defined(OCTAVO_X86)
struct CpuId {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  CpuId(uint32_t leaf, uint32_t subleaf) {
    __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx);
  }
};

bool bit(uint32_t value, int index) { return (value >> index) & 1; }

// The register states that the operating system saves; only valid with CPUID's OSXSAVE.
uint64_t saved_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

uint32_t detect() {
  const CpuId basic(1, 0);
  const bool osxsave = bit(basic.ecx, 27), avx = bit(basic.ecx, 28);
  constexpr uint64_t kYmm = 0x06, kZmm = 0xe6;  // zmm: with the opmasks and the upper 16 registers
  const uint64_t states = osxsave ? saved_states() : 0;
  if (!avx || (states & kYmm) != kYmm) return 0;
  const CpuId extended(7, 0), extended1(7, extended.eax >= 1 ? 1 : 0);
  uint32_t features = 0;
  if (bit(extended.ebx, 5)) features |= kAvx2;
  if (bit(basic.ecx, 12)) features |= kFma;
  if (bit(basic.ecx, 29)) features |= kF16c;
  if (extended.eax >= 1 && bit(extended1.eax, 4)) features |= kAvxVnni;
  if ((states & kZmm) != kZmm || !bit(extended.ebx, 16)) return features;
  features |= kAvx512F;
  if (bit(extended.ebx, 30)) features |= kAvx512Bw;
  if (bit(extended.ebx, 17)) features |= kAvx512Dq;
  if (bit(extended.ebx, 31)) features |= kAvx512Vl;
  if (bit(extended.ecx, 11)) features |= kAvx512Vnni;
  return features;
}
#elif defined(__aarch64__) && defined(__linux__)
// Bits of the kernel's ABI, spelled out because old headers lack the newer ones.
uint32_t detect() {
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  return ((hwcap >> 1) & 1 ? kNeon : 0u) | ((hwcap >> 20) & 1 ? kNeonDot : 0u) |
         ((hwcap2 >> 13) & 1 ? kNeonI8mm : 0u);
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* name) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

uint32_t detect() {
  return kNeon | (has("hw.optional.arm.FEAT_DotProd") ? kNeonDot : 0u) |
         (has("hw.optional.arm.FEAT_I8MM") ? kNeonI8mm : 0u);
}
#elif defined(__aarch64__) && defined(_WIN32)
// PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE, PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE: by number, because
// old SDKs lack the second.
uint32_t detect() {
  return kNeon | (IsProcessorFeaturePresent(43) ? kNeonDot : 0u) |
         (IsProcessorFeaturePresent(66) ? kNeonI8mm : 0u);
}
#elif defined(__aarch64__)
uint32_t detect() { return kNeon; }  // part of the architecture
#else
uint32_t detect() { return 0; }
#endif

// --- caches, name
// ---------------------------------------------------------------------------------

// The first line of a file; empty where there is none.
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

size_t* level_of(CacheSizes& sizes, int level) {
  return level == 1 ? &sizes.l1d : level == 2 ? &sizes.l2 : level == 3 ? &sizes.l3 : nullptr;
}

#if defined(OCTAVO_X86)
// Leaf 4 (Intel, Zhaoxin) and leaf 0x8000001d (AMD, Hygon) have one layout.
void read_cpuid_caches(uint32_t leaf, CacheSizes& sizes) {
  for (uint32_t index = 0; index < 16; ++index) {
    const CpuId cache(leaf, index);
    const uint32_t type = cache.eax & 31;  // 0: no more; 1 data, 2 instructions, 3 both
    if (type == 0) return;
    size_t* size = level_of(sizes, (cache.eax >> 5) & 7);
    if (type == 2 || !size) continue;
    const size_t line = (cache.ebx & 0xfff) + 1, partitions = ((cache.ebx >> 12) & 0x3ff) + 1;
    const size_t ways = (cache.ebx >> 22) + 1, sets = size_t{cache.ecx} + 1;
    *size = line * partitions * ways * sets;
  }
}
#endif

#if defined(__linux__)
void read_sysfs_caches(CacheSizes& sizes) {
  const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index";
  for (int index = 0; index < 16; ++index) {
    const std::string cache = folder + std::to_string(index) + "/";
    int level = 0;
    unsigned long amount = 0;
    char unit = 0;
    if (std::sscanf(first_line(cache + "level").c_str(), "%d", &level) != 1) return;
    size_t* size = level_of(sizes, level);
    if (!size || first_line(cache + "type") == "Instruction") continue;
    if (std::sscanf(first_line(cache + "size").c_str(), "%lu%c", &amount, &unit) < 1) continue;
    *size = size_t{amount} << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
  }
}

// The text after "<key> :" in /proc/cpuinfo, where the key occurs first.
std::string cpuinfo(const char* key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    if (line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1) == key) {
      return line.substr(colon + 1);
    }
  }
  return "";
}
#endif

// Words with one blank between them: brand strings are padded.
std::string trimmed(const std::string& text) {
  std::istringstream words(text.c_str());  // up to the first NUL
  std::string result;
  for (std::string word; words >> word;) result += (result.empty() ? "" : " ") + word;
  return result;
}

// --- cores
// ----------------------------------------------------------------------------------------

int affinity_cores() {
#if defined(__linux__)
  // The call fails with EINVAL where the mask is smaller than the kernel's own.
  for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (!set) break;
    const size_t size = CPU_ALLOC_SIZE(cpus);
    const int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

#if defined(__linux__)
constexpr double kUnlimited = 1e9;

// Cores that one group of either version is granted.
double group_quota(const std::string& group) {
  std::istringstream text(first_line(group + "/cpu.max") + " " +  // "max 100000" is no number
                          first_line(group + "/cpu.cfs_quota_us") + " " +
                          first_line(group + "/cpu.cfs_period_us"));
  double quota = 0, period = 0;  // a quota of -1: none
  return text >> quota >> period && quota > 0 && period > 0 ? quota / period : kUnlimited;
}

// The least quota of a group and of every group around it. Groups that are not there (the path may
// be seen from outside a container) limit nothing.
double path_quota(const std::string& mount, std::string path) {
  double least = group_quota(mount);
  while (path.size() > 1) {
    least = std::min(least, group_quota(mount + path));
    path.resize(path.rfind('/'));
  }
  return least;
}

double cgroup_quota(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  double least = path_quota(mount, "");
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "0::/a/b" (v2), "4:cpu,cpuacct:/a/b" (v1)
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (path.empty() || path[0] != '/') continue;
    if (controllers.empty()) {
      least = std::min(least, path_quota(mount, path));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      least = std::min(least, path_quota(mount + "/" + controllers, path));
      least = std::min(least, path_quota(mount + "/cpu", path));
    }
  }
  return least;
}
#endif

}  // namespace

uint32_t cpu_features() {
  constexpr uint32_t kKnown = 1u << 31;
  static std::atomic<uint32_t> cached{0};
  uint32_t features = cached.load(std::memory_order_relaxed);
  if (features == 0) {
    features = detect() | kKnown;
    cached.store(features, std::memory_order_relaxed);
  }
  return features & ~kKnown;
}

std::string feature_names(uint32_t features) {
  static constexpr struct {
    CpuFeature feature;
    const char* name;
  } kNames[] = {
      {kAvx2, "avx2"},         {kFma, "fma"},           {kF16c, "f16c"},
      {kAvxVnni, "avxvnni"},   {kAvx512F, "avx512f"},   {kAvx512Bw, "avx512bw"},
      {kAvx512Dq, "avx512dq"}, {kAvx512Vl, "avx512vl"}, {kAvx512Vnni, "avx512vnni"},
      {kNeon, "neon"},         {kNeonDot, "neondot"},   {kNeonI8mm, "neoni8mm"},
  };
  std::string names;
  for (const auto& entry : kNames) {
    if (features & entry.feature) names += (names.empty() ? "" : " ") + std::string(entry.name);
  }
  return names;
}

std::string cpu_name() {
  std::string name;
#if defined(OCTAVO_X86)
  if (CpuId(0x80000000, 0).eax >= 0x80000004) {
    char brand[49] = {};
    for (uint32_t i = 0; i < 3; ++i) {
      const CpuId part(0x80000002 + i, 0);
      const uint32_t words[] = {part.eax, part.ebx, part.ecx, part.edx};
      std::memcpy(brand + 16 * i, words, sizeof(words));
    }
    name = trimmed(brand);
  }
#endif
#if defined(__linux__)
  for (const char* key : {"model name", "Model", "Hardware"}) {
    if (name.empty()) name = trimmed(cpuinfo(key));
  }
  if (name.empty() && !cpuinfo("CPU part").empty()) {  // most ARM systems tell numbers only
    name = trimmed("implementer " + cpuinfo("CPU implementer") + " part " + cpuinfo("CPU part"));
  }
#elif defined(__APPLE__)
  char brand[128] = {};
  size_t size = sizeof(brand) - 1;
  if (name.empty() && sysctlbyname("machdep.cpu.brand_string", brand, &size, nullptr, 0) == 0) {
    name = trimmed(brand);
  }
#endif
  return name.empty() ? "unknown" : name;
}

CacheSizes cache_sizes() {
  CacheSizes sizes = {};
#if defined(__linux__)
  read_sysfs_caches(sizes);
#elif defined(__APPLE__)
  // perflevel0: the fast cores.
  for (const char* prefix : {"hw.", "hw.perflevel0."}) {
    for (int level = 1; level <= 3; ++level) {
      const std::string name = prefix + std::string("l") + std::to_string(level) +
                               (level == 1 ? "dcachesize" : "cachesize");
      int64_t bytes = 0;
      size_t size = sizeof(bytes);
      if (sysctlbyname(name.c_str(), &bytes, &size, nullptr, 0) == 0 && bytes > 0) {
        *level_of(sizes, level) = static_cast<size_t>(bytes);
      }
    }
  }
#endif
#if defined(OCTAVO_X86)
  if (sizes.l1d == 0) read_cpuid_caches(4, sizes);
  if (sizes.l1d == 0 && CpuId(0x80000000, 0).eax >= 0x8000001d)
    read_cpuid_caches(0x8000001d, sizes);
#endif
  return sizes;
}

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    const auto known = static_cast<int64_t>(cache_sizes().l2);
    return known ? known : int64_t{1} << 19;
  }();
  return bytes;
}

int usable_cores(const std::string& root) {
  const int cores = affinity_cores();
#if defined(__linux__)
  return static_cast<int>(std::clamp(std::ceil(cgroup_quota(root)), 1.0, double(cores)));
#else
  (void)root;
  return cores;
#endif
}

void spin_pause() {
#if defined(OCTAVO_X86)
  __asm__ volatile("pause");
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // waits tens of cycles, as pause does; yield waits none on most cores
#endif
}

}  // namespace octavo
