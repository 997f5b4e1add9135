// What this core can do at most, for reports that say how near a kernel comes.
#pragma once

#include "kernels/table.h"

namespace octavo {

// Multiply-accumulates a second of the table's dot product on registers alone, one thread.
double measure_peak(const KernelTable& table, double seconds);

// Bytes a second of one thread that reads a buffer of `bytes` over and over.
double measure_bandwidth(const KernelTable& table, int64_t bytes, double seconds);

}  // namespace octavo
