#include "runtime/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "isa_list.inc"  // OCTAVO_ISA_LIST(X, ...): X(isa, ...) for each ISA of this build, best first
#include "runtime/cpu_features.h"

namespace octavo {

// extern "C" const GemmKernels octavo_avx2_gemm; ... for every ISA and family.
#define OCTAVO_DECLARE(isa, family, type) extern "C" const type octavo_##isa##_##family;
#define OCTAVO_KERNEL(family, type) OCTAVO_ISA_LIST(OCTAVO_DECLARE, family, type)
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL

namespace {

// gemm_of[] = {&octavo_avx512vnni_gemm, ...}: one array for each family, the ISAs in one order.
#define OCTAVO_ADDRESS(isa, family) &octavo_##isa##_##family,
#define OCTAVO_KERNEL(family, type) \
  const type* const family##_of[] = {OCTAVO_ISA_LIST(OCTAVO_ADDRESS, family)};
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL

constexpr size_t kTables = sizeof(info_of) / sizeof(info_of[0]);
KernelTable tables[kTables];

std::vector<const KernelTable*> list_tables() {
  for (size_t i = 0; i < kTables; ++i) {
#define OCTAVO_KERNEL(family, type) tables[i].family = family##_of[i];
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL
  }
  std::vector<const KernelTable*> list;
  for (const bool test_only : {false, true}) {
    for (const KernelTable& table : tables) {
      if (table.info->test_only == test_only) list.push_back(&table);
    }
  }
  return list;
}

// Made as the library loads, and the default table published through an atomic: a lock that another
// thread holds at a fork would hang the child.
const std::vector<const KernelTable*> table_list = list_tables();
std::atomic<const KernelTable*> chosen_default{nullptr};

std::string names(bool supported_only) {
  std::string list;
  for (const KernelTable* table : table_list) {
    if (supported_only && !is_supported(*table)) continue;
    list += (list.empty() ? "" : ", ") + std::string(table->info->name);
  }
  return list;
}

}  // namespace

const std::vector<const KernelTable*>& all_tables() { return table_list; }

bool is_supported(const KernelTable& table) {
  return (table.info->required & ~cpu_features()) == 0;
}

const KernelTable* find_table(const std::string& name) {
  for (const KernelTable* table : table_list) {
    if (name != table->info->name) continue;
    if (is_supported(*table)) return table;
    throw std::invalid_argument(
        "isa '" + name + "' needs instructions that this CPU or operating " +
        "system lacks; it runs " + names(true) + " (known: " + names(false) + ")");
  }
  throw std::invalid_argument("isa is '" + name + "', expected one of " + names(false) +
                              " (this CPU runs " + names(true) + ")");
}

const KernelTable* default_table() {
  const KernelTable* table = chosen_default.load(std::memory_order_acquire);
  if (table) return table;
  const char* wanted = std::getenv("OCTAVO_ISA");
  if (wanted && *wanted) {
    table = find_table(wanted);
  } else {
    const auto best = std::find_if(table_list.begin(), table_list.end(), [](const KernelTable* t) {
      return is_supported(*t) && !t->info->test_only;
    });
    table = *best;  // scalar needs nothing, so there is one
  }
  chosen_default.store(table, std::memory_order_release);
  return table;
}

}  // namespace octavo
