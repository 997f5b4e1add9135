#include "runtime/trace.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace octavo {
namespace {

thread_local const char* last_isa = nullptr;
thread_local const char* last_name = nullptr;

bool is_verbose() {
  static const bool verbose = [] {
    const char* value = std::getenv("OCTAVO_VERBOSE");
    return value && *value && std::strcmp(value, "0") != 0;
  }();
  return verbose;
}

}  // namespace

void note_kernel(const KernelTable& table, const char* kernel, const char* why, int64_t m,
                 int64_t n, int64_t k, int threads) {
  last_isa = table.info->name;
  last_name = kernel;
  if (is_verbose())
    std::fprintf(stderr, "octavo: %s/%s %lldx%lldx%lld threads=%d: %s\n", table.info->name, kernel,
                 static_cast<long long>(m), static_cast<long long>(n), static_cast<long long>(k),
                 threads, why);
}

std::string last_kernel() {
  return last_name ? std::string(last_isa) + "/" + last_name : std::string();
}

}  // namespace octavo
