// What drivers and operators reckon with.
#pragma once

#include <cstdint>

namespace octavo {

inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }
// x >= 0
inline int64_t ceil_div(int64_t x, int64_t by) { return (x + by - 1) / by; }

// Whether int32 holds every sum of k products of 8-bit values and a bias.
inline bool fits_int32(int64_t k, int64_t max_abs_bias) {
  return 255 * 255 * k + max_abs_bias < int64_t{1} << 31;
}

// More than any table's row vector: arrays over columns are padded by as much.
constexpr int64_t kColumnPadding = 64;

// The next `count` values of a buffer, from a cache line on.
template <class T>
T* carve(char*& memory, int64_t count) {
  T* array = reinterpret_cast<T*>(memory);
  memory += round_up(count * int64_t{sizeof(T)}, 64);
  return array;
}

}  // namespace octavo
