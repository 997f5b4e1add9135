// What a fuzz target reads its case from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace octavo {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  uint8_t next() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  // In [0, count); any field of two bytes.
  int64_t below(int64_t count) {
    const int64_t low = next();
    return (low + 256 * int64_t{next()}) % count;
  }
  // What the bytes do not reach stays.
  void overwrite(std::vector<uint8_t>& operand) {
    const size_t count = std::min(left_, operand.size());
    std::copy_n(data_, count, operand.begin());
    data_ += count;
    left_ -= count;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace octavo
