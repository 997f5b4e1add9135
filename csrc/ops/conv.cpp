#include "ops/conv.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "drivers/channel_windows.h"
#include "drivers/sizes.h"
#include "ops/elementwise.h"
#include "runtime/aligned_buffer.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace octavo {
namespace {

// Values that one task moves from one layout to the other.
constexpr int64_t kLayoutValues = 1 << 15;

int64_t reach(int64_t kernel, int64_t dilation) { return (kernel - 1) * dilation + 1; }

int64_t padding_before(int64_t size, int64_t reach, int64_t stride) {
  const int64_t total = std::max<int64_t>((ceil_div(size, stride) - 1) * stride + reach - size, 0);
  return total / 2;
}

// Matrices of rows x cols, one after another, each turned.
template <class Turn>
void turn_all(int64_t count, int64_t rows, int64_t cols, int threads, const Turn& turn) {
  const int64_t step = std::max<int64_t>(64, kLayoutValues / std::max<int64_t>(cols, 1));
  const int64_t parts = std::max<int64_t>(1, ceil_div(rows, step));
  parallel_for(static_cast<int>(count * parts), threads, [&](int task) {
    const int64_t from = rows * (task % parts) / parts, to = rows * (task % parts + 1) / parts;
    turn(task / parts * rows * cols, from, to);
  });
}

void turn_bytes(const KernelTable& table, const uint8_t* in, int64_t count, int64_t rows,
                int64_t cols, uint8_t* out, int threads) {
  turn_all(count, rows, cols, threads, [&](int64_t at, int64_t from, int64_t to) {
    table.pack->transpose(in + at + from * cols, cols, to - from, cols, out + at + from, rows);
  });
}

void turn_words(const KernelTable& table, const uint32_t* in, int64_t count, int64_t rows,
                int64_t cols, uint32_t* out, int threads) {
  turn_all(count, rows, cols, threads, [&](int64_t at, int64_t from, int64_t to) {
    table.pack->transpose_words(in + at + from * cols, cols, to - from, cols, out + at + from,
                                rows);
  });
}

void set_nothing_beyond(ConvSpec& spec) {
  spec.w = nullptr;
  spec.table = nullptr;
  spec.epilogue.w_scale = nullptr;
  spec.epilogue.w_zero_point = nullptr;
  spec.epilogue.bias_f32 = nullptr;
  spec.epilogue.bias_s32 = nullptr;
}

}  // namespace

std::unique_ptr<Conv> Conv::prepare(const ConvSpec& spec, const KernelTable& table, int threads) {
  return std::unique_ptr<Conv>(new Conv(spec, table, threads));
}

// Ordinary: one phase of all taps. Transposed: output o = i * stride - padding + k * dilation of
// input i and tap k, so the taps of the outputs at `offset`, `offset` + stride, ... are those with
// k * dilation = offset + padding modulo stride; the last of them meets the lowest input.
std::vector<Conv::Axis> Conv::axes(const ConvSpec& spec, bool vertical) {
  const int64_t kernel = vertical ? spec.kernel_h : spec.kernel_w;
  const int64_t stride = vertical ? spec.stride_h : spec.stride_w;
  const int64_t dilation = vertical ? spec.dilation_h : spec.dilation_w;
  const int64_t padding = spec.padding[vertical ? 0 : 1];
  if (!spec.transposed) return {{0, 1, kernel, dilation, padding, 0}};
  const int64_t common = std::gcd(stride, dilation), step = stride / common;
  std::vector<Axis> all;
  for (int64_t offset = 0; offset < stride; ++offset) {
    int64_t first = 0;
    while (first < std::min(step, kernel) && (first * dilation - offset - padding) % stride != 0)
      ++first;
    Axis axis{0, -step, 0, dilation / common, 0, offset};
    if (first < std::min(step, kernel)) {
      axis.count = ceil_div(kernel - first, step);
      axis.first = first + (axis.count - 1) * step;
      // Output `offset` meets input (offset + padding - first * dilation) / stride at tap `first`,
      // the highest of its inputs.
      axis.padding =
          (axis.count - 1) * axis.dilation - (offset + padding - first * dilation) / stride;
    }
    all.push_back(axis);
  }
  return all;
}

Conv::Conv(const ConvSpec& spec, const KernelTable& table, int threads)
    : spec_(spec), epilogue_(spec.epilogue), has_table_(spec.table != nullptr) {
  set_nothing_beyond(spec_);
  if (spec.table) std::copy_n(spec.table, table_.size(), table_.begin());
  for (const Axis& h : axes(spec, true)) {
    for (const Axis& w : axes(spec, false)) phases_.push_back({h, w});
  }
  std::vector<char> swapped;
  const void* w = spec.w;
  if (spec.transposed) {
    swapped.resize(weight_bytes());
    swap_channels(static_cast<const char*>(spec.w), swapped.data(), false);
    w = swapped.data();
  }
  forms_.get(&table, [&] { return make_form(table, w, threads); });
  if (!spec.has_residual) return;
  const ConvSpec::Quantization a =
      has_table_ ? spec.tabled
                 : ConvSpec::Quantization{epilogue_.out_scale(), epilogue_.out_zero_point(),
                                          epilogue_.output() == OutputKind::kS8};
  const double scale = spec.sum.scale;
  const CodeBounds bounds(spec.sum.is_signed, spec.sum.zero_point, spec.sum.scale, spec.sum_lo,
                          spec.sum_hi);
  sum_.a_signed = a.is_signed;
  sum_.b_signed = spec.residual.is_signed;
  sum_.y_signed = spec.sum.is_signed;
  sum_.a_zero = a.zero_point;
  sum_.b_zero = spec.residual.zero_point;
  sum_.y_zero = spec.sum.zero_point;
  sum_.a_scale = static_cast<float>(a.scale / scale);
  sum_.b_scale = static_cast<float>(spec.residual.scale / scale);
  sum_.lo = bounds.lo;
  sum_.hi = bounds.hi;
}

// (in_c, out_c / groups) to (out_c, in_c / groups), or back.
void Conv::swap_channels(const char* from, char* to, bool back) const {
  const ConvSpec& s = spec_;
  const int64_t bytes = s.kernel_h * s.kernel_w * value_bytes();
  const int64_t group_in = s.in_c / s.groups, group_out = s.out_c / s.groups;
  for (int64_t o = 0; o < s.out_c; ++o) {
    for (int64_t c = 0; c < group_in; ++c) {
      const int64_t plain = (o * group_in + c) * bytes;
      const int64_t given = ((o / group_out * group_in + c) * group_out + o % group_out) * bytes;
      std::copy_n(from + (back ? plain : given), bytes, to + (back ? given : plain));
    }
  }
}

size_t Conv::weight_bytes() const {
  const ConvSpec& s = spec_;
  // Never none.
  return static_cast<size_t>(
      s.out_c * (s.in_c / s.groups) * s.kernel_h * s.kernel_w * value_bytes() + 1);
}

KernelValues Conv::piece_values(const Piece& piece, const void* w) const {
  const ConvSpec& s = spec_;
  const Axis &h = phases_[piece.phase].h, &v = phases_[piece.phase].w;
  const int64_t taps = s.kernel_h * s.kernel_w, group_in = s.in_c / s.groups;
  const int64_t first = piece.first_out * group_in * taps + h.first * s.kernel_w + v.first;
  return {static_cast<const char*>(w) + first * value_bytes(),
          {group_in * taps, taps, h.step * s.kernel_w, v.step},
          s.weights == ConvSpec::Weights::kS8,
          s.weights == ConvSpec::Weights::kF16};
}

std::unique_ptr<Conv::Form> Conv::make_form(const KernelTable& table, const void* w,
                                            int threads) const {
  const ConvSpec& s = spec_;
  const int64_t group_in = s.in_c / s.groups, group_out = s.out_c / s.groups;
  GemmC c{};
  epilogue_.fill(c);
  // Groups of few outputs fill a row vector together; what lies between them must count for
  // nothing: a weight at its zero point does not, nor does 0 times an infinite float.
  const int64_t together =
      c.b_zero_point || is_float()
          ? 1
          : std::clamp<int64_t>(table.info->nv / std::max<int64_t>(group_out, 1), 1, s.groups);
  auto form = std::make_unique<Form>();
  form->table = &table;
  if (is_depthwise() && is_float() && group_out == 1) {
    Piece piece{};
    piece.groups = s.groups;
    piece.depthwise_floats = std::make_unique<DepthwiseFloats>(
        table, w, s.weights == ConvSpec::Weights::kF16, s.out_c, s.kernel_h, s.kernel_w);
    form->pieces.push_back(std::move(piece));
    return form;
  }
  // The depthwise driver sums in int32; beyond, groups take the long way of the dense one.
  if (is_depthwise() && !is_float() && fits_int32(s.kernel_h * s.kernel_w, c.max_abs_bias)) {
    Piece piece{};
    piece.groups = s.groups;
    piece.depthwise = std::make_unique<DepthwiseWeights>(
        table, static_cast<const uint8_t*>(w), s.weights == ConvSpec::Weights::kS8, s.out_c,
        group_out, s.kernel_h, s.kernel_w, c.b_zero_point);
    form->pieces.push_back(std::move(piece));
    return form;
  }
  for (size_t p = 0; p < phases_.size(); ++p) {
    const Axis &h = phases_[p].h, &v = phases_[p].w;
    for (int64_t group = 0; group < s.groups; group += together) {
      Piece piece{};
      piece.phase = p;
      piece.groups = std::min(together, s.groups - group);
      piece.first_in = group * group_in;
      piece.first_out = group * group_out;
      const KernelValues values = piece_values(piece, w);
      if (is_float()) {
        piece.floats = std::make_unique<ConvFloatWeights>(table, values, piece.groups * group_out,
                                                          piece.groups * group_in, h.count, v.count,
                                                          piece.groups);
        form->pieces.push_back(std::move(piece));
        continue;
      }
      piece.weights = std::make_unique<ConvWeights>(table, values, piece.groups * group_out,
                                                    piece.groups * group_in, h.count, v.count,
                                                    piece.groups, threads);
      if (!is_dynamic()) {
        const PackedB& b = piece.weights->packed();
        piece.start.resize(static_cast<size_t>(b.padded_n));
        const int32_t* bias = epilogue_.bias_s32();
        column_start(b, stored_a_zero_point(table, s.x_is_signed, s.x_zero_point),
                     bias ? bias + piece.first_out : nullptr, piece.start.data());
      }
      form->pieces.push_back(std::move(piece));
    }
  }
  return form;
}

const Conv::Form& Conv::form(const KernelTable& table) const {
  return forms_.get(&table, [&] {
    std::vector<char> w(weight_bytes());
    plain(w.data());
    return make_form(table, w.data(), 1);
  });
}

void Conv::plain(void* w) const {
  for (const Piece& piece : forms_.any()->pieces) {
    if (piece.depthwise)
      piece.depthwise->unpack(static_cast<uint8_t*>(w));
    else if (piece.depthwise_floats)
      piece.depthwise_floats->unpack(w);
    else if (piece.floats)
      piece.floats->unpack(piece_values(piece, w), piece.groups);
    else
      piece.weights->unpack(piece_values(piece, w), piece.groups);
  }
}

void Conv::unpack(void* w) const {
  if (!spec_.transposed) return plain(w);
  std::vector<char> swapped(weight_bytes());
  plain(swapped.data());
  swap_channels(swapped.data(), static_cast<char*>(w), true);
}

const char* Conv::isa() const { return forms_.any()->table->info->name; }

size_t Conv::nbytes() const {
  size_t bytes = epilogue_.nbytes() + (has_table() ? table_.size() : 0);
  for (const Piece& piece : forms_.any()->pieces)
    bytes += (piece.depthwise          ? piece.depthwise->nbytes()
              : piece.depthwise_floats ? piece.depthwise_floats->nbytes()
              : piece.floats           ? piece.floats->nbytes()
                                       : piece.weights->nbytes()) +
             piece.start.size() * sizeof(int32_t);
  return bytes;
}

bool Conv::result_is_signed() const {
  if (spec_.has_residual) return spec_.sum.is_signed;
  return has_table() ? spec_.tabled.is_signed : epilogue_.output() == OutputKind::kS8;
}

Conv::Shape Conv::output_shape(const Shape& x) const {
  const ConvSpec& s = spec_;
  const auto length = [&](int64_t size, int64_t kernel, int64_t stride, int64_t dilation,
                          int64_t before, int64_t behind, int64_t more, const char* axis) {
    if (s.same && !s.transposed) {
      if (size > 0) return ceil_div(size, stride);
    } else if (s.transposed) {
      const int64_t y = (size - 1) * stride - before - behind + reach(kernel, dilation) + more;
      if (y > 0 && size > 0) return y;
    } else if (const int64_t room = size + before + behind - reach(kernel, dilation); room >= 0) {
      return room / stride + 1;
    }
    throw std::invalid_argument(
        std::string("no output is left along the ") + axis + ": x has " + std::to_string(size) +
        ", padding " + std::to_string(before) + " and " + std::to_string(behind) +
        ", a kernel of " + std::to_string(kernel) + " with dilation " + std::to_string(dilation) +
        " reaches over " + std::to_string(reach(kernel, dilation)));
  };
  return {x.batch, s.out_c,
          length(x.height, s.kernel_h, s.stride_h, s.dilation_h, s.padding[0], s.padding[2],
                 s.output_padding_h, "height"),
          length(x.width, s.kernel_w, s.stride_w, s.dilation_w, s.padding[1], s.padding[3],
                 s.output_padding_w, "width")};
}

void Conv::finish_codes(uint8_t* codes, const uint8_t* residual, int64_t count,
                        const KernelTable& table) const {
  if (has_table()) table.eltwise->lookup(codes, count, table_.data(), codes);
  if (!residual) return;
  AddArgs add = sum_;
  add.a = codes;
  add.b = residual;
  add.y = codes;
  add.count = count;
  table.eltwise->add(add);
}

bool Conv::run_images(const Form& form, const ConvX& input, const Shape& shape, const Shape& result,
                      const float* x_scale, const uint8_t* residual, void* out, int threads) const {
  const ConvSpec& s = spec_;
  GemmC base{};
  epilogue_.fill(base);
  const int64_t value_bytes = type_bytes(base.type);
  const int64_t pixel = s.out_c, row = result.width * pixel, image = result.height * row;
  float* multiplier = nullptr;  // of this image
  if (x_scale) {
    const int64_t count = s.out_c + kColumnPadding;
    multiplier = static_cast<float*>(
        scratch(ScratchSlot::kMultiplier, static_cast<size_t>(count) * sizeof(float)));
    for (int64_t i = 0; i < count; ++i) multiplier[i] = base.multiplier[i] * *x_scale;
  }
  struct Fused {
    const Conv* conv;
    const KernelTable* table;
    uint8_t* y;
    const uint8_t* residual;
    int64_t pixel, row, image, width;
    int64_t first;  // channel of the piece
  };
  const bool fuses = (has_table() || residual) && !s.transposed && s.channels_last && !x_scale;
  std::atomic<bool> fits{true};
  const auto geometry = [&](const Piece& piece) {
    const Phase& phase = phases_[piece.phase];
    ConvGeometry g{};
    g.batch = shape.batch;
    g.in_h = shape.height;
    g.in_w = shape.width;
    g.in_c = s.in_c / s.groups * piece.groups;
    g.out_h = ceil_div(result.height - phase.h.offset, s.transposed ? s.stride_h : 1);
    g.out_w = ceil_div(result.width - phase.w.offset, s.transposed ? s.stride_w : 1);
    g.out_c = s.out_c / s.groups * piece.groups;
    g.kernel_h = phase.h.count;
    g.kernel_w = phase.w.count;
    g.stride_h = s.transposed ? 1 : s.stride_h;
    g.stride_w = s.transposed ? 1 : s.stride_w;
    g.dilation_h = phase.h.dilation;
    g.dilation_w = phase.w.dilation;
    g.pad_top = phase.h.padding;
    g.pad_left = phase.w.padding;
    if (s.same) {
      g.pad_top = padding_before(shape.height, reach(s.kernel_h, s.dilation_h), s.stride_h);
      g.pad_left = padding_before(shape.width, reach(s.kernel_w, s.dilation_w), s.stride_w);
    }
    return g;
  };
  // Outputs of a piece from `at` of the result on.
  const auto run_part = [&](const Piece& piece, const ConvGeometry& g, const ConvX& x, int64_t at,
                            int inner_threads) {
    const Phase& phase = phases_[piece.phase];
    ConvY y{};
    epilogue_.fill(y.c, piece.first_out);
    if (x_scale) y.c.multiplier = multiplier + piece.first_out;
    y.c.data = static_cast<char*>(out) +
               (at + phase.h.offset * row + phase.w.offset * pixel + piece.first_out) * value_bytes;
    y.image_stride = image;
    y.row_stride = row * (s.transposed ? s.stride_h : 1);
    y.pixel_stride = pixel * (s.transposed ? s.stride_w : 1);
    const Fused fused{this,
                      form.table,
                      static_cast<uint8_t*>(out) + at * value_bytes,
                      residual ? residual + at : nullptr,
                      pixel,
                      row,
                      image,
                      result.width,
                      piece.first_out};
    ConvFinish finish{};
    finish.context = &fused;
    finish.run = [](const void* context, int64_t image, int64_t first_row, int64_t last_row,
                    int64_t first, int64_t last) {
      const Fused& f = *static_cast<const Fused*>(context);
      const int64_t at = image * f.image + first_row * f.row + f.first + first;
      const int64_t rows = last_row - first_row;
      const bool whole = last - first == f.pixel;
      const int64_t runs = whole ? 1 : rows * f.width;
      const int64_t length = whole ? rows * f.row : last - first;
      for (int64_t i = 0; i < runs; ++i)
        f.conv->finish_codes(f.y + at + i * f.pixel,
                             f.residual ? f.residual + at + i * f.pixel : nullptr, length,
                             *f.table);
    };
    if (fuses) y.finish = &finish;
    if (piece.depthwise) return depthwise(*piece.depthwise, g, x, y, inner_threads);
    if (piece.depthwise_floats)
      return depthwise_f32(*piece.depthwise_floats, g, x, y, inner_threads);
    if (piece.floats) return conv_f32(*piece.floats, g, x, y, inner_threads);
    const int32_t* start = piece.start.empty() ? nullptr : piece.start.data();
    if (!conv(*piece.weights, g, x, y, start, inner_threads))
      fits.store(false, std::memory_order_relaxed);
  };
  const auto run_piece = [&](const Piece& piece, int inner_threads) {
    ConvX x = input;
    x.data += piece.first_in * (is_float() ? 4 : 1);
    run_part(piece, geometry(piece), x, 0, inner_threads);
  };

  const int64_t pieces = static_cast<int64_t>(form.pieces.size());
  const int64_t macs = result.batch * result.height * result.width * s.out_c * (s.in_c / s.groups) *
                       s.kernel_h * s.kernel_w * (is_float() ? 4 : 1) /
                       (s.transposed ? s.stride_h * s.stride_w : 1);
  const ConvGeometry whole = geometry(form.pieces[0]);
  // The axes of a transposed one have phases, each with taps of its own.
  WindowPlan plan{};
  if (form.pieces[0].groups * pieces == s.groups && !s.transposed && !is_float() &&
      form.table->info->a_bytes == 1)
    plan = plan_channel_windows(whole, pieces);
  if (plan.together > 1 && plan.rows > 0) {
    const int64_t bundles = ceil_div(pieces, plan.together);
    int64_t chunks = ceil_div(whole.out_h, plan.rows);
    const int used = threads_worth(*form.table, macs, threads);
    if (used > 1 && shape.batch * chunks * bundles < int64_t{2} * used)
      chunks = std::min(whole.out_h, ceil_div(int64_t{2} * used, shape.batch * bundles));
    note_kernel(*form.table, "gemm_u8s8s32", "groups share windows",
                shape.batch * whole.out_h * whole.out_w, s.out_c,
                s.in_c / s.groups * s.kernel_h * s.kernel_w, used);
    parallel_for(static_cast<int>(shape.batch * chunks * bundles), used, [&](int task) {
      const int64_t first = task % bundles * plan.together, chunk = task / bundles % chunks;
      const int64_t from = whole.out_h * chunk / chunks, to = whole.out_h * (chunk + 1) / chunks;
      const int64_t at = task / bundles / chunks;
      const ChannelWindows w =
          channel_windows(whole, from, to, std::min(plan.together, pieces - first));
      auto* memory =
          static_cast<uint8_t*>(scratch(ScratchSlot::kChannels, static_cast<size_t>(w.bytes())));
      fill_channel_windows(
          input,
          input.data + at * input.image_stride + form.pieces[static_cast<size_t>(first)].first_in,
          shape.height, shape.width, w, memory);
      ConvGeometry g = whole;
      g.batch = 1;
      g.in_h = w.rows;
      g.in_w = w.columns;
      g.out_h = to - from;
      g.pad_top = g.pad_left = 0;
      ConvX x = input;
      x.pixel_stride = w.channels;
      x.row_stride = w.row_bytes();
      for (int64_t i = 0; i < w.blocks; ++i) {
        x.data = memory + i * w.block_bytes();
        run_part(form.pieces[static_cast<size_t>(first + i)], g, x, at * image + from * row, 1);
      }
    });
  } else if (pieces < 2 * threads) {
    for (const Piece& piece : form.pieces) run_piece(piece, threads);
  } else {
    parallel_for(static_cast<int>(pieces), threads_worth(*form.table, macs, threads),
                 [&](int i) { run_piece(form.pieces[static_cast<size_t>(i)], 1); });
  }
  if ((has_table() || residual) && !fuses && s.channels_last && !x_scale)
    finish_codes(static_cast<uint8_t*>(out), residual, shape.batch * image, *form.table);
  return fits.load();
}

bool Conv::run(const Input& x, const uint8_t* residual, void* out, const KernelTable& table,
               int threads) const {
  const ConvSpec& s = spec_;
  const Form& f = form(table);
  const Shape result = output_shape(x.shape);
  const int64_t in_pixels = x.shape.height * x.shape.width, in_values = in_pixels * s.in_c;
  const int64_t out_pixels = result.height * result.width, out_values = out_pixels * s.out_c;
  const int64_t batch = x.shape.batch;
  if (batch == 0 || out_values == 0) return true;

  const auto* codes = static_cast<const uint8_t*>(x.data);
  const auto image_array_bytes = static_cast<size_t>(batch) * 64;
  float* scale = nullptr;
  int32_t* zero = nullptr;
  if (x.is_float && !is_float()) {
    auto* memory = static_cast<char*>(
        scratch(ScratchSlot::kB, 2 * image_array_bytes + static_cast<size_t>(batch * in_values)));
    scale = reinterpret_cast<float*>(memory);
    zero = reinterpret_cast<int32_t*>(memory + image_array_bytes);
    auto* q = reinterpret_cast<uint8_t*>(memory + 2 * image_array_bytes);
    const auto* real = static_cast<const float*>(x.data);
    if (is_dynamic())
      run_quantize_rows(table, real, batch, in_values, q, scale, zero, threads);
    else
      run_quantize(table, real, {1, 1, batch * in_values}, &s.epilogue.x_scale, &s.x_zero_point,
                   s.x_is_signed, s.x_is_signed ? -128 : 0, s.x_is_signed ? 127 : 255, q, threads);
    codes = q;
  }
  const int64_t x_bytes = is_float() ? 4 : 1;
  if (!s.channels_last && s.in_c > 1 && in_pixels > 1) {
    auto* turned = static_cast<uint8_t*>(
        scratch(ScratchSlot::kLayoutIn, static_cast<size_t>(batch * in_values * x_bytes)));
    if (is_float())
      turn_words(table, reinterpret_cast<const uint32_t*>(codes), batch, s.in_c, in_pixels,
                 reinterpret_cast<uint32_t*>(turned), threads);
    else
      turn_bytes(table, codes, batch, s.in_c, in_pixels, turned, threads);
    codes = turned;
  }
  const bool turns = !s.channels_last && s.out_c > 1 && out_pixels > 1;
  const bool is_bytes = epilogue_.is_codes();
  const bool is_real = is_dynamic() && is_bytes;  // codes are made of a float32 result
  const int64_t value_bytes = is_bytes && !is_real ? 1 : 4;
  void* y = out;
  if (turns || is_real)
    y = scratch(ScratchSlot::kLayoutOut, static_cast<size_t>(batch * out_values * value_bytes));

  bool fits = true;
  ConvX input{};
  input.data = codes;
  input.pixel_stride = s.in_c * x_bytes;
  input.row_stride = x.shape.width * input.pixel_stride;
  input.image_stride = in_values * x_bytes;
  if (is_float()) {
    fits = run_images(f, input, x.shape, result, nullptr, nullptr, y, threads);
  } else if (is_dynamic()) {
    Shape one = x.shape, one_result = result;
    one.batch = one_result.batch = 1;
    for (int64_t i = 0; i < batch; ++i) {
      input.data = codes + i * in_values;
      input.zero_point = zero[i];
      fits &= run_images(f, input, one, one_result, scale + i, nullptr,
                         static_cast<char*>(y) + i * out_values * 4, threads);
    }
  } else {
    input.is_signed = s.x_is_signed;
    input.zero_point = s.x_zero_point;
    fits = run_images(f, input, x.shape, result, nullptr, s.channels_last ? residual : nullptr, y,
                      threads);
  }
  if (is_real) {
    const float out_scale = epilogue_.out_scale();
    const int32_t out_zero = epilogue_.out_zero_point();
    const bool is_signed = epilogue_.output() == OutputKind::kS8;
    auto* q = static_cast<uint8_t*>(
        turns ? scratch(ScratchSlot::kLayoutIn, static_cast<size_t>(batch * out_values)) : out);
    run_quantize(table, static_cast<const float*>(y), {1, 1, batch * out_values}, &out_scale,
                 &out_zero, is_signed, is_signed ? -128 : 0, is_signed ? 127 : 255, q, threads);
    y = q;
  }
  if (turns && is_bytes)
    turn_bytes(table, static_cast<const uint8_t*>(y), batch, out_pixels, s.out_c,
               static_cast<uint8_t*>(out), threads);
  else if (turns)
    turn_words(table, static_cast<const uint32_t*>(y), batch, out_pixels, s.out_c,
               static_cast<uint32_t*>(out), threads);
  if ((has_table() || residual) && (!s.channels_last || is_dynamic()))
    finish_codes(static_cast<uint8_t*>(out), residual, batch * out_values, table);
  return fits;
}

}  // namespace octavo
