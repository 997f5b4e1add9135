// Resizing of 8-bit images (DESIGN section 4, rule 8).
//
//   pick          rows[i] and columns[j] of a plane: nearest neighbours
//   lerp_columns  f = a + (b - a) * t of codes less their zero point, a and b from one row
//   lerp_rows     rint((f + (g - f) * t) * multiplier) + zero_point
//
// The latter two take images with the channels of a pixel side by side. Rows of floats hold, for
// each pixel, its channels padded to a multiple of `channel_step`, in the ISA's own order.
#pragma once

#include <stdint.h>

#include "kernels/bytes.h"

namespace octavo {

// 16 neighbouring outputs come from 16 neighbouring bytes at most: outputs 16 b to 16 b + 15 (the
// last 16, where there are fewer left) are the bytes of index[16 b ..] from base[b] on.
struct PickArgs {
  const uint8_t* x;      // a plane
  int64_t x_step;        // bytes from row to row
  const uint8_t* x_end;  // nothing is read from here on
  const int64_t* rows;
  int64_t height;       // outputs; equal rows that follow one another are found together
  const int64_t* base;  // 0 where x_step < 16
  const uint8_t* index;
  int64_t width;  // outputs, at least 16
  uint8_t* y;     // height x width
};

struct LerpColumnsArgs {
  const uint8_t* x;
  bool is_signed;
  int32_t zero_point;
  int64_t channels;
  int64_t outputs;
  const int64_t* left;  // of each output pixel: bytes from x to the pixels that it lies between
  const int64_t* right;
  const float* t;  // how far from left to right, in [0, 1)
  float* y;        // outputs * padded channels
};

struct LerpRowsArgs {
  const float* upper;
  const float* lower;
  float t;
  int64_t channels, outputs;
  uint8_t* y;
  int64_t y_step;  // bytes from pixel to pixel
  bool is_signed;
  int32_t zero_point;
  float multiplier;  // float32(xs / ys), below 2^100
};

struct ResizeKernels {
  void (*pick)(const PickArgs& args);
  int channel_step;
  void (*lerp_columns)(const LerpColumnsArgs& args);
  void (*lerp_rows)(const LerpRowsArgs& args);
};

}  // namespace octavo

#ifdef OCTAVO_ISA
namespace octavo {
namespace {

// One row of inputs to kCopies rows of outputs. Parameters, not a struct: stores of bytes may alias
// anything in memory.
template <class Bytes, int kCopies>
OCTAVO_INLINE void pick_row(const uint8_t* x, const int64_t* base, const uint8_t* index,
                            int64_t width, uint8_t* y) {
  const auto lane_of = [&](int64_t j) OCTAVO_INLINE_LAMBDA {
    return Bytes::pick(Bytes::load_lane(x + base[j / 16]), Bytes::load_lane(index + j));
  };
  const auto store = [&](int64_t j, typename Bytes::Lane lane) OCTAVO_INLINE_LAMBDA {
    OCTAVO_UNROLL
    for (int copy = 0; copy < kCopies; ++copy) Bytes::store_lane(y + copy * width + j, lane);
  };
  int64_t j = 0;
  for (; j + 16 <= width; j += 16) store(j, lane_of(j));
  if (j < width) store(width - 16, lane_of(j));
}

template <class Isa>
void resize_pick(const PickArgs& args) {
  using Bytes = typename Isa::Bytes;
  const int64_t* const rows = args.rows;
  const int64_t height = args.height, width = args.width;
  uint8_t* y = args.y;
  for (int64_t i = 0; i < height;) {
    const uint8_t* x = args.x + rows[i] * args.x_step;
    uint8_t buffer[16];
    const int64_t left = args.x_end - x;
    if (left < 16) {  // the last of a plane with short rows
      for (int64_t at = 0; at < left; ++at) buffer[at] = x[at];
      x = buffer;
    }
    const bool twice = i + 1 < height && rows[i] == rows[i + 1];
    if (twice)
      pick_row<Bytes, 2>(x, args.base, args.index, width, y);
    else
      pick_row<Bytes, 1>(x, args.base, args.index, width, y);
    i += twice ? 2 : 1;
    y += twice ? 2 * width : width;
  }
}

// The channels of a pixel: whole(c) for vectors of bytes, part(c, n) for vectors of floats.
template <class Isa, class Whole, class Part>
OCTAVO_INLINE void for_each_channels(int64_t channels, const Whole& whole, const Part& part) {
  constexpr int64_t kWhole = Isa::Bytes::kCount, kPart = Isa::Vector::kLanes;
  int64_t c = 0;
  for (; c + kWhole <= channels; c += kWhole) whole(c);
  for (; c + kPart <= channels; c += kPart) part(c, kPart);
  if (c < channels) part(c, channels - c);
}

template <class V>
OCTAVO_INLINE typename V::F lerp(typename V::F a, typename V::F b, typename V::F t) {
  return V::add(a, V::mul(V::sub(b, a), t));
}

template <class Isa, bool kSigned>
void lerp_columns_of(const LerpColumnsArgs& args) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  const typename Bytes::B flip = Bytes::set(kSigned ? 0x80 : 0);
  const typename V::F center = Bytes::center(args.zero_point + (kSigned ? 128 : 0));
  const typename V::I zero = V::set_i(args.zero_point);
  float* y = args.y;
  for (int64_t o = 0; o < args.outputs; ++o) {
    const typename V::F t = V::set(args.t[o]);
    const uint8_t *left = args.x + args.left[o], *right = args.x + args.right[o];
    const auto whole = [&](int64_t c) OCTAVO_INLINE_LAMBDA {
      typename V::F a[4], b[4];
      Bytes::centered(Bytes::exclusive_or(Bytes::load(left + c), flip), center, a);
      Bytes::centered(Bytes::exclusive_or(Bytes::load(right + c), flip), center, b);
      OCTAVO_UNROLL
      for (int v = 0; v < 4; ++v) V::store(y + v * V::kLanes, lerp<V>(a[v], b[v], t));
      y += Bytes::kCount;
    };
    const auto part = [&](int64_t c, int64_t n) OCTAVO_INLINE_LAMBDA {
      const auto load = [&](const uint8_t* p) OCTAVO_INLINE_LAMBDA {
        return V::to_float(V::sub_i(n == V::kLanes ? V::template load_codes<kSigned>(p)
                                                   : V::template load_codes_part<kSigned>(p, n),
                                    zero));
      };
      V::store(y, lerp<V>(load(left + c), load(right + c), t));
      y += V::kLanes;
    };
    for_each_channels<Isa>(args.channels, whole, part);
  }
}

template <class Isa>
void resize_lerp_columns(const LerpColumnsArgs& args) {
  args.is_signed ? lerp_columns_of<Isa, true>(args) : lerp_columns_of<Isa, false>(args);
}

template <class Isa>
void resize_lerp_rows(const LerpRowsArgs& args) {
  using V = typename Isa::Vector;
  using Bytes = typename Isa::Bytes;
  const typename V::F t = V::set(args.t), scale = V::set(args.multiplier), most = V::set(0x1p20f);
  const uint8_t flip = args.is_signed ? 0 : 0x80;
  const typename Bytes::B y_flip = Bytes::set(flip);
  const int32_t offset = args.zero_point - flip;
  const float *upper = args.upper, *lower = args.lower;
  const auto code = [&]() OCTAVO_INLINE_LAMBDA {
    const typename V::F value = lerp<V>(V::load(upper), V::load(lower), t);
    upper += V::kLanes;
    lower += V::kLanes;
    return V::round(V::min(V::mul(value, scale), most));
  };
  for (int64_t o = 0; o < args.outputs; ++o) {
    uint8_t* y = args.y + o * args.y_step;
    const auto whole = [&](int64_t c) OCTAVO_INLINE_LAMBDA {
      typename V::I codes[4];
      OCTAVO_UNROLL
      for (int v = 0; v < 4; ++v) codes[v] = code();
      Bytes::store(y + c, Bytes::exclusive_or(Bytes::narrow(codes, offset), y_flip));
    };
    const auto part = [&](int64_t c, int64_t n) OCTAVO_INLINE_LAMBDA {
      const typename V::I codes[1] = {code()};
      if (n == V::kLanes)
        V::template store_codes<1>(y + c, codes, offset, flip);
      else
        V::template store_codes_part<1>(y + c, codes, offset, flip, n);
    };
    for_each_channels<Isa>(args.channels, whole, part);
  }
}

template <class Isa>
constexpr ResizeKernels resize_kernels() {
  return {resize_pick<Isa>, Isa::Vector::kLanes, resize_lerp_columns<Isa>, resize_lerp_rows<Isa>};
}

}  // namespace
}  // namespace octavo
#endif
