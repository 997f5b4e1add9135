#include "ops/resize.h"

#include <cstring>
#include <utility>

#include "runtime/trace.h"

namespace octavo {
namespace {

// numerator / denominator, the latter positive.
struct Fraction {
  int64_t numerator, denominator;
};

Fraction coordinate(int64_t o, int64_t in, int64_t out, Coordinates coordinates) {
  switch (coordinates) {
    case Coordinates::kPytorchHalfPixel:
      if (out == 1) return {0, 1};
      [[fallthrough]];
    case Coordinates::kHalfPixel:
      return {(2 * o + 1) * in - out, 2 * out};
    case Coordinates::kAsymmetric:
      return {o * in, out};
    case Coordinates::kAlignCorners:
      return out == 1 ? Fraction{0, 1} : Fraction{o * (in - 1), out - 1};
    case Coordinates::kTfHalfPixelForNn:
      return {(2 * o + 1) * in, 2 * out};
  }
  return {0, 1};
}

int64_t floor_of(Fraction f) {
  const int64_t q = f.numerator / f.denominator;
  return q * f.denominator > f.numerator ? q - 1 : q;
}
int64_t ceil_of(Fraction f) { return -floor_of({-f.numerator, f.denominator}); }

// rows[first] .. rows[last - 1] where they ascend: what a block of output rows reads.
std::pair<int64_t, int64_t> span(const std::vector<int64_t>& from, const std::vector<int64_t>& to,
                                 int64_t first, int64_t last) {
  return {from[static_cast<size_t>(first)], to[static_cast<size_t>(last - 1)] + 1};
}

// Rows of nearest pixels, one by one.
void nearest_rows(const uint8_t* x, int64_t x_row, const int64_t* rows, int64_t height,
                  const std::vector<int64_t>& columns, int64_t pixel, uint8_t* y) {
  const auto y_row = columns.size() * static_cast<size_t>(pixel);
  for (int64_t i = 0; i < height; ++i, y += y_row) {
    if (i > 0 && rows[i] == rows[i - 1]) {
      std::memcpy(y, y - y_row, y_row);
      continue;
    }
    const uint8_t* from = x + rows[i] * x_row;
    uint8_t* to = y;
    for (const int64_t column : columns) {
      if (pixel == 1)
        *to = from[column];
      else
        std::memcpy(to, from + column * pixel, static_cast<size_t>(pixel));
      to += pixel;
    }
  }
}

}  // namespace

std::vector<int64_t> nearest_inputs(int64_t in, int64_t out, Coordinates coordinates,
                                    NearestRounding rounding) {
  std::vector<int64_t> inputs(static_cast<size_t>(out));
  for (int64_t o = 0; o < out; ++o) {
    const Fraction at = coordinate(o, in, out, coordinates);
    const int64_t twice = 2 * at.numerator, n = at.denominator;
    int64_t nearest = 0;
    switch (rounding) {
      case NearestRounding::kRoundPreferFloor:
        nearest = ceil_of({twice - n, 2 * n});
        break;
      case NearestRounding::kRoundPreferCeil:
        nearest = floor_of({twice + n, 2 * n});
        break;
      case NearestRounding::kFloor:
        nearest = floor_of(at);
        break;
      case NearestRounding::kCeil:
        nearest = ceil_of(at);
        break;
    }
    inputs[static_cast<size_t>(o)] = std::clamp<int64_t>(nearest, 0, in - 1);
  }
  return inputs;
}

LinearAxis::LinearAxis(int64_t in, int64_t out, Coordinates coordinates)
    : left(static_cast<size_t>(out)), right(left), t(left.size()) {
  for (int64_t o = 0; o < out; ++o) {
    const Fraction at = coordinate(o, in, out, coordinates);
    const int64_t floor = floor_of(at), rest = at.numerator - floor * at.denominator;
    const auto i = static_cast<size_t>(o);
    const bool inside = floor >= 0 && floor < in - 1;
    left[i] = std::clamp<int64_t>(floor, 0, in - 1);
    right[i] = inside ? floor + 1 : left[i];
    t[i] = inside
               ? static_cast<float>(static_cast<double>(rest) / static_cast<double>(at.denominator))
               : 0.0f;
  }
}

// Nearest columns as PickArgs wants them.
struct PickColumns {
  std::vector<int64_t> base;
  std::vector<uint8_t> index;

  // Leaves them empty where 16 outputs come from further apart, or there are fewer.
  PickColumns(const std::vector<int64_t>& columns, int64_t in) {
    const auto width = static_cast<int64_t>(columns.size());
    if (width < 16) return;
    for (int64_t j = 0; j < width; j += 16) {
      const int64_t first = std::min(j, width - 16);
      base.push_back(std::clamp<int64_t>(in - 16, 0, columns[static_cast<size_t>(first)]));
      for (int64_t o = first; o < first + 16; ++o) {
        const int64_t at = columns[static_cast<size_t>(o)] - base.back();
        if (at > 15) {
          base.clear();
          return;
        }
        index.push_back(static_cast<uint8_t>(at));
      }
    }
  }
};

void run_resize_nearest(const KernelTable& table, const uint8_t* x, const Images& in,
                        const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
                        const uint8_t* codes, uint8_t* y, int threads) {
  const auto height = static_cast<int64_t>(rows.size());
  const auto width = static_cast<int64_t>(columns.size());
  note_kernel(table, "resize_nearest_u8", "rows", in.batch, in.channels, height * width, threads);
  // A row holds whole pixels, or, with channels first, one value of each.
  const int64_t pixel = in.channels_last ? in.channels : 1;
  const int64_t planes = in.channels_last ? in.batch : in.batch * in.channels;
  const int64_t x_row = in.width * pixel, y_row = width * pixel;
  const PickColumns pick(pixel == 1 ? columns : std::vector<int64_t>(), in.width);
  for_each_group(planes * height, y_row, threads, [&](int64_t first, int64_t last) {
    for (int64_t row = first, next; row < last; row = next) {
      const int64_t plane = row / height, from = row % height;
      const int64_t to = std::min(height, from + last - row);
      next = row + to - from;
      const uint8_t* in_plane = x + plane * in.height * x_row;
      uint8_t* out = y + row * y_row;
      if (!pick.base.empty()) {
        table.resize->pick({in_plane, x_row, x + in.size(), rows.data() + from, to - from,
                            pick.base.data(), pick.index.data(), width, out});
      } else {
        nearest_rows(in_plane, x_row, rows.data() + from, to - from, columns, pixel, out);
      }
      if (codes) table.eltwise->lookup(out, (to - from) * y_row, codes, out);
    }
  });
}

void run_resize_linear(const KernelTable& table, const uint8_t* x, const Images& in,
                       const LinearAxis& rows, const LinearAxis& columns, const LinearCodes& codes,
                       uint8_t* y, int threads) {
  const Images out{in.batch, in.channels, static_cast<int64_t>(rows.t.size()),
                   static_cast<int64_t>(columns.t.size()), in.channels_last};
  note_kernel(table, "resize_linear_u8", "rows", out.batch, out.channels, out.height * out.width,
              threads);
  const auto rows_read = [&](int64_t first, int64_t last) {
    return span(rows.left, rows.right, first, last);
  };
  for_each_block(table, in, x, out, y, threads, rows_read, [&](const ImageBlock& block) {
    const int64_t step = table.resize->channel_step;
    const int64_t padded = (block.channels + step - 1) / step * step;
    const auto width = static_cast<size_t>(out.width);
    auto* offsets =
        static_cast<int64_t*>(scratch(ScratchSlot::kColumns, 2 * width * sizeof(int64_t)));
    for (size_t o = 0; o < width; ++o) {
      offsets[o] = columns.left[o] * block.x_pixel;
      offsets[width + o] = columns.right[o] * block.x_pixel;
    }
    // The two rows of floats last made: row `held[i]` of the input, in `made[i]`.
    const int64_t row_floats = out.width * padded;
    auto* made = static_cast<float*>(
        scratch(ScratchSlot::kRows, 2 * static_cast<size_t>(row_floats) * sizeof(float)));
    int64_t held[2] = {-1, -1};
    const auto row_of = [&](int64_t row, int64_t other) {
      const int slot = held[0] == row || (held[1] != row && held[1] == other) ? 0 : 1;
      float* floats = made + slot * row_floats;
      if (held[slot] != row) {
        held[slot] = row;
        table.resize->lerp_columns({block.x + (row - block.x_first) * block.x_row, codes.x_signed,
                                    codes.x_zero, block.channels, out.width, offsets,
                                    offsets + width, columns.t.data(), floats});
      }
      return floats;
    };
    for (int64_t row = block.first; row < block.last; ++row) {
      const auto at = static_cast<size_t>(row);
      const int64_t left = rows.left[at], right = rows.right[at];
      const float* upper = row_of(left, right);
      const float* lower = row_of(right, left);
      table.resize->lerp_rows({upper, lower, rows.t[at], block.channels, out.width,
                               block.y + (row - block.first) * block.y_row, block.y_pixel,
                               codes.y_signed, codes.y_zero, codes.multiplier});
    }
  });
}

}  // namespace octavo
