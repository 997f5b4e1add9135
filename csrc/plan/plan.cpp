#include "plan/plan.h"

#include <algorithm>
#include <atomic>

#include "plan/steps.h"

namespace octavo {

int64_t PlanValue::size() const {
  int64_t count = 1;
  for (int64_t length : shape) count *= length;
  return count;
}

bool PlanValue::is_contiguous() const {
  int64_t reach = value_bytes;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != reach) return size() == 0;
    reach *= shape[i];
  }
  return true;
}

std::vector<int64_t> dense_strides(const std::vector<int64_t>& shape, int64_t value_bytes) {
  std::vector<int64_t> strides(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = value_bytes;
    value_bytes *= shape[i];
  }
  return strides;
}

// --- running ------------------------------------------------------------------------------------

char** Plan::pointers(Arena& arena) const {
  if (arena.owner == number_) return arena.pointers.data();
  arena.owner = 0;  // should memory run out here
  arena.pointers.resize(offsets_.size());
  for (size_t i = 0; i < offsets_.size(); ++i) {
    if (offsets_[i] >= 0)
      arena.pointers[i] = static_cast<char*>(arena.memory.data()) + offsets_[i];
    else
      arena.pointers[i] = const_cast<char*>(constants_[i]);  // no step writes there
  }
  arena.owner = number_;
  return arena.pointers.data();
}

bool Plan::run(const void* const* inputs, void* const* outputs, const KernelTable& table,
               int threads) const {
  std::unique_ptr<Arena> arena = arenas_->take(arena_bytes_);
  char** pointers = this->pointers(*arena);
  for (const External& e : externals_) {
    // Steps do not write to what they read.
    auto* memory = static_cast<char*>(e.index < input_count_ ? const_cast<void*>(inputs[e.index])
                                                             : outputs[e.index - input_count_]);
    pointers[e.value] = memory + e.offset;
  }
  bool fits = true;
  for (const PlanStep& step : steps_) {
    void* values[PlanStep::kMost];
    for (size_t at = 0; at < static_cast<size_t>(step.count); ++at)
      values[at] = pointers[step.values[at]];
    fits = step.run(step.state.get(), values, table, threads);
    if (!fits) break;
  }
  arenas_->give_back(std::move(arena));
  return fits;
}

// --- building -----------------------------------------------------------------------------------

int PlanBuilder::add_value(PlanValue value, Place place, const void* data) {
  const auto id = static_cast<int>(values_.size());
  if (place != Place::kView) value.root = id;
  values_.push_back(std::move(value));
  places_.push_back(place);
  constants_.push_back(static_cast<const char*>(data));
  return id;
}

int PlanBuilder::input(int64_t value_bytes, std::vector<int64_t> shape) {
  auto strides = dense_strides(shape, value_bytes);
  return add_value({0, 0, value_bytes, std::move(shape), std::move(strides)}, Place::kInput,
                   nullptr);
}

int PlanBuilder::constant(const void* data, int64_t value_bytes, std::vector<int64_t> shape) {
  auto strides = dense_strides(shape, value_bytes);
  return add_value({0, 0, value_bytes, std::move(shape), std::move(strides)}, Place::kConstant,
                   data);
}

int PlanBuilder::result(int64_t value_bytes, std::vector<int64_t> shape) {
  auto strides = dense_strides(shape, value_bytes);
  return add_value({0, 0, value_bytes, std::move(shape), std::move(strides)}, Place::kResult,
                   nullptr);
}

int PlanBuilder::view(int of, int64_t offset, std::vector<int64_t> shape,
                      std::vector<int64_t> strides) {
  const PlanValue& whole = value(of);
  return add_value(
      {whole.root, whole.offset + offset, whole.value_bytes, std::move(shape), std::move(strides)},
      Place::kView, nullptr);
}

int PlanBuilder::copy(int id) {
  const PlanValue from = value(id);
  const int to = result(from.value_bytes, from.shape);
  add(CopyStep(from.shape, from.strides, from.value_bytes), {id}, {to},
      from.size() * kMacsPerCopiedValue);
  return to;
}

int PlanBuilder::contiguous(int id) { return value(id).is_contiguous() ? id : copy(id); }

int PlanBuilder::as_output(int id, const std::vector<int>& taken) {
  const PlanValue& v = value(id);
  const auto root = static_cast<size_t>(v.root);
  const bool is_whole =
      places_[root] == Place::kResult && v.is_contiguous() && v.size() == values_[root].size();
  const bool is_taken = std::any_of(taken.begin(), taken.end(),
                                    [&](int other) { return value(other).root == v.root; });
  return is_whole && !is_taken ? id : copy(id);
}

std::unique_ptr<Plan> PlanBuilder::finish(const std::vector<int>& outputs,
                                          std::shared_ptr<ArenaPool> arenas) && {
  const auto root_of = [&](int id) { return static_cast<size_t>(value(id).root); };
  std::vector<char> needed(values_.size(), 0);  // by root
  for (int id : outputs) needed[root_of(id)] = 1;
  static std::atomic<uint64_t> last{0};
  auto plan = std::make_unique<Plan>();
  plan->number_ = last.fetch_add(1, std::memory_order_relaxed) + 1;
  plan->arenas_ = std::move(arenas);
  for (size_t i = steps_.size(); i-- > 0;) {
    PlanStep& step = steps_[i];
    const auto first = step.values.begin(), writes = first + step.reads;
    if (std::none_of(writes, first + step.count, [&](int id) { return needed[root_of(id)] != 0; }))
      continue;
    for (auto id = first; id != writes; ++id) needed[root_of(*id)] = 1;
    plan->macs_ += step.macs;
    plan->steps_.push_back(std::move(step));
  }
  std::reverse(plan->steps_.begin(), plan->steps_.end());

  // Where each root lies: with the caller, or in the arena from its first step to its last.
  std::vector<int> external(values_.size(), -1);
  int index = 0;
  for (size_t id = 0; id < values_.size(); ++id) {
    if (places_[id] == Place::kInput) external[id] = index++;
  }
  plan->input_count_ = static_cast<size_t>(index);
  for (int id : outputs) external[root_of(id)] = index++;
  std::vector<int> slot(values_.size(), -1);
  std::vector<Lifetime> lives;
  for (size_t i = 0; i < plan->steps_.size(); ++i) {
    const PlanStep& step = plan->steps_[i];
    for (int at = 0; at < step.count; ++at) {
      const size_t root = root_of(step.values[static_cast<size_t>(at)]);
      if (places_[root] != Place::kResult || external[root] >= 0) continue;
      if (slot[root] < 0) {
        slot[root] = static_cast<int>(lives.size());
        lives.push_back({values_[root].size() * values_[root].value_bytes, static_cast<int>(i), 0});
      }
      lives[static_cast<size_t>(slot[root])].last = static_cast<int>(i);
    }
  }
  const ArenaLayout layout = place(lives);
  plan->arena_bytes_ = layout.bytes;
  plan->offsets_.assign(values_.size(), -1);
  plan->constants_.assign(values_.size(), nullptr);
  for (size_t id = 0; id < values_.size(); ++id) {
    const auto root = static_cast<size_t>(values_[id].root);
    const int64_t offset = values_[id].offset;
    if (external[root] >= 0)
      plan->externals_.push_back(
          {static_cast<int>(id), static_cast<size_t>(external[root]), offset});
    else if (slot[root] >= 0)
      plan->offsets_[id] = layout.offsets[static_cast<size_t>(slot[root])] + offset;
    else if (constants_[root])
      plan->constants_[id] = constants_[root] + offset;
  }
  return plan;
}

}  // namespace octavo
