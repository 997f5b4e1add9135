#include "ops/recurrent.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "drivers/sizes.h"
#include "runtime/aligned_buffer.h"
#include "runtime/thread_pool.h"

namespace octavo {
namespace {

// Values of the input's gates that are held at a time, about, and rows that are worth a product.
constexpr int64_t kChunkValues = 1 << 18;
constexpr int64_t kChunkRows = 64;
// A gate costs as much as this many multiply-accumulates of its product.
constexpr int64_t kMacsPerGate = 64;

void project(const Projection& projection, const float* x, int64_t rows, int64_t row_stride,
             float* out, int64_t ldo, const KernelTable& table, int threads,
             bool backwards = false) {
  if (const auto* linear = std::get_if<const Linear*>(&projection))
    (*linear)->run({x, true, rows, row_stride, 1, nullptr, nullptr, backwards}, out, ldo, table,
                   threads);
  else if (const auto* floats = std::get_if<const FloatLinear*>(&projection))
    (*floats)->run(x, rows, row_stride, out, ldo, table, threads, backwards);
  else
    std::get<const GroupedLinear*>(projection)->run(x, rows, row_stride, out, ldo, table, threads);
}

void check_size(const Projection& projection, int64_t in, int64_t out, const char* what) {
  const auto size = std::visit(
      [](const auto* op) { return std::pair(op->in_features(), op->out_features()); }, projection);
  if (size != std::pair(in, out))
    throw std::invalid_argument(std::string(what) + " has shape (" + std::to_string(size.second) +
                                ", " + std::to_string(size.first) + "), expected (" +
                                std::to_string(out) + ", " + std::to_string(in) + ")");
}

// x += y
void add(float* x, const float* y, int64_t count) {
  for (int64_t k = 0; k < count; ++k) x[k] += y[k];
}

// x += w * y
void add_product(float* x, const float* w, const float* y, int64_t count) {
  for (int64_t k = 0; k < count; ++k) x[k] += w[k] * y[k];
}

// One direction of some rows of the batch, step by step.
class Walk {
 public:
  Walk(const RecurrentSpec& spec, const CellDirection& cell, const KernelTable& table, int threads)
      : spec_(spec), cell_(cell), table_(table), n_(spec.hidden), threads_(threads) {}

  // A row of the batch at one step.
  struct Row {
    const float* input;  // what x gives to the gates
    float* gates;        // what the state gives to them
    float *h, *c, *y;
    bool takes_part;
  };

  // `row(i)` tells what is where; rows of gates lie `ld` values apart. Steps go through the weights
  // to and fro: what the caches hold of them since the last one is read first.
  template <class RowAt>
  void step(int64_t rows, int64_t state_row, int64_t ld, bool backwards, const RowAt& row) const {
    const Row first = row(0);
    project(cell_.state[0], first.h, rows, state_row, first.gates, ld, table_, threads_, backwards);
    if (spec_.is_lstm) return each(rows, row, [this](const Row& r) { lstm(r); });
    if (cell_.state.size() == 1) return each(rows, row, [this](const Row& r) { gru(r); });
    // The candidate's product is of r * H, which lies behind the gates.
    for (int64_t i = 0; i < rows; ++i) reset(row(i));
    project(cell_.state[1], first.gates + 3 * n_, rows, ld, first.gates + 2 * n_, ld, table_,
            threads_, backwards);
    each(rows, row, [this](const Row& r) {
      add(r.gates + 2 * n_, r.input + 2 * n_, n_);
      update(r);
    });
  }

 private:
  template <class RowAt, class Cell>
  void each(int64_t rows, const RowAt& row, const Cell& cell) const {
    for (int64_t i = 0; i < rows; ++i) {
      const Row r = row(i);
      if (r.takes_part) {
        cell(r);
        std::copy(r.h, r.h + n_, r.y);
      } else {
        std::fill(r.y, r.y + n_, 0.0f);
      }
    }
  }

  void lstm(const Row& row) const {
    add(row.gates, row.input, 4 * n_);
    float *i = row.gates, *o = i + n_, *f = o + n_, *g = f + n_, *c = row.c;
    const float* p = cell_.peepholes.empty() ? nullptr : cell_.peepholes.data();
    if (p) {
      add_product(i, p, c, n_);
      add_product(f, p + 2 * n_, c, n_);
      gate(cell_.f, i, n_);
      gate(cell_.f, f, n_);
    } else {
      gate(cell_.f, i, 3 * n_);
    }
    if (spec_.couples_forget) {
      for (int64_t k = 0; k < n_; ++k) f[k] = 1.0f - i[k];
    }
    gate(cell_.g, g, n_);
    for (int64_t k = 0; k < n_; ++k) c[k] = f[k] * c[k] + i[k] * g[k];
    if (p) {
      add_product(o, p + n_, c, n_);
      gate(cell_.f, o, n_);
    }
    apply(cell_.h, c, n_, g);
    for (int64_t k = 0; k < n_; ++k) row.h[k] = o[k] * g[k];
  }

  // The candidate's product is there, and r is for it.
  void gru(const Row& row) const {
    update_and_reset(row);
    const float *r = row.gates + n_, *input = row.input + 2 * n_;
    float* candidate = row.gates + 2 * n_;
    for (int64_t k = 0; k < n_; ++k) candidate[k] = r[k] * candidate[k] + input[k];
    update(row);
  }

  void reset(const Row& row) const {
    update_and_reset(row);
    const float* r = row.gates + n_;
    for (int64_t k = 0; k < n_; ++k) row.gates[3 * n_ + k] = r[k] * row.h[k];
  }

  void update_and_reset(const Row& row) const {
    add(row.gates, row.input, 2 * n_);
    gate(cell_.f, row.gates, 2 * n_);
  }

  void update(const Row& row) const {
    const float* z = row.gates;
    float *candidate = row.gates + 2 * n_, *h = row.h;
    gate(cell_.g, candidate, n_);
    for (int64_t k = 0; k < n_; ++k) h[k] = (1.0f - z[k]) * candidate[k] + z[k] * h[k];
  }

  // NaN stays NaN, here and below.
  void gate(const CellFunction& function, float* x, int64_t count) const {
    const float clip = spec_.clip;
    if (clip != std::numeric_limits<float>::infinity()) {
      for (int64_t k = 0; k < count; ++k) x[k] = x[k] < -clip ? -clip : x[k] > clip ? clip : x[k];
    }
    apply(function, x, count, x);
  }

  void apply(const CellFunction& function, const float* x, int64_t count, float* y) const {
    switch (function.kind) {
      case CellFunction::Kind::kSigmoid:
        return table_.float_rows->apply(FloatFunction::kSigmoid, x, count, y);
      case CellFunction::Kind::kTanh:
        return table_.float_rows->apply(FloatFunction::kTanh, x, count, y);
      case CellFunction::Kind::kRelu:
        for (int64_t k = 0; k < count; ++k) y[k] = x[k] <= 0.0f ? 0.0f : x[k];
        return;
      case CellFunction::Kind::kHardSigmoid:
        for (int64_t k = 0; k < count; ++k) {
          const float v = function.alpha * x[k] + function.beta;
          y[k] = v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
        }
    }
  }

  const RecurrentSpec& spec_;
  const CellDirection& cell_;
  const KernelTable& table_;
  int64_t n_;
  int threads_;
};

}  // namespace

Recurrent::Recurrent(RecurrentSpec spec) : spec_(std::move(spec)) {
  const int64_t n = spec_.hidden;
  if (n < 1) throw std::invalid_argument("hidden size is 0, expected at least 1");
  for (const CellDirection& cell : spec_.directions) {
    check_size(cell.input, in_features(), width(), "w of a direction");
    const bool is_split = !spec_.is_lstm && cell.state.size() == 2;
    check_size(cell.state[0], n, is_split ? 2 * n : width(), "r of a direction");
    if (is_split) check_size(cell.state[1], n, n, "r of a direction's candidate");
    if (!cell.peepholes.empty() && static_cast<int64_t>(cell.peepholes.size()) != 3 * n)
      throw std::invalid_argument("p has " + std::to_string(cell.peepholes.size()) +
                                  " values of a direction, expected " + std::to_string(3 * n));
  }
}

int64_t Recurrent::in_features() const {
  return std::visit([](const auto* op) { return op->in_features(); },
                    spec_.directions.front().input);
}

void Recurrent::run(const RecurrentCall& call, const KernelTable& table, int threads) const {
  const int64_t batch = call.batch, steps = call.steps, n = spec_.hidden;
  if (steps == 0 || batch == 0) return;
  const int64_t ldx = width();
  const int64_t chunk =
      std::min(steps, std::max(kChunkValues / (batch * ldx), ceil_div(kChunkRows, batch)));
  const int64_t chunk_values = chunk * batch * ldx;
  auto* input = static_cast<float*>(scratch(
      ScratchSlot::kLayoutIn, static_cast<size_t>(directions() * chunk_values) * sizeof(float)));

  const int64_t macs = directions() * chunk * batch * ldx * (n + kMacsPerGate);
  const int64_t sharing = threads_worth(table, macs, threads);
  const int64_t groups = std::min(batch, ceil_div(sharing, directions()));
  const auto tasks = static_cast<int>(sharing > 1 ? directions() * groups : 1);

  for (int64_t done = 0; done < steps; done += chunk) {
    const int64_t count = std::min(chunk, steps - done);
    const auto first_step = [&](const CellDirection& cell) {
      return cell.is_reverse ? steps - done - count : done;
    };
    for (int64_t d = 0; d < directions(); ++d) {
      const CellDirection& cell = spec_.directions[static_cast<size_t>(d)];
      const float* x = call.x + first_step(cell) * call.x_step;
      float* out = input + d * chunk_values;
      if (call.x_step == batch * call.x_row) {
        project(cell.input, x, count * batch, call.x_row, out, ldx, table, threads);
        continue;
      }
      for (int64_t b = 0; b < batch; ++b)
        project(cell.input, x + b * call.x_row, count, call.x_step, out + b * ldx, batch * ldx,
                table, threads);
    }

    const auto walk = [&](int64_t d, int64_t from, int64_t to, int inner_threads) {
      const CellDirection& cell = spec_.directions[static_cast<size_t>(d)];
      const Walk walk(spec_, cell, table, inner_threads);
      const int64_t ld = ldx + n;
      auto* gates = static_cast<float*>(
          scratch(ScratchSlot::kLayoutOut, static_cast<size_t>((to - from) * ld) * sizeof(float)));
      const int64_t first = first_step(cell);
      for (int64_t s = 0; s < count; ++s) {
        const int64_t at = cell.is_reverse ? count - 1 - s : s;  // of the chunk
        walk.step(to - from, call.state_row, ld, at % 2 != 0, [&](int64_t i) {
          const int64_t b = from + i, state = d * call.state_direction + b * call.state_row;
          Walk::Row row{};
          row.input = input + d * chunk_values + (at * batch + b) * ldx;
          row.gates = gates + i * ld;
          row.h = call.h + state;
          row.c = call.c + state;
          row.y = call.y + (first + at) * call.y_step + d * call.y_direction + b * call.y_row;
          row.takes_part = !call.lengths || first + at < call.lengths[b];
          return row;
        });
      }
    };
    if (tasks == 1) {
      for (int64_t d = 0; d < directions(); ++d) walk(d, 0, batch, threads);
      continue;
    }
    parallel_for(tasks, threads, [&](int task) {
      const int64_t d = task / groups, group = task % groups;
      walk(d, batch * group / groups, batch * (group + 1) / groups, 1);
    });
  }
}

}  // namespace octavo
