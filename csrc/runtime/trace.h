// Which kernel ran last in this thread, and OCTAVO_VERBOSE=1: a line to stderr for each call.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/table.h"

namespace octavo {

// `kernel` is a literal such as "gemm_u8s8s32"; `why` a literal that names the path taken.
void note_kernel(const KernelTable& table, const char* kernel, const char* why, int64_t m,
                 int64_t n, int64_t k, int threads);

// "avx512vnni/gemm_u8s8s32", or "" before any.
std::string last_kernel();

}  // namespace octavo
