// The kernels on 8-bit tensors (eltwise, pool, resize, and pack's transpose), for every table that
// this machine supports, against plain loops with ==, between guard pages. See check.h for how to
// repeat one case.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "guard_page.h"
#include "reference/quantize.h"

namespace octavo {
namespace {

enum Kind {
  kAdd,
  kMultiply,
  kLookup,
  kPlace,
  kMax,
  kAverage,
  kAverageRows,
  kLerp,
  kPick,
  kTurn,
  kKinds
};

// What a field means differs by kind; see the functions below.
// clang-format off: it never settles on these
#define TENSOR_FIELDS(X) \
  X(kind) X(n) X(rows) X(columns) X(outputs) X(gap) X(a_signed) X(b_signed) X(y_signed) X(zeros) \
  X(scales) X(narrow) X(in_place) X(one) X(sides) X(seed)
// clang-format on
OCTAVO_CASE(TensorCase, "tensor", TENSOR_FIELDS)

Side side(const TensorCase& c, int buffer) {
  return (c.sides >> buffer) & 1 ? Side::kBegin : Side::kEnd;
}

struct TensorTest {
  GuardedBuffer a_, b_, y_, table_, a_words_, y_words_;
  int64_t codes = 0, inner = 0;  // 8-bit results, and those that no bound decided

  std::vector<uint8_t> check(const KernelTable& table, const TensorCase& c) {
    CaseScope<TensorCase> scope(table, c);
    Random random(static_cast<uint64_t>(c.seed));
    std::vector<uint8_t> got;
    switch (c.kind) {
      case kAdd:
      case kMultiply:
        got = pair(table, c, random);
        break;
      case kLookup:
      case kPlace:
        got = place(table, c, random);
        break;
      case kMax:
      case kAverage:
        got = pool(table, c, random);
        break;
      case kAverageRows:
        got = average_rows(table, c, random);
        break;
      case kLerp:
        got = lerp(table, c, random);
        break;
      case kPick:
        got = pick(table, c, random);
        break;
      default:
        got = turn(table, c, random);
        break;
    }
    OCTAVO_CHECK(y_.intact(), "wrote beside its room");
    return got;
  }

 private:
  std::vector<uint8_t> bytes(int64_t count, Random& random, bool extreme) {
    const uint8_t marks[] = {0, 1, 127, 128, 129, 255};
    std::vector<uint8_t> values(static_cast<size_t>(count));
    for (uint8_t& value : values)
      value = extreme ? random.pick(marks) : static_cast<uint8_t>(random.next());
    return values;
  }
  const uint8_t* guarded(GuardedBuffer& buffer, const std::vector<uint8_t>& values, Side at) {
    return buffer.copy(values.data(), values.size(), at);
  }
  int32_t zero_point(const TensorCase& c, bool is_signed, Random& random) {
    const int32_t least = is_signed ? -128 : 0;
    return least + static_cast<int32_t>(c.zeros == 0   ? 128
                                        : c.zeros == 1 ? 0
                                        : c.zeros == 2 ? 255
                                                       : random.below(256));
  }
  // Ties (exact ones, and decimal ones, which one rounding more or less decides), ordinary ones,
  // and such that results leave int32.
  float scale(const TensorCase& c, float ordinary, Random& random) {
    const float ties[] = {0.5f, 0.25f, 1.0f, 1.5f, 0.1f, 0.3f, 0.7f};
    if (c.scales == 1) return random.pick(ties) * (ordinary < 0.01f ? 0x1p-6f : 1.0f);
    if (c.scales == 2) return static_cast<float>(1e20 * random.unit());
    return static_cast<float>(ordinary * (0.2 + random.unit()));
  }
  static float weight(Random& random) {
    const float ties[] = {0.0f, 0.5f, 0.25f, 0.1f, 0.3f};
    return random.chance(3) ? static_cast<float>(random.unit()) : random.pick(ties);
  }
  static float value(uint8_t code, bool is_signed, int32_t zero) {
    return static_cast<float>(code_value(code, is_signed) - zero);
  }
  uint8_t code(const TensorCase& c, float v, int32_t lo, int32_t hi, int32_t zero) {
    const int32_t y = round_code(v, static_cast<float>(lo), static_cast<float>(hi), zero);
    if (c.scales == 0) {
      ++codes;
      inner += y > lo + zero && y < hi + zero;
    }
    return static_cast<uint8_t>(y);
  }

  std::vector<uint8_t> result(const uint8_t* y, const std::vector<uint8_t>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (y[i] == expected[i]) continue;
      fail("byte %zu of %zu is %d, must be %d", i, expected.size(), y[i], expected[i]);
      break;
    }
    return {y, y + expected.size()};
  }

  // n values; in_place: 0 y apart, 1 y is a, 2 y is b.
  std::vector<uint8_t> pair(const KernelTable& table, const TensorCase& c, Random& random) {
    const bool one = c.one != 0;
    const std::vector<uint8_t> a = bytes(c.n, random, c.narrow != 0);
    const std::vector<uint8_t> b = bytes(one ? 1 : c.n, random, c.narrow != 0);
    AddArgs args{};
    args.count = c.n;
    args.a_signed = c.a_signed != 0;
    args.b_signed = c.b_signed != 0;
    args.y_signed = c.y_signed != 0;
    args.a_zero = zero_point(c, args.a_signed, random);
    args.b_zero = zero_point(c, args.b_signed, random);
    args.y_zero = zero_point(c, args.y_signed, random);
    args.a_scale = scale(c, c.kind == kAdd ? 0.5f : 0.005f, random);
    args.b_scale = scale(c, 0.5f, random);
    const int32_t least = (args.y_signed ? -128 : 0) - args.y_zero;
    const int64_t lo = random.chance(2) ? least : random.between(least, least + 255);
    const int64_t hi = random.chance(2) ? least + 255 : random.between(lo, least + 255);
    args.lo = static_cast<float>(lo);
    args.hi = static_cast<float>(hi);
    args.b_is_one = one;
    std::vector<uint8_t> expected(a.size());
    for (size_t i = 0; i < a.size(); ++i) {
      const float x = value(a[i], args.a_signed, args.a_zero);
      const float w = value(b[one ? 0 : i], args.b_signed, args.b_zero);
      const float v = c.kind == kAdd ? x * args.a_scale + w * args.b_scale : x * w * args.a_scale;
      expected[i] = code(c, v, static_cast<int32_t>(lo), static_cast<int32_t>(hi), args.y_zero);
    }
    uint8_t* y = y_.place(a.size(), side(c, 0));
    args.a = guarded(a_, a, side(c, 1));
    args.b = guarded(b_, b, side(c, 2));
    const int64_t in_place = c.n > 0 ? c.in_place : 0;
    if (in_place == 1) args.a = static_cast<uint8_t*>(std::memcpy(y, a.data(), a.size()));
    if (in_place == 2 && !one) args.b = static_cast<uint8_t*>(std::memcpy(y, b.data(), b.size()));
    args.y = y;
    (c.kind == kAdd ? table.eltwise->add : table.eltwise->multiply)(args);
    return result(y, expected);
  }

  // `rows` rows of n values, n + gap apart in y; one: without a table.
  std::vector<uint8_t> place(const KernelTable& table, const TensorCase& c, Random& random) {
    const int64_t rows = c.kind == kLookup ? 1 : c.rows, step = c.n + c.gap;
    const std::vector<uint8_t> x = bytes(rows * c.n, random, false),
                               map = bytes(256, random, false);
    const bool plain = c.kind == kPlace && c.one;
    const size_t room = rows == 0 ? 0 : static_cast<size_t>((rows - 1) * step + c.n);
    std::vector<uint8_t> expected(room, GuardedBuffer::kCanary);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < c.n; ++i) {
        const uint8_t given = x[static_cast<size_t>(row * c.n + i)];
        expected[static_cast<size_t>(row * step + i)] = plain ? given : map[given];
      }
    }
    uint8_t* y = y_.place(room, side(c, 0));
    const uint8_t* in = guarded(a_, x, side(c, 1));
    const uint8_t* entries = guarded(table_, map, side(c, 2));
    if (c.kind == kLookup) {
      if (c.in_place && c.n > 0) in = static_cast<uint8_t*>(std::memcpy(y, x.data(), x.size()));
      table.eltwise->lookup(in, c.n, entries, y);
    } else {
      table.eltwise->place(in, rows, c.n, plain ? nullptr : entries, y, step);
    }
    return result(y, expected);
  }

  // n channels, rows x columns taps, `outputs` outputs; pixels and rows n + gap and more apart.
  std::vector<uint8_t> pool(const KernelTable& table, const TensorCase& c, Random& random) {
    const bool is_average = c.kind == kAverage;
    PoolArgs args{};
    args.rows = c.rows;
    args.columns = c.columns;
    args.column_step = (c.n + c.gap) * random.between(1, 2);
    args.row_step = args.column_step * random.between(1, c.columns + 2);
    args.outputs = c.outputs;
    args.channels = c.n;
    args.x_step = (c.n + c.gap) * random.between(1, 3);
    args.y_step = c.n + c.gap / 2;
    args.is_signed = c.a_signed != 0;
    const int64_t reach = (c.rows - 1) * args.row_step + (c.columns - 1) * args.column_step +
                          (c.outputs - 1) * args.x_step + c.n;
    const std::vector<uint8_t> x = bytes(reach, random, c.narrow != 0);
    AverageArgs average{};
    average.y_signed = c.y_signed != 0;
    average.x_zero = zero_point(c, args.is_signed, random);
    average.y_zero = zero_point(c, average.y_signed, random);
    average.scale = scale(c, 0.8f, random);
    const int64_t taps = c.rows * c.columns;
    average.count = static_cast<int32_t>(c.one ? taps + random.below(9) : taps);
    const int32_t least = (average.y_signed ? -128 : 0) - average.y_zero;
    std::vector<uint8_t> expected(static_cast<size_t>((c.outputs - 1) * args.y_step + c.n),
                                  GuardedBuffer::kCanary);
    for (int64_t o = 0; o < c.outputs; ++o) {
      for (int64_t channel = 0; channel < c.n; ++channel) {
        int64_t sum = 0, best = -1000;
        for (int64_t i = 0; i < c.rows; ++i) {
          for (int64_t j = 0; j < c.columns; ++j) {
            const int64_t at = o * args.x_step + i * args.row_step + j * args.column_step + channel;
            const int64_t tap = code_value(x[static_cast<size_t>(at)], args.is_signed);
            best = std::max(best, tap);
            sum += tap - average.x_zero;
          }
        }
        const float v = static_cast<float>(sum) * average.scale / static_cast<float>(average.count);
        expected[static_cast<size_t>(o * args.y_step + channel)] =
            is_average ? code(c, v, least, least + 255, average.y_zero)
                       : static_cast<uint8_t>(best);
      }
    }
    args.x = guarded(a_, x, side(c, 1));
    args.y = y_.place(expected.size(), side(c, 0));
    if (is_average)
      table.pool->average(args, average);
    else
      table.pool->max(args);
    return result(args.y, expected);
  }

  std::vector<uint8_t> average_rows(const KernelTable& table, const TensorCase& c, Random& random) {
    const bool is_signed = c.a_signed != 0;
    const std::vector<uint8_t> x = bytes(c.rows * c.n, random, c.narrow != 0);
    AverageArgs average{c.y_signed != 0, zero_point(c, is_signed, random),
                        zero_point(c, c.y_signed != 0, random), scale(c, 0.8f, random),
                        static_cast<int32_t>(c.n)};
    const int32_t least = (average.y_signed ? -128 : 0) - average.y_zero;
    std::vector<uint8_t> expected(static_cast<size_t>(c.rows));
    for (int64_t row = 0; row < c.rows; ++row) {
      int64_t sum = 0;
      for (int64_t i = 0; i < c.n; ++i)
        sum += code_value(x[static_cast<size_t>(row * c.n + i)], is_signed) - average.x_zero;
      const float v = static_cast<float>(sum) * average.scale / static_cast<float>(average.count);
      expected[static_cast<size_t>(row)] = code(c, v, least, least + 255, average.y_zero);
    }
    uint8_t* y = y_.place(expected.size(), side(c, 0));
    table.pool->average_rows(guarded(a_, x, side(c, 1)), c.rows, c.n, is_signed, average, y);
    return result(y, expected);
  }

  // Two rows of `columns` pixels of n channels, to one row of `outputs` pixels.
  std::vector<uint8_t> lerp(const KernelTable& table, const TensorCase& c, Random& random) {
    const bool is_signed = c.a_signed != 0, y_signed = c.y_signed != 0;
    const int64_t pixel = c.n + c.gap, y_step = c.n + c.gap / 2;
    const std::vector<uint8_t> upper = bytes((c.columns - 1) * pixel + c.n, random, c.narrow != 0);
    const std::vector<uint8_t> lower = bytes((c.columns - 1) * pixel + c.n, random, c.narrow != 0);
    const auto outputs = static_cast<size_t>(c.outputs);
    std::vector<int64_t> left(outputs), right(outputs);
    std::vector<float> t(outputs);
    for (size_t o = 0; o < outputs; ++o) {
      left[o] = random.below(c.columns) * pixel;
      right[o] = random.below(c.columns) * pixel;
      t[o] = weight(random);
    }
    const float between = weight(random);
    const int32_t x_zero = zero_point(c, is_signed, random);
    const int32_t y_zero = zero_point(c, y_signed, random);
    const float multiplier = scale(c, 0.8f, random);
    const int32_t least = (y_signed ? -128 : 0) - y_zero;
    std::vector<uint8_t> expected(static_cast<size_t>((c.outputs - 1) * y_step + c.n),
                                  GuardedBuffer::kCanary);
    for (size_t o = 0; o < outputs; ++o) {
      for (int64_t channel = 0; channel < c.n; ++channel) {
        const auto along = [&](const std::vector<uint8_t>& row) {
          const float a = value(row[static_cast<size_t>(left[o] + channel)], is_signed, x_zero);
          const float b = value(row[static_cast<size_t>(right[o] + channel)], is_signed, x_zero);
          return a + (b - a) * t[o];
        };
        const float f = along(upper), g = along(lower), v = f + (g - f) * between;
        expected[o * static_cast<size_t>(y_step) + static_cast<size_t>(channel)] =
            code(c, v * multiplier, least, least + 255, y_zero);
      }
    }
    const int64_t step = table.resize->channel_step;
    const auto floats = static_cast<size_t>(c.outputs * ((c.n + step - 1) / step * step));
    GuardedBuffer first, second;
    float* f = first.place_values<float>(floats, side(c, 3));
    float* g = second.place_values<float>(floats, side(c, 4));
    LerpColumnsArgs along{guarded(a_, upper, side(c, 1)),
                          is_signed,
                          x_zero,
                          c.n,
                          c.outputs,
                          left.data(),
                          right.data(),
                          t.data(),
                          f};
    table.resize->lerp_columns(along);
    along.x = guarded(b_, lower, side(c, 2));
    along.y = g;
    table.resize->lerp_columns(along);
    uint8_t* y = y_.place(expected.size(), side(c, 0));
    table.resize->lerp_rows(
        {f, g, between, c.n, c.outputs, y, y_step, y_signed, y_zero, multiplier});
    OCTAVO_CHECK(first.intact() && second.intact(), "lerp_columns wrote beside its room");
    return result(y, expected);
  }

  // A plane of `rows` rows of `columns` values, to `outputs` rows of 15 + n.
  std::vector<uint8_t> pick(const KernelTable& table, const TensorCase& c, Random& random) {
    const int64_t in = c.columns, width = 15 + c.n;
    const std::vector<uint8_t> x = bytes(c.rows * in, random, false);
    std::vector<int64_t> rows(static_cast<size_t>(c.outputs)), base, columns;
    for (int64_t& row : rows) row = random.below(c.rows);
    std::sort(rows.begin(), rows.end());
    std::vector<uint8_t> index;
    for (int64_t j = 0; j < width; j += 16) {
      const int64_t first = std::min(j, width - 16);
      base.push_back(random.below(std::max<int64_t>(1, in - 15)));
      if (j != first) columns.resize(static_cast<size_t>(first));
      for (int i = 0; i < 16; ++i) {
        index.push_back(static_cast<uint8_t>(random.below(std::min<int64_t>(16, in))));
        columns.push_back(base.back() + index.back());
      }
    }
    std::vector<uint8_t> expected;
    for (const int64_t row : rows) {
      for (const int64_t column : columns)
        expected.push_back(x[static_cast<size_t>(row * in + column)]);
    }
    // Where the last 16 columns overlap those before them, both must say the same.
    if (width % 16) {
      const size_t last = columns.size() - 16;
      const auto overlap = static_cast<size_t>(16 - width % 16);
      const size_t before = index.size() - 32;
      base.back() = base[base.size() - 2];
      for (size_t i = 0; i < 16; ++i) {
        if (i < overlap) index[before + 16 + i] = index[before + 16 - overlap + i];
        columns[last + i] = base.back() + index[before + 16 + i];
      }
      expected.clear();
      for (const int64_t row : rows) {
        for (const int64_t column : columns)
          expected.push_back(x[static_cast<size_t>(row * in + column)]);
      }
    }
    uint8_t* y = y_.place(expected.size(), side(c, 0));
    const uint8_t* plane = guarded(a_, x, side(c, 1));
    table.resize->pick(
        {plane, in, plane + x.size(), rows.data(), c.outputs, base.data(), index.data(), width, y});
    return result(y, expected);
  }

  // n columns of `rows` rows.
  std::vector<uint8_t> turn(const KernelTable& table, const TensorCase& c, Random& random) {
    const int64_t in_stride = c.n + c.gap, out_stride = c.rows + c.gap / 2;
    const auto reach = [](int64_t rows, int64_t stride, int64_t n) {
      return rows == 0 || n == 0 ? 0 : (rows - 1) * stride + n;
    };
    const std::vector<uint8_t> x = bytes(reach(c.rows, in_stride, c.n), random, false);
    std::vector<uint8_t> expected(static_cast<size_t>(reach(c.n, out_stride, c.rows)),
                                  GuardedBuffer::kCanary);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t column = 0; column < c.n; ++column)
        expected[static_cast<size_t>(column * out_stride + row)] =
            x[static_cast<size_t>(row * in_stride + column)];
    }
    // The same of words, each of which names its byte's place.
    std::vector<uint32_t> words(x.size()), turned(expected.size(), 0);
    for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i) << 8 | x[i];
    uint32_t* y_words = y_words_.copy(turned.data(), turned.size(), side(c, 0));
    table.pack->transpose_words(a_words_.copy(words.data(), words.size(), side(c, 1)), in_stride,
                                c.rows, c.n, y_words, out_stride);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t column = 0; column < c.n; ++column)
        turned[static_cast<size_t>(column * out_stride + row)] =
            words[static_cast<size_t>(row * in_stride + column)];
    }
    OCTAVO_CHECK(std::equal(turned.begin(), turned.end(), y_words) && y_words_.intact(),
                 "words are turned otherwise");

    uint8_t* y = y_.place(expected.size(), side(c, 0));
    table.pack->transpose(guarded(a_, x, side(c, 1)), in_stride, c.rows, c.n, y, out_stride);
    return result(y, expected);
  }
};

TensorCase random_case(Random& random, int64_t kind, int64_t n) {
  TensorCase c;
  c.kind = kind;
  c.n = n;
  c.rows = random.between(1, 5);
  c.columns = random.between(1, 5);
  c.outputs = random.between(1, 9);
  if (kind == kAverage && random.chance(6)) {  // more than sums in 16 bits hold
    c.rows = random.between(1, 3);
    c.columns = random.between(100, 600);
    c.outputs = 1;
  }
  if (kind == kAverageRows) c.rows = random.between(1, 70);
  if (kind == kTurn) c.rows = random.between(1, 70);
  if (kind == kPick) c.columns = random.between(1, 70);
  if (kind >= kMax && kind <= kPick && c.n == 0) c.n = 1;
  c.gap = random.chance(2) ? 0 : random.below(20);
  c.a_signed = random.below(2);
  c.b_signed = random.below(2);
  c.y_signed = random.below(2);
  c.zeros = random.chance(2) ? 0 : random.below(4);
  c.scales = random.chance(2) ? 0 : random.below(3);
  c.narrow = random.chance(4);
  c.in_place = random.below(3);
  c.one = random.below(2);
  c.sides = random.below(32);
  c.seed = static_cast<int64_t>(random.next() >> 1);
  return c;
}

void test(const KernelTable& table) {
  TensorTest test;
  Random random(11);
  std::vector<int64_t> sizes;
  for (int64_t n = 0; n <= 70; ++n) sizes.push_back(n);
  for (const int64_t n : {95, 96, 97, 127, 128, 129, 191, 193, 257}) sizes.push_back(n);
  for (const int64_t n : sizes) {
    for (int64_t kind = 0; kind < kKinds; ++kind) {
      for (int repeat = 0; repeat < (in_qemu() ? 2 : 12); ++repeat)
        test.check(table, random_case(random, kind, n));
    }
  }
  OCTAVO_CHECK(test.inner * 3 > test.codes, "%lld of %lld codes are not clamped: vacuous",
               static_cast<long long>(test.inner), static_cast<long long>(test.codes));
  // Every byte through every table entry's place.
  std::vector<uint8_t> x(256), map(256), y(256);
  for (size_t i = 0; i < 256; ++i) {
    x[i] = static_cast<uint8_t>(i);
    map[i] = static_cast<uint8_t>(167 * i + 13);
  }
  table.eltwise->lookup(x.data(), 256, map.data(), y.data());
  OCTAVO_CHECK(y == map, "lookup of every byte");
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
}

void compare(const std::vector<const KernelTable*>& tables) {
  TensorTest test;
  Random random(12);
  for (int i = 0; i < 200; ++i) {
    const TensorCase c = random_case(random, random.below(kKinds), random.below(150));
    const std::vector<uint8_t> first = test.check(*tables[0], c);
    for (size_t t = 1; t < tables.size(); ++t)
      OCTAVO_CHECK(test.check(*tables[t], c) == first, "%s and %s differ", tables[0]->info->name,
                   tables[t]->info->name);
  }
}

bool repeat(const KernelTable& table, const std::string& line) {
  TensorCase c;
  if (!parse_case(line, c)) return false;
  TensorTest().check(table, c);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  return octavo::run_tests(argc, argv, octavo::test, octavo::compare, octavo::repeat);
}
