// What store_codes() of every table clamps bytes to.
#pragma once

#include <stdint.h>

namespace octavo {
namespace {

struct NoBounds {
  static constexpr bool kIsNone = true;
};
struct ByteBounds {
  static constexpr bool kIsNone = false;
  int8_t least, most;
};

}  // namespace
}  // namespace octavo
