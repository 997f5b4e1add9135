// Nearest and bilinear resizing of 8-bit images (DESIGN section 4, rule 8).
#pragma once

#include <cstdint>
#include <vector>

#include "ops/images.h"

namespace octavo {

// Which input coordinate an output pixel stands for, along one axis; the names are ONNX's.
enum class Coordinates {
  kHalfPixel,         // (o + 0.5) * in / out - 0.5
  kPytorchHalfPixel,  // the same; 0 where out is 1
  kAsymmetric,        // o * in / out
  kAlignCorners,      // o * (in - 1) / (out - 1); 0 where out is 1
  kTfHalfPixelForNn,  // (o + 0.5) * in / out
};
enum class NearestRounding { kRoundPreferFloor, kRoundPreferCeil, kFloor, kCeil };

// The nearest input of each output of an axis. Coordinates are fractions: nothing is rounded but
// what is asked for.
std::vector<int64_t> nearest_inputs(int64_t in, int64_t out, Coordinates coordinates,
                                    NearestRounding rounding);

// The two inputs that each output of an axis lies between, and how far from the first.
struct LinearAxis {
  LinearAxis(int64_t in, int64_t out, Coordinates coordinates);
  std::vector<int64_t> left, right;
  std::vector<float> t;
};

// codes: null, or a table that each code goes through.
void run_resize_nearest(const KernelTable& table, const uint8_t* x, const Images& in,
                        const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
                        const uint8_t* codes, uint8_t* y, int threads);

struct LinearCodes {
  bool x_signed, y_signed;
  int32_t x_zero, y_zero;
  float multiplier;  // float32(xs / ys), below 2^100
};
void run_resize_linear(const KernelTable& table, const uint8_t* x, const Images& in,
                       const LinearAxis& rows, const LinearAxis& columns, const LinearCodes& codes,
                       uint8_t* y, int threads);

}  // namespace octavo
