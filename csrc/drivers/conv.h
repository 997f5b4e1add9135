// Convolution of 8-bit images by the matrix product's packing, micro-kernel and epilogue.
//
//   for each image, for each chunk of output rows (as much input as stays in L2)
//     the rows that it reads are copied once into a window, padding included; or read where they
//     lie, if nothing is padded and the micro-kernel takes them so
//     for each panel of weights
//       the micro-kernel runs along output rows: its rows of A are neighbouring pixels, one kernel
//       row is one segment of kernel_w * channels values
//
// Taps that meet padding alone are left out: kernel rows by starting later or ending earlier,
// kernel columns by running down the few columns at the edges instead of along rows. Accumulators
// then start without those taps' share of the zero point.
// There is no im2col matrix, but where kernel columns are dilated (one output pixel's values of one
// kernel row are gathered then), and for weights with zero points or sums beyond int32, which take
// the matrix product's own path.
#pragma once

#include <cstdint>
#include <vector>

#include "drivers/conv_geometry.h"
#include "drivers/gemm_f32.h"
#include "drivers/packed.h"

namespace octavo {

// Weights at `strides` (in values) along output channel, channel, kernel row, kernel column.
// Channels come in `groups` blocks of equal size, and so do output channels: where they differ, the
// weight is zero.
struct KernelValues {
  const void* data;
  int64_t strides[4];
  bool is_signed;  // of codes
  bool is_half;    // of floats
};

// Weights of a dense convolution, packed for one table: kernel_h segments of kernel_w * channels
// values, each padded to whole k-groups, by out_c columns.
class ConvWeights {
 public:
  ConvWeights(const KernelTable& table, const KernelValues& w, int64_t out_c, int64_t channels,
              int64_t kernel_h, int64_t kernel_w, int64_t groups, int threads);

  const PackedB& packed() const { return packed_.view(); }
  int64_t channels() const { return channels_; }
  int64_t segment_length() const { return segment_length_; }  // padded
  // padded_n sums over the channels of one tap; taps are counted row by row.
  const int32_t* tap_sum(int64_t tap) const { return tap_sums_.data() + tap * packed().padded_n; }
  size_t nbytes() const { return packed_.nbytes() + tap_sums_.size() * sizeof(int32_t); }
  // The inverse of the constructor: writes w.data.
  void unpack(const KernelValues& w, int64_t groups) const;

 private:
  int64_t channels_, kernel_h_, kernel_w_, segment_length_;
  OwnedPackedB packed_;
  std::vector<int32_t> tap_sums_;
};

// The same in float32 or float16: kernel_h * kernel_w * channels rows by out_c columns.
class ConvFloatWeights {
 public:
  ConvFloatWeights(const KernelTable& table, const KernelValues& w, int64_t out_c, int64_t channels,
                   int64_t kernel_h, int64_t kernel_w, int64_t groups);
  const PackedFloats& packed() const { return packed_; }
  int64_t channels() const { return channels_; }
  size_t nbytes() const { return packed_.nbytes(); }
  void unpack(const KernelValues& w, int64_t groups) const;

 private:
  int64_t channels_, kernel_h_, kernel_w_;
  PackedFloats packed_;
};

// False if an int32 result does not fit (y is then unspecified). `col_start` as gemm()'s.
bool conv(const ConvWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
          const int32_t* col_start, int threads);

// x holds float32, its strides are in bytes still; of y.c count data, bias_f32, activate, lo, hi.
// Each output is one chain of fused multiply-adds over kernel rows, columns, channels.
void conv_f32(const ConvFloatWeights& w, const ConvGeometry& g, const ConvX& x, const ConvY& y,
              int threads);

}  // namespace octavo
