#include "drivers/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "runtime/aligned_buffer.h"

namespace octavo {
namespace {

// The best rate of `work`, which returns how much it did, over short rounds.
template <class Work>
double best_rate(double seconds, const Work& work) {
  using Clock = std::chrono::steady_clock;
  work();
  double best = 0.0;
  const auto start = Clock::now();
  do {
    const auto before = Clock::now();
    const auto done = static_cast<double>(work());
    const double took = std::chrono::duration<double>(Clock::now() - before).count();
    if (took > 0.0) best = std::max(best, done / took);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best;
}

}  // namespace

double measure_peak(const KernelTable& table, double seconds) {
  return best_rate(seconds, [&] { return table.info->peak(200000); });
}

double measure_bandwidth(const KernelTable& table, int64_t bytes, double seconds) {
  const AlignedBuffer buffer(static_cast<size_t>(bytes));
  std::memset(buffer.data(), 1, static_cast<size_t>(bytes));
  const int64_t rounds = std::max<int64_t>(1, (int64_t{8} << 20) / std::max<int64_t>(1, bytes));
  volatile int32_t sink = 0;
  return best_rate(seconds, [&] {
    for (int64_t i = 0; i < rounds; ++i)
      sink = sink ^ table.info->read(static_cast<const uint8_t*>(buffer.data()), bytes);
    return rounds * bytes;
  });
}

}  // namespace octavo
