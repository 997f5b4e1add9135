// Attention on every table: both precisions, to the bit, against one row at a time in naive loops,
// by any number of threads. Operands lie between pages that may not be touched. Where memory runs
// out it throws std::bad_alloc, and works as before once there is some again.
#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <thread>

#include "check.h"
#include "drivers/gemm.h"
#include "guard_page.h"
#include "no_memory.h"
#include "reference/float_rows.h"
#include "reference/quantize.h"

namespace octavo {
namespace {

// q, k, v: 0 float, 1 int8, 2 uint8 (floats alone where integers is 0)
// by_row: codes of v have a scale for each row; mask: 0 none, 1 floats, 2 bytes; past: -1: not
// causal; odd: some values are NaN or infinite
// clang-format off: it never settles on these
#define OCTAVO_ATTENTION_FIELDS(F) \
  F(integers) F(batch) F(group) F(kv_heads) F(queries) F(keys) F(depth) F(value_depth) \
  F(q) F(k) F(v) F(by_row) F(mask) F(past) F(odd) F(sides) F(seed)
// clang-format on
OCTAVO_CASE(AttentionCase, "attention", OCTAVO_ATTENTION_FIELDS)

// One operand: rows after rows, heads after heads, with a gap behind each row.
struct Rows {
  int64_t heads, rows, depth, stride;
  int64_t kind;
  std::vector<float> floats;
  std::vector<uint8_t> codes;
  std::vector<float> scale;  // a head (q), or a row
  std::vector<int32_t> zero;

  Rows(int64_t heads, int64_t rows, int64_t depth, int64_t kind, bool odd, Random& random)
      : heads(heads), rows(rows), depth(depth), stride(depth + random.below(3)), kind(kind) {
    const auto count = static_cast<size_t>(heads * rows * stride);
    for (size_t i = 0; i < count; ++i) {
      codes.push_back(static_cast<uint8_t>(random.below(256)));
      floats.push_back(static_cast<float>(random.unit() * 4 - 2));
      if (odd && random.chance(100))
        floats.back() = random.chance(2) ? NAN : std::numeric_limits<float>::infinity();
    }
    for (int64_t i = 0; i < heads * rows; ++i) {
      scale.push_back(static_cast<float>(random.unit() + 0.1) / 256);
      zero.push_back(static_cast<int32_t>(random.below(256) - (kind == 1 ? 128 : 0)));
    }
    if (kind > 0 || !odd) return;
    // A row of zeros.
    const int64_t at = random.below(std::max<int64_t>(heads * rows, 1)) * stride;
    if (count > 0) std::fill_n(floats.begin() + at, depth, 0.0f);
  }
  int64_t at(int64_t head, int64_t row) const { return (head * rows + row) * stride; }
};

// Codes less their zero points, and scales, of one row of k or v.
struct Centred {
  std::vector<int64_t> values;
  float scale;
};
Centred centred(const Rows& x, int64_t head, int64_t row, bool one_scale, bool has_zero) {
  Centred c{std::vector<int64_t>(static_cast<size_t>(x.depth)), 0.0f};
  if (x.kind > 0) {
    const auto which = static_cast<size_t>(head * x.rows + (one_scale ? 0 : row));
    for (int64_t i = 0; i < x.depth; ++i)
      c.values[static_cast<size_t>(i)] =
          code_value(x.codes[static_cast<size_t>(x.at(head, row) + i)], x.kind == 1) -
          (has_zero ? x.zero[which] : 0);
    c.scale = x.scale[which];
    return c;
  }
  const float* values = x.floats.data() + x.at(head, row);
  float top = 0.0f;
  for (int64_t i = 0; i < x.depth; ++i) {
    if (!std::isfinite(values[i])) {
      c.scale = NAN;
      return c;
    }
    top = std::max(top, std::fabs(values[i]));
  }
  if (top == 0.0f) return c;
  c.scale = std::max(top / 127.0f, 0x1p-126f);
  for (int64_t i = 0; i < x.depth; ++i)
    c.values[static_cast<size_t>(i)] = std::lrint(values[i] / c.scale);
  return c;
}

struct Problem {
  Rows q, k, v;
  std::vector<float> added;
  std::vector<uint8_t> keep;
  float scale;
};

Problem make_problem(const AttentionCase& c) {
  Random random(static_cast<uint64_t>(c.seed));
  const int64_t kv = c.batch * c.kv_heads, all = kv * c.group;
  Problem p{Rows(all, c.queries, c.depth, c.q, c.odd, random),
            Rows(kv, c.keys, c.depth, c.k, c.odd, random),
            Rows(kv, c.keys, c.value_depth, c.v, c.odd, random),
            {},
            {},
            static_cast<float>(random.unit() + 0.1)};
  for (int64_t i = 0; i < all * c.queries * c.keys; ++i) {
    p.added.push_back(random.chance(8) ? -std::numeric_limits<float>::infinity()
                                       : static_cast<float>(random.unit()));
    p.keep.push_back(static_cast<uint8_t>(random.below(4)));
  }
  // Rows that are hidden.
  if (c.keys > 0 && !p.keep.empty()) std::fill_n(p.keep.begin(), c.keys, uint8_t{0});
  return p;
}

// Codes of one row's weights; their scale.
float weigh(std::vector<float> s, size_t seen, const float* added, const uint8_t* keep,
            const std::vector<Centred>* by_key, std::vector<uint8_t>& codes) {
  const float lowest = -std::numeric_limits<float>::infinity();
  float most = lowest, top = 0.0f;
  bool any_nan = false;
  for (size_t j = 0; j < seen; ++j) {
    if (added) s[j] += added[j];
    if (keep && keep[j] == 0) s[j] = lowest;
    any_nan |= std::isnan(s[j]) || s[j] == -lowest;
    most = std::max(most, s[j]);
  }
  if (any_nan) return NAN;
  if (most == lowest) return 0.0f;
  std::vector<float> e(seen), w(seen);
  for (size_t j = 0; j < seen; ++j) {
    e[j] = reference_exp(s[j] - most);
    w[j] = !by_key ? e[j] : e[j] == 0.0f ? 0.0f : e[j] * (*by_key)[j].scale;
    any_nan |= std::isnan(w[j]);
    top = std::max(top, w[j]);
  }
  if (any_nan) return NAN;
  top = by_key ? std::max(top, 0x1p-100f) : 1.0f;
  for (size_t j = 0; j < seen; ++j)
    codes[j] = static_cast<uint8_t>(std::lrint(w[j] * (255.0f / top)));
  return (top / 255.0f) * (1.0f / reference_sum(e.data(), static_cast<int64_t>(seen)));
}

std::vector<float> naive(const AttentionCase& c, const Problem& p) {
  std::vector<float> out;
  const auto keys = static_cast<size_t>(c.keys);
  for (int64_t head = 0; head < p.q.heads; ++head) {
    const int64_t kv = head / c.group;
    std::vector<Centred> ks, vs;
    for (int64_t j = 0; j < c.keys && c.integers; ++j) {
      ks.push_back(centred(p.k, kv, j, false, true));
      vs.push_back(centred(p.v, kv, j, !c.by_row, !c.by_row));
    }
    for (int64_t i = 0; i < c.queries; ++i) {
      const float* q = p.q.floats.data() + p.q.at(head, i);
      std::vector<float> s(keys), w(keys);
      if (!c.integers) {
        for (int64_t j = 0; j < c.keys; ++j) {
          for (int64_t t = 0; t < c.depth; ++t)
            s[static_cast<size_t>(j)] =
                std::fma(q[t] * p.scale, p.k.floats[static_cast<size_t>(p.k.at(kv, j) + t)],
                         s[static_cast<size_t>(j)]);
        }
      } else {
        std::vector<uint8_t> codes(static_cast<size_t>(c.depth));
        float a = 1.0f, factor = p.scale;
        int32_t zero = 0;
        if (c.q == 0) {
          reference_quantize_rows(q, c.depth, 1, c.depth, codes.data(), c.depth, &a, &zero);
        } else {
          std::copy_n(p.q.codes.begin() + p.q.at(head, i), c.depth, codes.begin());
          zero = p.q.zero[static_cast<size_t>(head * c.queries)];
          factor *= p.q.scale[static_cast<size_t>(head * c.queries)];
        }
        for (size_t j = 0; j < keys; ++j) {
          int64_t sum = 0;
          for (size_t t = 0; t < codes.size(); ++t)
            sum += (code_value(codes[t], c.q == 1) - zero) * ks[j].values[t];
          s[j] = static_cast<float>(sum) * (a * (factor * ks[j].scale));
        }
      }
      const int64_t seen = c.past < 0 ? c.keys : std::clamp<int64_t>(c.past + i + 1, 0, c.keys);
      const size_t row = static_cast<size_t>(head * c.queries + i) * keys;
      const float* added = c.mask == 1 ? p.added.data() + row : nullptr;
      const uint8_t* keep = c.mask == 2 ? p.keep.data() + row : nullptr;
      float scale = 0.0f;
      std::vector<uint8_t> codes(keys);
      if (c.integers) {
        const bool folds = c.v == 0 || c.by_row;
        scale = weigh(s, static_cast<size_t>(seen), added, keep, folds ? &vs : nullptr, codes);
      } else if (seen > 0) {
        reference_softmax(s.data(), seen, added, keep, w.data());
      }
      for (int64_t n = 0; n < c.value_depth; ++n) {
        if (!c.integers) {
          float y = 0.0f;
          for (int64_t j = 0; j < c.keys; ++j) {
            if (w[static_cast<size_t>(j)] != 0.0f)
              y = std::fma(w[static_cast<size_t>(j)],
                           p.v.floats[static_cast<size_t>(p.v.at(kv, j) + n)], y);
          }
          out.push_back(y + 0.0f);
          continue;
        }
        int64_t sum = 0;
        for (size_t j = 0; j < keys; ++j)
          sum += int64_t{codes[j]} * vs[j].values[static_cast<size_t>(n)];
        const bool folded = c.v == 0 || c.by_row || c.keys == 0;
        const float column = folded ? 1.0f : p.v.scale[static_cast<size_t>(kv * c.keys)];
        out.push_back(static_cast<float>(sum) * (scale * column));
      }
    }
  }
  return out;
}

// Operands between guard pages.
class Placed {
 public:
  Placed(const AttentionCase& c, const Problem& p) : case_(c) {
    spec.batch_axes = 1;
    spec.batch[0] = c.batch;
    spec.kv_heads = c.kv_heads;
    spec.heads = c.kv_heads * c.group;
    spec.queries = c.queries;
    spec.keys = c.keys;
    spec.depth = c.depth;
    spec.value_depth = c.value_depth;
    spec.integers = c.integers != 0;
    spec.scale = p.scale;
    spec.causal = c.past >= 0;
    spec.past = c.past;
    place(p.q, 0, spec.heads, 0, spec.q);
    place(p.k, 1, c.kv_heads, 1, spec.k);
    place(p.v, 2, c.kv_heads, c.by_row, spec.v);
    spec.v.by_row = c.by_row != 0;
    if (c.v > 0 && c.by_row) {
      std::fill(v_zero_, v_zero_ + p.v.zero.size(), 0);
    }
    const int64_t row = c.keys;
    AttentionArray& mask = c.mask == 1 ? spec.added : spec.keep;
    if (c.mask == 1) mask.data = buffers_[3].copy(p.added.data(), p.added.size(), side(3));
    if (c.mask == 2) mask.data = buffers_[3].copy(p.keep.data(), p.keep.size(), side(3));
    set(mask.strides, spec.heads * c.queries * row, c.queries * row, row, 1);
    out_size_ = static_cast<size_t>(c.batch * spec.heads * c.queries * c.value_depth);
    const int64_t depth = c.value_depth;
    set(spec.out_strides, spec.heads * c.queries * depth, c.queries * depth, depth, 1);
  }

  std::vector<float> run(const KernelTable& table, int threads) {
    place_result();
    run_attention(table, spec, threads);
    OCTAVO_CHECK(buffers_[4].intact(), "written beyond the result");
    return std::vector<float>(spec.out, spec.out + out_size_);
  }

  void place_result() { spec.out = buffers_[4].place_values<float>(out_size_, side(4)); }

  AttentionSpec spec;

 private:
  Side side(int which) const { return (case_.sides >> which & 1) != 0 ? Side::kBegin : Side::kEnd; }
  static void set(int64_t* strides, int64_t batch, int64_t head, int64_t row, int64_t value) {
    strides[0] = batch;
    strides[1] = head;
    strides[2] = row;
    strides[3] = value;
  }
  void place(const Rows& x, int which, int64_t heads, int64_t by_row, AttentionOperand& operand) {
    GuardedBuffer& buffer = buffers_[which];
    operand.is_codes = x.kind > 0;
    operand.is_signed = x.kind == 1;
    // Nothing behind the last value.
    const auto count = x.heads * x.rows == 0
                           ? size_t{0}
                           : static_cast<size_t>(x.at(x.heads - 1, x.rows - 1) + x.depth);
    operand.values.data =
        operand.is_codes ? static_cast<const void*>(buffer.copy(x.codes.data(), count, side(which)))
                         : buffer.copy(x.floats.data(), count, side(which));
    const int64_t head = x.rows * x.stride;
    set(operand.values.strides, heads * head, head, x.stride, 1);
    operand.scale.data = buffers_[5 + which].copy(x.scale.data(), x.scale.size(), side(which));
    int32_t* zero = buffers_[8 + which].copy(x.zero.data(), x.zero.size(), side(which));
    if (which == 2) v_zero_ = zero;
    operand.zero_point.data = zero;
    set(operand.scale.strides, heads * x.rows, x.rows, by_row, 0);
    set(operand.zero_point.strides, heads * x.rows, x.rows, which == 1 ? by_row : 0, 0);
  }

  AttentionCase case_;
  GuardedBuffer buffers_[11];
  int32_t* v_zero_ = nullptr;
  size_t out_size_ = 0;
};

bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

int64_t nans, zeros;

void check(const KernelTable& table, const AttentionCase& c) {
  const CaseScope<AttentionCase> scope(table, c);
  const Problem problem = make_problem(c);
  const std::vector<float> wanted = naive(c, problem);
  Placed placed(c, problem);
  for (const int threads : {1, 3, 8}) {
    const std::vector<float> y = placed.run(table, threads);
    for (size_t i = 0; i < y.size(); ++i) {
      nans += std::isnan(wanted[i]);
      zeros += wanted[i] == 0.0f;
      if (same(y[i], wanted[i])) continue;
      fail("value %zu is %a, not %a, with %d threads", i, y[i], wanted[i], threads);
      break;
    }
  }
}

AttentionCase random_case(Random& random, bool small) {
  const int64_t sizes[] = {1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 70};
  AttentionCase c;
  c.integers = random.below(4) > 0;
  c.batch = random.between(1, 2);
  c.group = random.between(1, 3);
  c.kv_heads = random.between(1, 2);
  c.queries = random.chance(3) ? 1 : random.between(1, small ? 20 : 60);
  c.keys = random.chance(20) ? 0 : random.chance(6) ? random.between(100, 300) : random.pick(sizes);
  c.depth = random.pick(sizes);
  c.value_depth = random.pick(sizes);
  if (c.integers) {
    c.q = random.below(3);
    c.k = random.below(3);
    c.v = random.below(3);
    c.by_row = random.below(2);
  }
  c.mask = random.below(3);
  c.past = random.chance(2) ? -1 : random.below(c.keys + 2);
  c.odd = random.chance(3);
  c.sides = random.below(32);
  c.seed = random.below(int64_t{1} << 40);
  return c;
}

// The kernel alone: rows apart, masks, weights of keys, NaN, and nothing touched behind a row.
void check_kernel(const KernelTable& table, int64_t rows, int64_t n, Random& random) {
  const int64_t stride = n + random.below(4), mask_stride = random.chance(2) ? n : 0;
  const bool has_keys = random.chance(2), is_odd = random.chance(4);
  const int64_t mask = random.below(3);
  const auto count = static_cast<size_t>(rows * stride), length = static_cast<size_t>(n);
  std::vector<float> scores(count), added(count), by_key(length);
  std::vector<uint8_t> keep(count);
  for (size_t i = 0; i < count; ++i) {
    scores[i] = static_cast<float>(random.unit() * 40 - 20);
    if (is_odd && random.chance(50)) scores[i] = NAN;
    added[i] = static_cast<float>(random.unit() - 0.5);
    keep[i] = static_cast<uint8_t>(random.below(2));
  }
  std::vector<Centred> keys(length);
  for (size_t i = 0; i < length; ++i) keys[i].scale = by_key[i] = static_cast<float>(random.unit());

  GuardedBuffer s_room, mask_room, key_room, code_room, scale_room;
  WeighArgs args{};
  args.scores = s_room.copy(scores.data(), count - static_cast<size_t>(stride - n), Side::kEnd);
  args.rows = rows;
  args.n = n;
  args.stride = stride;
  args.mask_stride = mask_stride;
  const auto masks = static_cast<size_t>(mask_stride == 0 ? n : rows * n);
  if (mask == 1) args.mask = mask_room.copy(added.data(), masks, Side::kEnd);
  if (mask == 2) args.keep = mask_room.copy(keep.data(), masks, Side::kEnd);
  if (has_keys) args.by_key = key_room.copy(by_key.data(), length, Side::kEnd);
  args.code_stride = n;
  args.codes = code_room.place(static_cast<size_t>(rows * n), Side::kEnd);
  args.scale = scale_room.place_values<float>(static_cast<size_t>(rows), Side::kEnd);
  table.attention->weigh(args);
  for (int64_t row = 0; row < rows; ++row) {
    const float* first = scores.data() + row * stride;
    std::vector<uint8_t> codes(length);
    const float scale = weigh(
        {first, first + n}, length, mask == 1 ? added.data() + row * mask_stride : nullptr,
        mask == 2 ? keep.data() + row * mask_stride : nullptr, has_keys ? &keys : nullptr, codes);
    OCTAVO_CHECK(same(args.scale[row], scale),
                 "weigh: scale of row %lld of %lld values is %g, not %g",
                 static_cast<long long>(row), static_cast<long long>(n),
                 static_cast<double>(args.scale[row]), static_cast<double>(scale));
    OCTAVO_CHECK(std::isnan(scale) || std::equal(codes.begin(), codes.end(), args.codes + row * n),
                 "weigh: codes of row %lld of %lld values", static_cast<long long>(row),
                 static_cast<long long>(n));
  }
  OCTAVO_CHECK(s_room.intact() && code_room.intact() && scale_room.intact(),
               "weigh wrote beside its rows");
}

void check_no_memory(const KernelTable& table) {
  for (const int64_t integers : {0, 1}) {
    AttentionCase c;
    c.integers = integers;
    c.batch = c.group = c.kv_heads = 2;
    c.queries = c.keys = c.depth = c.value_depth = 20;
    c.past = -1;
    const CaseScope<AttentionCase> scope(table, c);
    const Problem problem = make_problem(c);
    const std::vector<float> wanted = naive(c, problem);
    Placed placed(c, problem);
    placed.place_result();
    std::thread([&] {  // one that has no scratch yet
      for (const int threads : {1, 3}) {
        bool thrown = false;
        memory_is_out = true;
        try {
          run_attention(table, placed.spec, threads);
        } catch (const std::bad_alloc&) {
          thrown = true;
        }
        memory_is_out = false;
        // Workers have scratch of their own, and may do all the tasks.
        OCTAVO_CHECK(thrown || threads > 1, "no memory: nothing was thrown");
      }
      OCTAVO_CHECK(placed.run(table, 1) == wanted, "memory again: another result");
    })
        .join();
  }
}

void test_attention(const KernelTable& table) {
  set_dots_per_thread(1);
  Random random(17);
  const bool small = in_qemu();
  nans = zeros = 0;
  check_no_memory(table);
  for (const int64_t n : {1, 2, 3, 5, 8, 15, 16, 17, 63, 64, 65, 130, 5000}) {
    for (const int64_t rows : {1, 5, 40}) {
      if (!small || n * rows < 1000) check_kernel(table, rows, n, random);
    }
  }
  for (int i = 0; i < (small ? 40 : 400); ++i) check(table, random_case(random, small));
  {
    // Long sums of products, several blocks of rows, causal.
    AttentionCase c;
    c.integers = 1;
    c.batch = c.group = c.kv_heads = 1;
    c.queries = small ? 20 : 200;
    c.keys = small ? 300 : 1100;
    c.depth = 7;
    c.value_depth = 5;
    c.past = c.keys - c.queries;
    check(table, c);
    c.integers = 0;
    check(table, c);
  }
  OCTAVO_CHECK(nans > 0 && zeros > 0, "no NaN, or no zero: vacuous");
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
  running.cases = 0;
}

// Each was compared with the same loops.
void compare_tables(const std::vector<const KernelTable*>&) {}

bool repeat_case(const KernelTable& table, const std::string& line) {
  AttentionCase c;
  if (!parse_case(line, c)) return false;
  set_dots_per_thread(1);
  check(table, c);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  return octavo::run_tests(argc, argv, octavo::test_attention, octavo::compare_tables,
                           octavo::repeat_case);
}
