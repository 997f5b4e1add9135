// The layout that kernels/pack.h draws, one value at a time: where value (k, column) of a panel
// lies, and what a panel holds.
#pragma once

#include <cstdint>

namespace octavo {

// kernels/pack.h's pack for a table with groups of `kr`.
void reference_pack(const uint8_t* b, int64_t rs, int64_t cs, int64_t k, int64_t n, int64_t width,
                    int64_t kr, uint8_t flip, int8_t* panel, int32_t* col_sum);

void reference_unpack(const int8_t* panel, int64_t k, int64_t n, int64_t width, int64_t kr,
                      uint8_t flip, uint8_t* b, int64_t rs, int64_t cs);

// Values of one panel: ceil(k / kr) groups of `width` columns of kr values.
int64_t panel_values(int64_t k, int64_t width, int64_t kr);

}  // namespace octavo
