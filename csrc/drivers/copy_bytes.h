// A copy of a few bytes, without a call.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

inline void copy_bytes(uint8_t* out, const uint8_t* in, int64_t count) {
  if (count >= 16) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) std::memcpy(out + i, in + i, 16);
    if (i < count) std::memcpy(out + count - 16, in + count - 16, 16);
  } else if (count >= 8) {
    std::memcpy(out, in, 8);
    std::memcpy(out + count - 8, in + count - 8, 8);
  } else if (count >= 4) {
    std::memcpy(out, in, 4);
    std::memcpy(out + count - 4, in + count - 4, 4);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = in[i];
  }
}

}  // namespace octavo
