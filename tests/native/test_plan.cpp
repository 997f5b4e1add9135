// Plans: where values lie in the arena, copies of strided arrays, arithmetic of floats, and one
// plan run by many threads, beside naive loops.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "guard_page.h"
#include "plan/arena.h"
#include "plan/plan.h"
#include "plan/steps.h"

namespace octavo {
namespace {

#define ARENA_FIELDS(X) X(values) X(steps) X(most) X(seed)
OCTAVO_CASE(ArenaCase, "arena", ARENA_FIELDS)

// Values that live at the same time lie apart, aligned, inside the arena; and the arena is no
// larger than all of them, nor smaller than what lives at one step.
void check_arena(const KernelTable& table, const ArenaCase& c) {
  const CaseScope<ArenaCase> scope(table, c);
  Random random(static_cast<uint64_t>(c.seed));
  std::vector<Lifetime> lives;
  for (int64_t i = 0; i < c.values; ++i) {
    const auto first = static_cast<int>(random.below(c.steps));
    const auto last = static_cast<int>(random.between(first, c.steps - 1));
    lives.push_back({random.chance(8) ? 0 : random.below(c.most), first, last});
  }
  const ArenaLayout layout = place(lives);
  OCTAVO_CHECK(layout.offsets.size() == lives.size(), "%zu offsets", layout.offsets.size());
  int64_t total = 0;
  for (size_t i = 0; i < lives.size(); ++i) {
    const int64_t from = layout.offsets[i], to = from + lives[i].bytes;
    total += (lives[i].bytes + 63) / 64 * 64;
    OCTAVO_CHECK(from >= 0 && from % 64 == 0 && to <= layout.bytes, "value %zu at %lld of %lld", i,
                 static_cast<long long>(from), static_cast<long long>(layout.bytes));
    for (size_t k = 0; k < i; ++k) {
      const bool at_once = lives[i].first <= lives[k].last && lives[k].first <= lives[i].last;
      const bool apart = to <= layout.offsets[k] || layout.offsets[k] + lives[k].bytes <= from;
      OCTAVO_CHECK(!at_once || apart, "values %zu and %zu overlap", k, i);
    }
  }
  int64_t busiest = 0;
  for (int step = 0; step < c.steps; ++step) {
    int64_t live = 0;
    for (const Lifetime& life : lives) {
      if (life.first <= step && step <= life.last) live += life.bytes;
    }
    busiest = std::max(busiest, live);
  }
  OCTAVO_CHECK(busiest <= layout.bytes && layout.bytes <= total, "%lld bytes, %lld live, %lld all",
               static_cast<long long>(layout.bytes), static_cast<long long>(busiest),
               static_cast<long long>(total));
}

// A chain needs two places, whatever its length.
void check_chain() {
  std::vector<Lifetime> lives;
  for (int i = 0; i < 100; ++i) lives.push_back({1000, i, i + 1});
  OCTAVO_CHECK(place(lives).bytes == 2 * 1024, "a chain takes %lld bytes",
               static_cast<long long>(place(lives).bytes));
}

#define COPY_FIELDS(X) X(axes) X(value_bytes) X(longest) X(threads) X(seed)
OCTAVO_CASE(CopyCase, "copy", COPY_FIELDS)

void check_copy(const KernelTable& table, const CopyCase& c) {
  const CaseScope<CopyCase> scope(table, c);
  Random random(static_cast<uint64_t>(c.seed));
  const auto axes = static_cast<size_t>(c.axes);
  std::vector<int64_t> lengths(axes), order(axes), strides(axes), shape;
  int64_t bytes = c.value_bytes;
  for (size_t i = 0; i < axes; ++i) {
    lengths[i] = random.chance(12) ? 0 : random.between(1, c.longest);
    order[i] = static_cast<int64_t>(i);
  }
  for (size_t i = axes; i-- > 1;)
    std::swap(order[i], order[static_cast<size_t>(random.below(static_cast<int64_t>(i) + 1))]);
  for (size_t i = axes; i-- > 0;) {  // the axis that lies densest first
    strides[static_cast<size_t>(order[i])] = bytes;
    bytes *= std::max<int64_t>(1, lengths[static_cast<size_t>(order[i])]);
  }
  // Parts of axes, every other value of some, some backwards, some repeated.
  int64_t start = 0;
  shape = lengths;
  for (size_t i = 0; i < axes; ++i) {
    if (random.chance(4) && shape[i] > 1) {
      shape[i] = (shape[i] + 1) / 2;
      strides[i] *= 2;
    }
    if (random.chance(6) && shape[i] > 0) {
      start += (shape[i] - 1) * strides[i];
      strides[i] = -strides[i];
    } else if (random.chance(10)) {
      strides[i] = 0;
    }
  }
  std::vector<uint64_t> memory(static_cast<size_t>(bytes + 7) / 8 + 1);
  for (uint64_t& word : memory) word = random.next();
  const char* x = reinterpret_cast<const char*>(memory.data()) + start;
  int64_t size = c.value_bytes;
  for (int64_t length : shape) size *= length;
  std::vector<char> expected(static_cast<size_t>(size)), y(static_cast<size_t>(size) + 8, 'x');
  for (int64_t i = 0; i < size / c.value_bytes; ++i) {
    int64_t at = 0, rest = i;
    for (size_t k = axes; k-- > 0;) {
      at += rest % shape[k] * strides[k];
      rest /= shape[k];
    }
    std::memcpy(expected.data() + i * c.value_bytes, x + at, static_cast<size_t>(c.value_bytes));
  }
  // Where words are moved, memory is aligned to them.
  std::vector<uint64_t> target(y.size() / 8 + 1);
  auto* to = reinterpret_cast<char*>(target.data());
  const StridedCopy copy(shape, strides, c.value_bytes);
  OCTAVO_CHECK(copy.bytes() == size, "%lld bytes", static_cast<long long>(copy.bytes()));
  copy.run(table, x, to, static_cast<int>(c.threads));
  OCTAVO_CHECK(std::equal(expected.begin(), expected.end(), to), "the copy differs");
}

#define PAIR_FIELDS(X) X(kind) X(n) X(one) X(side) X(seed)
OCTAVO_CASE(PairCase, "pair", PAIR_FIELDS)

float random_float(Random& random) {
  constexpr float kOdd[] = {0.0f,
                            -0.0f,
                            1e-42f,
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            -3.5f,
                            std::numeric_limits<float>::quiet_NaN()};
  if (random.chance(6)) return kOdd[random.below(7)];
  return static_cast<float>((random.unit() - 0.5) * 100);
}

// The bits of the operation, NaN for NaN; nothing is read or written beside the operands.
void check_pair(const KernelTable& table, const PairCase& c) {
  const CaseScope<PairCase> scope(table, c);
  Random random(static_cast<uint64_t>(c.seed));
  const Side at = c.side ? Side::kBegin : Side::kEnd;
  const bool a_is_one = (c.one & 1) != 0, b_is_one = (c.one & 2) != 0;
  const auto n = static_cast<size_t>(c.n);
  std::vector<float> a(a_is_one ? 1 : n), b(b_is_one ? 1 : n);
  for (float& value : a) value = random_float(random);
  for (float& value : b) value = random_float(random);
  static GuardedBuffer a_room, b_room, y_room;
  const float* x = a_room.copy(a.data(), a.size(), at);
  const float* z = b_room.copy(b.data(), b.size(), at);
  auto* y = y_room.place_values<float>(n, at);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float lo = random.chance(2) ? 0.0f : -20.0f, hi = random.chance(2) ? kInfinity : 30.0f;
  const bool clips = c.kind == 4 && !a_is_one;
  const auto pair = static_cast<FloatPair>(c.kind % 4);
  if (clips)
    table.float_pairs->clip(x, c.n, lo, hi, y);
  else
    table.float_pairs->combine(pair, {x, z, y, c.n, a_is_one, b_is_one});
  for (size_t i = 0; i < n; ++i) {
    const float left = a[a_is_one ? 0 : i], right = b[b_is_one ? 0 : i];
    float wanted = left / right;
    if (pair == FloatPair::kAdd) wanted = left + right;
    if (pair == FloatPair::kSubtract) wanted = left - right;
    if (pair == FloatPair::kMultiply) wanted = left * right;
    if (clips) {
      wanted = std::isnan(left) || left > lo ? left : lo;
      if (wanted >= hi) wanted = hi;
    }
    const bool same = std::isnan(wanted)
                          ? std::isnan(y[i])
                          : wanted == y[i] && std::signbit(wanted) == std::signbit(y[i]);
    OCTAVO_CHECK(same, "value %zu is %g, expected %g", i, static_cast<double>(y[i]),
                 static_cast<double>(wanted));
  }
  OCTAVO_CHECK(y_room.intact(), "written beside the result");
}

// What goes through two tables, one the other's inverse.
std::unique_ptr<Plan> larger_plan(const std::shared_ptr<ArenaPool>& arenas) {
  constexpr int64_t kLarge = 4 * 777;
  PlanBuilder builder;
  LookupStep there{kLarge, {}}, back{kLarge, {}};
  for (size_t i = 0; i < 256; ++i) {
    there.codes[i] = static_cast<uint8_t>(7 * i + 1);
    back.codes[there.codes[i]] = static_cast<uint8_t>(i);
  }
  const int x = builder.input(1, {kLarge});
  const int y = builder.result(1, {kLarge}), z = builder.result(1, {kLarge});
  builder.add(there, {x}, {y}, 1);
  builder.add(back, {y}, {z}, 1);
  return std::move(builder).finish({z}, arenas);
}

// x through a table again and again, by many threads at once, each with values of its own; now and
// then another plan in the same arenas.
void check_threads(const KernelTable& table) {
  constexpr int64_t kCount = 777;
  constexpr int kSteps = 20, kThreads = 8, kCalls = 50;
  PlanBuilder builder;
  LookupStep turn{kCount, {}};
  for (size_t i = 0; i < 256; ++i) turn.codes[i] = static_cast<uint8_t>(5 * i + 3);
  const int x = builder.input(1, {kCount});
  int y = x;
  for (int i = 0; i < kSteps; ++i) {
    const int next = builder.result(1, {kCount});
    builder.add(turn, {y}, {next}, 1);
    y = next;
    const int dead = builder.result(1, {kCount});
    builder.add(turn, {y}, {dead}, 1);
  }
  const int twice = builder.as_output(y, {y});
  const auto arenas = std::make_shared<ArenaPool>();
  const auto plan = std::move(builder).finish({y, twice}, arenas);
  const auto other = larger_plan(arenas);
  OCTAVO_CHECK(plan->step_count() == kSteps + 1, "%zu steps: what no output needs is left out",
               plan->step_count());
  OCTAVO_CHECK(plan->arena_bytes() == 2 * 832, "%zu bytes", plan->arena_bytes());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Random random(static_cast<uint64_t>(t));
      std::vector<uint8_t> in(kCount), expected(kCount), out(kCount), copy(kCount);
      for (int call = 0; call < kCalls; ++call) {
        for (size_t i = 0; i < in.size(); ++i) {
          in[i] = static_cast<uint8_t>(random.next());
          expected[i] = in[i];
          for (int k = 0; k < kSteps; ++k) expected[i] = turn.codes[expected[i]];
        }
        const void* inputs[] = {in.data()};
        void* outputs[] = {out.data(), copy.data()};
        if (!plan->run(inputs, outputs, table, 1) || out != expected || copy != expected) ++wrong;
        if (call % 3 != t % 3) continue;
        std::vector<uint8_t> large(4 * kCount, static_cast<uint8_t>(call)), back(large.size());
        const void* given[] = {large.data()};
        void* made[] = {back.data()};
        if (!other->run(given, made, table, 1) || back != large) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  OCTAVO_CHECK(wrong == 0, "%d of %d calls are wrong", wrong.load(), kThreads * kCalls);
}

// A step that cannot: the plan says so, and runs again.
struct Refusing {
  const bool* refuses;
  bool run(void* const* v, const KernelTable&, int) const {
    *static_cast<uint8_t*>(v[1]) = *static_cast<const uint8_t*>(v[0]);
    return !*refuses;
  }
};

void check_refusal(const KernelTable& table) {
  bool refuses = true;
  PlanBuilder builder;
  const int x = builder.input(1, {}), y = builder.result(1, {});
  builder.add(Refusing{&refuses}, {x}, {y}, 1);
  const auto plan = std::move(builder).finish({y}, std::make_shared<ArenaPool>());
  const uint8_t in = 7;
  uint8_t out = 0;
  const void* inputs[] = {&in};
  void* outputs[] = {&out};
  OCTAVO_CHECK(!plan->run(inputs, outputs, table, 1), "a step that cannot is not told of");
  refuses = false;
  OCTAVO_CHECK(plan->run(inputs, outputs, table, 1) && out == 7, "the plan does not run again");
}

// Views of one value, and of a constant.
void check_views(const KernelTable& table) {
  PlanBuilder builder;
  const uint8_t numbers[6] = {0, 1, 2, 3, 4, 5};
  const int fixed = builder.constant(numbers, 1, {2, 3});
  const int turned = builder.view(fixed, 0, {3, 2}, {1, 3});
  const int last = builder.view(turned, 1, {2, 2}, {1, 3});  // without the first row
  const int x = builder.input(1, {4});
  const int y = builder.as_output(builder.view(x, 3, {4}, {-1}), {});
  const int cut = builder.as_output(last, {});
  const auto plan = std::move(builder).finish({cut, y}, std::make_shared<ArenaPool>());
  const uint8_t in[4] = {9, 8, 7, 6};
  uint8_t first[4] = {}, second[4] = {};
  const void* inputs[] = {in};
  void* outputs[] = {first, second};
  OCTAVO_CHECK(plan->run(inputs, outputs, table, 1), "a plan of copies does not run");
  const uint8_t wanted[4] = {1, 4, 2, 5}, reversed[4] = {6, 7, 8, 9};
  OCTAVO_CHECK(std::equal(wanted, wanted + 4, first), "a view of a view of a constant");
  OCTAVO_CHECK(std::equal(reversed, reversed + 4, second), "a view backwards");
}

ArenaCase random_arena(Random& random) {
  return {random.between(0, 60), random.between(1, 40), random.chance(2) ? 70 : 5000,
          static_cast<int64_t>(random.next() >> 1)};
}

CopyCase random_copy(Random& random) {
  const int64_t sizes[] = {1, 2, 4, 8};
  const int64_t axes = random.between(0, 5);
  return {axes, random.pick(sizes), axes <= 2 ? 200 : 18, random.between(1, 3),
          static_cast<int64_t>(random.next() >> 1)};
}

void test(const KernelTable& table) {
  Random random(31);
  for (int i = 0; i < (in_qemu() ? 50 : 400); ++i) {
    check_arena(table, random_arena(random));
    check_copy(table, random_copy(random));
  }
  for (int64_t n = 0; n < 70; ++n) {
    for (int64_t kind = 0; kind < 5; ++kind) {
      for (int64_t one = 0; one < 4; ++one)
        check_pair(table,
                   {kind, n, one, random.below(2), static_cast<int64_t>(random.next() >> 1)});
    }
  }
  check_chain();
  check_threads(table);
  check_refusal(table);
  check_views(table);
  std::printf("%s: %lld cases\n", table.info->name, static_cast<long long>(running.cases));
}

// Bytes are moved: naive loops have said all.
void compare(const std::vector<const KernelTable*>&) {}

bool repeat(const KernelTable& table, const std::string& line) {
  ArenaCase arena;
  CopyCase copy;
  PairCase pair;
  if (parse_case(line, pair)) {
    check_pair(table, pair);
    return true;
  }
  if (parse_case(line, arena)) {
    check_arena(table, arena);
    return true;
  }
  if (!parse_case(line, copy)) return false;
  check_copy(table, copy);
  return true;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  return octavo::run_tests(argc, argv, octavo::test, octavo::compare, octavo::repeat);
}
