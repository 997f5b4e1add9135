#include "ops/copy.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "ops/runs.h"

namespace octavo {
namespace {

template <class T>
void copy_rows(const char* x, int64_t rows, int64_t x_row, int64_t count, int64_t x_step, char* y,
               int64_t y_row) {
  // In squares, so that lines of both are read and written whole while they are in the cache.
  constexpr int64_t kSide = 16;
  for (int64_t first = 0; first < rows; first += kSide) {
    for (int64_t from = 0; from < count; from += kSide) {
      for (int64_t r = first; r < std::min(rows, first + kSide); ++r) {
        for (int64_t i = from; i < std::min(count, from + kSide); ++i)
          std::memcpy(y + r * y_row + i * static_cast<int64_t>(sizeof(T)),
                      x + r * x_row + i * x_step, sizeof(T));
      }
    }
  }
}

}  // namespace

StridedCopy::StridedCopy(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                         int64_t value_bytes)
    : value_bytes_(value_bytes) {
  std::vector<Axis> axes;
  int64_t reach = value_bytes;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 1) continue;
    if (!axes.empty() && strides[i] == axes.back().x_stride * axes.back().length)
      axes.back().length *= shape[i];
    else
      axes.push_back({shape[i], strides[i], reach});
    reach *= shape[i];
  }
  if (axes.empty()) axes.push_back({1, value_bytes, value_bytes});
  inner_ = axes.front();
  axes.erase(axes.begin());
  if (!axes.empty()) {
    // Along the axis where x lies densest, both are read and written in squares.
    const auto densest = inner_.x_stride == value_bytes
                             ? axes.begin()
                             : std::min_element(axes.begin(), axes.end(), [](auto& a, auto& b) {
                                 return std::abs(a.x_stride) < std::abs(b.x_stride);
                               });
    rows_ = *densest;
    axes.erase(densest);
  }
  outer_.assign(axes.rbegin(), axes.rend());
}

int64_t StridedCopy::bytes() const {
  int64_t total = inner_.length * rows_.length * value_bytes_;
  for (const Axis& axis : outer_) total *= axis.length;
  return total;
}

void StridedCopy::offsets(int64_t i, int64_t* x, int64_t* y) const {
  *x = *y = 0;
  for (size_t at = outer_.size(); at-- > 0;) {
    *x += i % outer_[at].length * outer_[at].x_stride;
    *y += i % outer_[at].length * outer_[at].y_stride;
    i /= outer_[at].length;
  }
}

void StridedCopy::run(const KernelTable& table, const void* x, void* y, int threads) const {
  const int64_t plane = rows_.length * inner_.length;
  if (bytes() == 0) return;
  const int64_t planes = bytes() / (plane * value_bytes_);
  // Tasks are some rows of one plane, or some planes.
  const int64_t rows = std::clamp<int64_t>(kTaskValues / inner_.length, 1, rows_.length);
  const int64_t pieces = (rows_.length + rows - 1) / rows;
  for_each_group(planes * pieces, plane / pieces, threads, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      int64_t x_at, y_at;
      offsets(task / pieces, &x_at, &y_at);
      const int64_t row = task % pieces * rows, count = std::min(rows, rows_.length - row);
      const char* from = static_cast<const char*>(x) + x_at + row * rows_.x_stride;
      char* to = static_cast<char*>(y) + y_at + row * rows_.y_stride;
      if (inner_.x_stride == value_bytes_) {
        for (int64_t r = 0; r < count; ++r)
          std::memcpy(to + r * rows_.y_stride, from + r * rows_.x_stride,
                      static_cast<size_t>(inner_.length * value_bytes_));
      } else if (value_bytes_ == 1 && rows_.x_stride == 1) {
        table.pack->transpose(reinterpret_cast<const uint8_t*>(from), inner_.x_stride,
                              inner_.length, count, reinterpret_cast<uint8_t*>(to), rows_.y_stride);
      } else if (value_bytes_ == 4 && rows_.x_stride == 4) {
        table.pack->transpose_words(reinterpret_cast<const uint32_t*>(from), inner_.x_stride / 4,
                                    inner_.length, count, reinterpret_cast<uint32_t*>(to),
                                    rows_.y_stride / 4);
      } else {
        const auto copy = value_bytes_ == 1   ? &copy_rows<uint8_t>
                          : value_bytes_ == 2 ? &copy_rows<uint16_t>
                          : value_bytes_ == 4 ? &copy_rows<uint32_t>
                                              : &copy_rows<uint64_t>;
        copy(from, count, rows_.x_stride, inner_.length, inner_.x_stride, to, rows_.y_stride);
      }
    }
  });
}

}  // namespace octavo
