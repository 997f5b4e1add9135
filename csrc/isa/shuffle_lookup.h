// A table of 256 bytes by x86's byte shuffle, which looks up 16 entries by the low four bits of an
// index, and gives 0 where the index has its top bit set.
//
// Piece i of a half looks up x - 16 i, whose low four bits are x's, and gives something where that
// is not negative: so pieces 0 .. x / 16 do. A piece is what 16 entries differ by from the 16
// before them, and the exclusive or of those pieces is the entry. x and x ^ 128 go through the
// halves; one of the two is negative throughout.
#pragma once

#include <stdint.h>

namespace octavo {
namespace {

template <class Bytes>
struct ShuffleLookup {
  using B = typename Bytes::B;
  B piece[16];

  OCTAVO_INLINE explicit ShuffleLookup(const uint8_t* table) {
    for (int i = 0; i < 16; ++i) {
      piece[i] = Bytes::repeat16(table + 16 * i);
      if (i % 8) piece[i] = Bytes::exclusive_or(piece[i], Bytes::repeat16(table + 16 * (i - 1)));
    }
  }
  OCTAVO_INLINE B of(B x) const {
    const B step = Bytes::set(16);
    B upper = Bytes::exclusive_or(x, Bytes::set(0x80));
    B y = Bytes::exclusive_or(Bytes::shuffle16(piece[0], x), Bytes::shuffle16(piece[8], upper));
    OCTAVO_UNROLL
    for (int i = 1; i < 8; ++i) {
      x = Bytes::subtract_saturated(x, step);
      upper = Bytes::subtract_saturated(upper, step);
      y = Bytes::exclusive_or(y, Bytes::shuffle16(piece[i], x));
      y = Bytes::exclusive_or(y, Bytes::shuffle16(piece[i + 8], upper));
    }
    return y;
  }
};

}  // namespace
}  // namespace octavo
