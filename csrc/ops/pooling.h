// Maximum and average of 8-bit images under a sliding window (DESIGN section 4, rule 8).
#pragma once

#include <cstdint>

#include "ops/images.h"

namespace octavo {

// A window along one axis. Output o has taps at o * stride - pad_before + i * dilation, 0 <= i <
// kernel; those outside [0, in) are padding.
struct WindowAxis {
  int64_t in, kernel, stride, pad_before, pad_after, dilation;
  int64_t out;  // see outputs()

  // Whole windows; with `ceil_mode` also a last one that sticks out, if it begins before the
  // padding behind the image does. At most 0: the window does not fit.
  static int64_t outputs(const WindowAxis& axis, bool ceil_mode);

  int64_t start(int64_t o) const { return o * stride - pad_before; }
  // The taps [first, last) inside the image.
  int64_t first_tap(int64_t o) const;
  int64_t last_tap(int64_t o) const;
  // The outputs [first, last) with every tap inside the image.
  int64_t first_whole() const;
  int64_t last_whole() const;
  // Taps inside the image or its padding.
  int64_t padded_taps(int64_t o) const;
};

struct Window {
  WindowAxis height, width;
};

// An axis whose every output has a tap inside the image.
bool has_no_empty_window(const WindowAxis& axis);

void run_max_pool(const KernelTable& table, const uint8_t* x, const Images& in, bool is_signed,
                  const Window& window, uint8_t* y, int threads);

// average.count is not read: it is the number of taps inside the image or, with
// `count_include_pad`, inside its padding too. Windows hold less than 2^23 taps.
void run_average_pool(const KernelTable& table, const uint8_t* x, const Images& in, bool is_signed,
                      const Window& window, bool count_include_pad, AverageArgs average, uint8_t* y,
                      int threads);

}  // namespace octavo
