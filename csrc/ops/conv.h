// Convolution and transposed convolution with 8-bit weights: prepared once, run many times, from
// many threads.
//
// A transposed convolution of stride s is s * s ordinary ones (phases), each with the taps that
// meet its outputs, written s pixels apart. Groups with fewer outputs than a row vector are taken
// together, as the blocks of a diagonal; depthwise convolution has a driver of its own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "drivers/conv.h"
#include "drivers/depthwise.h"
#include "drivers/depthwise_f32.h"
#include "ops/epilogue.h"

namespace octavo {

struct ConvSpec {
  // (out_c, in_c / groups, kernel_h, kernel_w), or, transposed, (in_c, out_c / groups, ...); in
  // C order.
  const void* w;
  enum class Weights { kS8, kU8, kF32, kF16 };
  Weights weights;  // of floats nothing is quantized: x and the result are float32
  int64_t in_c, out_c, kernel_h, kernel_w, groups;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  std::array<int64_t, 4> padding;  // top, left, bottom, right
  bool same;                       // padding that keeps ceil(size / stride), more of it behind
  bool transposed;
  int64_t output_padding_h, output_padding_w;
  bool channels_last;  // NHWC, else NCHW

  EpilogueSpec epilogue;
  int32_t x_zero_point;
  bool x_is_signed;

  struct Quantization {
    float scale;
    int32_t zero_point;
    bool is_signed;
  };
  const uint8_t* table;  // null, or 256 codes that replace the result's, read thus:
  Quantization tabled;
  bool has_residual;  // a second tensor is added to the codes
  Quantization residual, sum;
  float sum_lo, sum_hi;  // in real units
};

class Conv {
 public:
  struct Shape {
    int64_t batch, channels, height, width;
  };
  // x: in the layout of the specification, in C order; residual likewise, of the result's shape.
  struct Input {
    const void* data;
    bool is_float;
    Shape shape;
  };

  static std::unique_ptr<Conv> prepare(const ConvSpec& spec, const KernelTable& table, int threads);

  // Throws std::invalid_argument where no output is left.
  Shape output_shape(const Shape& x) const;

  // False if an int32 result does not fit.
  bool run(const Input& x, const uint8_t* residual, void* out, const KernelTable& table,
           int threads) const;

  const ConvSpec& spec() const { return spec_; }  // without what its pointers pointed to
  bool has_table() const { return has_table_; }
  bool is_float() const { return value_bytes() > 1; }
  int64_t value_bytes() const {  // of a weight
    return spec_.weights == ConvSpec::Weights::kF32   ? 4
           : spec_.weights == ConvSpec::Weights::kF16 ? 2
                                                      : 1;
  }
  bool is_dynamic() const { return spec_.epilogue.is_dynamic; }
  OutputKind output() const { return epilogue_.output(); }
  bool result_is_signed() const;  // of codes, after table and sum
  const char* isa() const;
  size_t nbytes() const;
  void unpack(void* w) const;  // as it was given

 private:
  Conv(const ConvSpec& spec, const KernelTable& table, int threads);

  // The taps of one phase: first, step and count of each axis, and where its outputs lie.
  struct Axis {
    int64_t first, step, count;  // kernel positions, from the lowest input on
    int64_t dilation;
    int64_t padding;  // without `same`
    int64_t offset;   // of the first output
  };
  struct Phase {
    Axis h, w;
  };
  // Groups [first_group, last_group) of one phase.
  struct Piece {
    size_t phase;
    int64_t first_in, first_out, groups;
    std::unique_ptr<ConvWeights> weights;         // or
    std::unique_ptr<ConvFloatWeights> floats;     // or
    std::unique_ptr<DepthwiseWeights> depthwise;  // for all groups, or
    std::unique_ptr<DepthwiseFloats> depthwise_floats;
    std::vector<int32_t> start;  // where accumulators start; empty if dynamic
  };
  struct Form {
    const KernelTable* table;
    std::vector<Piece> pieces;
  };

  bool is_depthwise() const {
    return !spec_.transposed && spec_.groups > 1 && spec_.groups == spec_.in_c;
  }
  static std::vector<Axis> axes(const ConvSpec& spec, bool vertical);
  std::unique_ptr<Form> make_form(const KernelTable& table, const void* w, int threads) const;
  const Form& form(const KernelTable& table) const;
  KernelValues piece_values(const Piece& piece, const void* w) const;
  void swap_channels(const char* from, char* to, bool back) const;
  size_t weight_bytes() const;
  void plain(void* w) const;  // (out_c, in_c / groups, kernel_h, kernel_w)
  bool run_images(const Form& form, const ConvX& x, const Shape& shape, const Shape& result,
                  const float* x_scale, const uint8_t* residual, void* out, int threads) const;
  void finish_codes(uint8_t* codes, const uint8_t* residual, int64_t count,
                    const KernelTable& table) const;

  ConvSpec spec_;
  Epilogue epilogue_;
  std::vector<Phase> phases_;
  bool has_table_;
  std::array<uint8_t, 256> table_{};
  AddArgs sum_{};  // how a residual is added; without its arrays
  PerTable<Form> forms_;
};

}  // namespace octavo
