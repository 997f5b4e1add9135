// A plan: prepared operator calls, one after another, on values whose places were chosen when it
// was made. One call runs all of it; any number of threads may run one plan at once.
//
// A value is memory of its own (an input, a constant, the result of a step), or a view of
// another's: an offset, a shape and strides. Views cost nothing.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "plan/arena.h"

namespace octavo {

struct KernelTable;

struct PlanValue {
  int root;             // whose memory it is: its own, or that of the value it is a view of
  int64_t offset;       // bytes from the first of the root
  int64_t value_bytes;  // of one of its values
  std::vector<int64_t> shape, strides;  // strides in bytes

  int64_t size() const;  // values
  bool is_contiguous() const;
};

// One operator call. `values`: memory of what it reads, then of what it writes, never the same.
// False: a result does not fit.
struct PlanStep {
  static constexpr int kMost = 6;

  bool (*run)(const void* state, void* const* values, const KernelTable& table, int threads);
  std::shared_ptr<const void> state;
  std::array<int, kMost> values;
  int reads, count;
  int64_t macs;  // about how much work it is
};

class Plan {
 public:
  // inputs, outputs: in the order they were declared in, in C order. False: a result does not fit
  // int32. Throws std::bad_alloc alone.
  bool run(const void* const* inputs, void* const* outputs, const KernelTable& table,
           int threads) const;

  size_t arena_bytes() const { return static_cast<size_t>(arena_bytes_); }
  size_t step_count() const { return steps_.size(); }
  int64_t macs() const { return macs_; }

 private:
  friend class PlanBuilder;

  struct External {  // a value in memory of the caller's
    int value;
    size_t index;  // among inputs, then outputs
    int64_t offset;
  };
  char** pointers(Arena& arena) const;

  std::vector<PlanStep> steps_;
  std::vector<const char*> constants_;  // by value; null: none
  std::vector<int64_t> offsets_;        // by value, in the arena; -1: elsewhere
  std::vector<External> externals_;
  size_t input_count_ = 0;
  int64_t arena_bytes_ = 0, macs_ = 0;
  uint64_t number_ = 0;  // of no other plan
  std::shared_ptr<ArenaPool> arenas_;
};

// Takes steps in the order they run in. Numbers of values are those that its functions gave.
class PlanBuilder {
 public:
  int input(int64_t value_bytes, std::vector<int64_t> shape);
  int constant(const void* data, int64_t value_bytes, std::vector<int64_t> shape);
  int result(int64_t value_bytes, std::vector<int64_t> shape);  // of a step that is added next
  int view(int of, int64_t offset, std::vector<int64_t> shape, std::vector<int64_t> strides);

  // State has bool run(void* const* values, const KernelTable& table, int threads) const.
  template <class State>
  void add(State state, const std::vector<int>& reads, const std::vector<int>& writes,
           int64_t macs) {
    PlanStep step{};
    step.run = [](const void* held, void* const* values, const KernelTable& table, int threads) {
      return static_cast<const State*>(held)->run(values, table, threads);
    };
    step.state = std::make_shared<const State>(std::move(state));
    for (int value : reads) step.values[static_cast<size_t>(step.count++)] = value;
    step.reads = step.count;
    for (int value : writes) step.values[static_cast<size_t>(step.count++)] = value;
    step.macs = macs;
    steps_.push_back(std::move(step));
  }

  // The values of `id` in C order: itself, or a copy.
  int contiguous(int id);
  // A value that a plan can give to its caller: all of a result's memory, in C order, that is not
  // among `taken` already. Itself, or a copy.
  int as_output(int id, const std::vector<int>& taken);

  const PlanValue& value(int id) const { return values_.at(static_cast<size_t>(id)); }
  size_t size() const { return values_.size(); }

  // Steps that no output needs are left out.
  std::unique_ptr<Plan> finish(const std::vector<int>& outputs,
                               std::shared_ptr<ArenaPool> arenas) &&;

 private:
  enum class Place { kInput, kConstant, kResult, kView };

  int add_value(PlanValue value, Place place, const void* data);
  int copy(int id);

  std::vector<PlanValue> values_;
  std::vector<Place> places_;
  std::vector<const char*> constants_;
  std::vector<PlanStep> steps_;
};

// Strides of C order.
std::vector<int64_t> dense_strides(const std::vector<int64_t>& shape, int64_t value_bytes);

}  // namespace octavo
