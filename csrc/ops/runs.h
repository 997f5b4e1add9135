// Rows of values shared out between threads, in tasks large enough to hide what a task costs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/thread_pool.h"

namespace octavo {

// Values that one task handles.
constexpr int64_t kTaskValues = 1 << 15;

// Calls body(first, last) for groups [first, last) of `count` items of `length` values each.
template <class Body>
void for_each_group(int64_t count, int64_t length, int threads, const Body& body) {
  const int64_t group = std::max<int64_t>(1, kTaskValues / std::max<int64_t>(1, length));
  parallel_for(static_cast<int>((count + group - 1) / group), threads,
               [&](int task) { body(task * group, std::min(count, (task + 1) * group)); });
}

// Calls body(row, from, count) for values [from, from + count) of each of `rows` rows; long rows
// are cut, short ones go together.
template <class Body>
void for_each_run(int64_t rows, int64_t length, int threads, const Body& body) {
  if (rows == 0 || length == 0) return;
  const int64_t pieces = std::max<int64_t>(1, length / kTaskValues);  // of one row
  const int64_t group = std::max<int64_t>(1, kTaskValues / length);   // rows in one task
  const int64_t tasks = pieces > 1 ? rows * pieces : (rows + group - 1) / group;
  parallel_for(static_cast<int>(tasks), threads, [&](int task) {
    const int64_t first = pieces > 1 ? task / pieces : task * group;
    const int64_t last = pieces > 1 ? first + 1 : std::min(rows, first + group);
    const int64_t piece = pieces > 1 ? task % pieces : 0;
    const int64_t from = length * piece / pieces, to = length * (piece + 1) / pieces;
    for (int64_t row = first; row < last; ++row) body(row, from, to - from);
  });
}

}  // namespace octavo
