// What kernels on bytes share.
#pragma once

#include <stdint.h>

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// n <= Bytes::kCount bytes.
template <class Bytes>
OCTAVO_INLINE typename Bytes::B load_bytes(const uint8_t* p, int64_t n) {
  return n == Bytes::kCount ? Bytes::load(p) : Bytes::load_part(p, n);
}
template <class Bytes>
OCTAVO_INLINE void store_bytes(uint8_t* p, typename Bytes::B x, int64_t n) {
  if (n == Bytes::kCount)
    Bytes::store(p, x);
  else
    Bytes::store_part(p, x, n);
}

}  // namespace
}  // namespace octavo
#endif
