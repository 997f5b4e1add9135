// Chooses the kernel table: the first, best first, whose instructions CPU and OS support.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.h"

namespace octavo {

// Every table compiled in, best first; test-only ones last.
const std::vector<const KernelTable*>& all_tables();

bool is_supported(const KernelTable& table);

// The table called `name`. Throws std::invalid_argument, listing the known names, where it is
// unknown or this machine cannot run it.
const KernelTable* find_table(const std::string& name);

// The table that OCTAVO_ISA names, else the best supported one. Decided at first use, once;
// throws as find_table does, at every call, as long as OCTAVO_ISA names no table.
const KernelTable* default_table();

}  // namespace octavo
