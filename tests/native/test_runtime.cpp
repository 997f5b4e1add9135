// runtime/: CPU features, usable cores, floating-point mode, scratch memory, and the thread pool,
// under fork too. Linux. Which table is chosen is tested from Python, through OCTAVO_ISA.
//
// OCTAVO_IN_QEMU=1: fewer repetitions, no fork with threads, and /proc, which is the host's, is not
// compared.
// OCTAVO_EXPECT_FEATURES="neon neondot": what cpu_features() must find, instead of /proc/cpuinfo's.
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <new>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/aligned_buffer.h"
#include "runtime/cpu_features.h"
#include "runtime/fp_mode.h"
#include "runtime/thread_pool.h"

// ThreadSanitizer's own caution, not ours: children of a threaded process may start threads here.
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }

namespace octavo {
namespace {

std::atomic<int> failures{0};

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                          \
    }                                                                      \
  } while (false)

#define CHECK_EQUAL(got, expected)                                                 \
  do {                                                                             \
    const auto got_ = (got);                                                       \
    const auto expected_ = (expected);                                             \
    if (!(got_ == expected_)) {                                                    \
      std::ostringstream text;                                                     \
      text << #got << " is " << got_ << ", expected " << expected_;                \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, text.str().c_str()); \
      ++failures;                                                                  \
    }                                                                              \
  } while (false)

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

const bool in_qemu = std::strcmp(environment("OCTAVO_IN_QEMU"), "1") == 0;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
const bool slow = true;
#elif defined(__has_feature)
const bool slow = in_qemu || __has_feature(thread_sanitizer) || __has_feature(address_sanitizer);
#else
const bool slow = in_qemu;
#endif

int repetitions(int count) { return slow ? count / 10 : count; }

// Runs `body` in a forked child; its result (0 to 99), or 100 and more where it died or hung.
template <class Body>
int in_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const int result = body();
    std::fflush(stderr);
    _exit(result);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

// --- cpu_features
// ---------------------------------------------------------------------------------

void test_features_are_those_of_cpuinfo() {
  const std::string expected = environment("OCTAVO_EXPECT_FEATURES");
  if (!expected.empty()) {
    CHECK_EQUAL(feature_names(cpu_features()), expected == "none" ? "" : expected);
    return;
  }
  if (in_qemu) return;
  std::set<std::string> flags;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; flags.empty() && std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) flags.insert(word);
  }
  CHECK(!flags.empty());
  const char* const names[][2] = {
      {"avx2", "avx2"},         {"fma", "fma"},           {"f16c", "f16c"},
      {"avx_vnni", "avxvnni"},  {"avx512f", "avx512f"},   {"avx512bw", "avx512bw"},
      {"avx512dq", "avx512dq"}, {"avx512vl", "avx512vl"}, {"avx512_vnni", "avx512vnni"},
      {"asimd", "neon"},        {"asimddp", "neondot"},   {"i8mm", "neoni8mm"},
  };
  std::string listed;
  for (const auto& name : names) {
    if (flags.count(name[0])) listed += (listed.empty() ? "" : " ") + std::string(name[1]);
  }
  CHECK_EQUAL(feature_names(cpu_features()), listed);
}

void test_name_and_caches_are_plausible() {
  const std::string name = cpu_name();
  CHECK(!name.empty() && name.front() != ' ' && name.back() != ' ' && name.back() != '\n');
  CHECK(name.find("  ") == std::string::npos);
  const CacheSizes sizes = cache_sizes();
  const long told[] = {sysconf(_SC_LEVEL1_DCACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE)};
  if (!in_qemu && told[0] > 0) CHECK_EQUAL(sizes.l1d, static_cast<size_t>(told[0]));
  if (!in_qemu && told[1] > 0) CHECK_EQUAL(sizes.l2, static_cast<size_t>(told[1]));
  CHECK(sizes.l2 == 0 || sizes.l1d <= sizes.l2);
}

// --- usable_cores
// ---------------------------------------------------------------------------------

class Root {
 public:
  Root() {
    char folder[] = "/tmp/octavo_root_XXXXXX";
    path_ = mkdtemp(folder);
  }
  ~Root() { std::filesystem::remove_all(path_); }
  Root& file(const std::string& path, const std::string& text) {
    const std::filesystem::path full = path_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text << '\n';
    return *this;
  }
  int cores() const { return usable_cores(path_); }

 private:
  std::string path_;
};

void test_quota_of_the_control_group_bounds_the_cores() {
  const int all = Root().cores();
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) CHECK_EQUAL(all, CPU_COUNT(&mask));
  const int two = all < 2 ? 1 : 2;
  const std::string cgroup = "/proc/self/cgroup", fs = "/sys/fs/cgroup";

  // Version 2.
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "100000 100000").cores(), 1);
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "max 100000").cores(), all);
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "25000 100000").cores(), 1);
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "150000 100000").cores(), two);
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "200000 100000").cores(), two);
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "900000000 100000").cores(), all);
  CHECK_EQUAL(Root().file(cgroup, "0::/").file(fs + "/cpu.max", "9e18 1").cores(), all);
  CHECK_EQUAL(Root().file(fs + "/cpu.max", "100000 100000").cores(), 1);  // no /proc

  // Nested: any group on the way limits, one beside it does not.
  for (const char* limited : {"/a/b/c", "/a/b", "/a", ""}) {
    Root root;
    root.file(cgroup, "0::/a/b/c");
    for (const char* group : {"/a/b/c", "/a/b", "/a"}) root.file(fs + group + "/cpu.max", "max 9");
    root.file(fs + "/a/x/cpu.max", "1000 100000");
    CHECK_EQUAL(root.cores(), all);
    root.file(fs + limited + "/cpu.max", "50000 100000");
    CHECK_EQUAL(root.cores(), 1);
  }
  // The path as seen from outside a container is not there; the container's root limits.
  CHECK_EQUAL(Root().file(cgroup, "0::/docker/f00").file(fs + "/cpu.max", "1 1").cores(), 1);

  // Version 1.
  const std::string v1 = "12:memory:/m\n4:cpu,cpuacct:/a/b\n1:name=systemd:/";
  for (const char* mount : {"/cpu", "/cpu,cpuacct"}) {
    for (const char* group : {"/a/b", "/a", ""}) {
      const std::string folder = fs + mount + group;
      Root root;
      root.file(cgroup, v1).file(folder + "/cpu.cfs_period_us", "100000");
      CHECK_EQUAL(root.file(folder + "/cpu.cfs_quota_us", "-1").cores(), all);
      CHECK_EQUAL(root.file(folder + "/cpu.cfs_quota_us", "100000").cores(), 1);
      CHECK_EQUAL(root.file(folder + "/cpu.cfs_quota_us", "100001").cores(), two);
    }
  }
  // A cpuset controller is no cpu controller.
  CHECK_EQUAL(Root()
                  .file(cgroup, "3:cpuset:/a")
                  .file(fs + "/cpuset/a/cpu.cfs_quota_us", "1000")
                  .file(fs + "/cpuset/a/cpu.cfs_period_us", "100000")
                  .cores(),
              all);

  // Damaged files limit nothing.
  for (const char* text : {"", "max", "100000", "0 0", "100000 0", "abc def", "-5 100000"}) {
    CHECK_EQUAL(Root().file(cgroup, "0::/\nrubbish\n:\n").file(fs + "/cpu.max", text).cores(), all);
  }
}

// --- fp_mode
// --------------------------------------------------------------------------------------

#if defined(__x86_64__)
constexpr uint64_t kFlush[] = {1u << 15, 1u << 6, (1u << 15) | (1u << 6)};  // FTZ, DAZ
#elif defined(__aarch64__)
constexpr uint64_t kFlush[] = {1u << 24};  // FZ
#else
constexpr uint64_t kFlush[] = {0};
#endif

// What the mode decides: whether subnormal numbers survive, and how a quotient is rounded.
struct Sample {
  float subnormal_in, subnormal_out, up, down;
  bool operator==(const Sample& other) const {
    return std::memcmp(this, &other, sizeof(*this)) == 0;
  }
};

[[gnu::noinline]] Sample sample() {
  volatile float tiny = 1e-40f, least = 1.5e-38f, one = 1, three = 3;
  volatile float in = tiny * 0x1p60f, out = least * 0.25f, up = one / three, down = -one / three;
  return {in, out, up, down};
}

void test_guard_sets_the_default_mode_and_restores() {
  const uint64_t usual = fp_control();
  const Sample expected = sample();
  std::vector<uint64_t> modes;
  for (const uint64_t flush : kFlush) {
    if (flush) modes.push_back(usual | flush);
  }
  for (const int rounding : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::fesetround(rounding);
    modes.push_back(fp_control());
    std::fesetround(FE_TONEAREST);
  }
  CHECK_EQUAL(fp_control(), usual);
  for (const uint64_t mode : modes) {
    set_fp_control(mode);
    const bool differs = !(sample() == expected);
    bool inside = false;
    std::feclearexcept(FE_ALL_EXCEPT);
    {
      const FpModeGuard guard;
      inside = sample() == expected && fp_control() == usual;
    }
    const uint64_t after = fp_control();
    const bool restored = !(sample() == expected);
    const bool inexact = std::fetestexcept(FE_INEXACT) != 0;

    // Caller and worker: both must be there to pass.
    std::atomic<int> arrived{0}, right{0};
    parallel_for(2, 2, [&](int) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
      if (sample() == expected && fp_control() == usual) ++right;
    });
    const uint64_t after_parallel = fp_control();
    set_fp_control(usual);
    CHECK(differs);  // else nothing is tested
    CHECK(inside);
    CHECK(restored);
    CHECK(inexact);
    CHECK_EQUAL(after, mode);
    CHECK_EQUAL(after_parallel, mode);
    CHECK_EQUAL(right.load(), 2);
  }
}

// Before any other use of the pool, so that the worker starts here.
void test_a_new_worker_does_not_inherit_the_mode() {
  const uint64_t usual = fp_control();
  set_fp_control(usual | kFlush[0]);
  std::atomic<int> arrived{0}, right{0};
  parallel_for(2, 2, [&](int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
    if (fp_control() == usual) ++right;
  });
  set_fp_control(usual);
  CHECK_EQUAL(right.load(), 2);
}

// --- aligned_buffer
// -------------------------------------------------------------------------------

bool aligned(const void* data, size_t to) { return reinterpret_cast<uintptr_t>(data) % to == 0; }

void test_buffers_are_aligned() {
  constexpr size_t kHuge = size_t{2} << 20;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{65}, kHuge - 1,
                             kHuge, kHuge + 1, 5 * kHuge / 2}) {
    AlignedBuffer buffer(bytes);
    CHECK(aligned(buffer.data(), bytes >= kHuge ? kHuge : 64));
    CHECK_EQUAL(buffer.size(), bytes ? (bytes + 63) / 64 * 64 : 64);
    std::memset(buffer.data(), 1, buffer.size());
    const void* data = buffer.data();
    AlignedBuffer other(std::move(buffer));
    CHECK(other.data() == data && buffer.data() == nullptr && buffer.size() == 0);
    AlignedBuffer third(100);
    third = std::move(other);
    CHECK(third.data() == data);
  }
  CHECK(AlignedBuffer().data() == nullptr);
  for (const size_t bytes : {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2 + 1}) {
    bool thrown = false;
    try {
      AlignedBuffer buffer(bytes);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    CHECK(thrown);
  }
}

void test_scratch_grows_and_stays() {
  constexpr int kSlots = static_cast<int>(ScratchSlot::kCount);
  std::set<void*> seen;
  for (int slot = 0; slot < kSlots; ++slot) {
    const ScratchSlot s = static_cast<ScratchSlot>(slot);
    void* nothing = scratch(s, 0);
    CHECK(nothing != nullptr && aligned(nothing, 64));
    for (const size_t bytes :
         {size_t{1}, size_t{4096}, size_t{4097}, size_t{100000}, size_t{3000000}}) {
      void* data = scratch(s, bytes);
      CHECK(aligned(data, bytes >= size_t{2} << 20 ? size_t{2} << 20 : 64));
      std::memset(data, slot, bytes);
      CHECK(scratch(s, bytes) == data);
      CHECK(scratch(s, 1) == data);
      CHECK(scratch(s, bytes + bytes / 10) == data);
    }
    seen.insert(scratch(s, 1));
  }
  CHECK_EQUAL(seen.size(), static_cast<size_t>(kSlots));
  std::thread([&] {
    for (int slot = 0; slot < kSlots; ++slot) {
      CHECK(seen.count(scratch(static_cast<ScratchSlot>(slot), 1)) == 0);
    }
  }).join();
  bool thrown = false;
  try {
    scratch(ScratchSlot::kA, SIZE_MAX);
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
  CHECK(scratch(ScratchSlot::kA, 10) != nullptr);
}

// --- thread_pool
// ----------------------------------------------------------------------------------

// One job whose state lives on the caller's stack and dies with it. True if every task ran once, as
// the caller sees it, and on at most `threads` threads.
bool run_job(int tasks, int threads) {
  constexpr uint32_t kAlive = 0xa11fe11e;
  struct State {
    volatile uint32_t alive;
    std::vector<int> runs;  // plain: the pool's own ordering must make them visible
    std::mutex mutex;
    std::set<std::thread::id> who;
    std::atomic<int> strays{0};
  } state{kAlive, std::vector<int>(static_cast<size_t>(tasks)), {}, {}, {}};
  parallel_for(tasks, threads, [&](int task) {
    if (state.alive != kAlive || task < 0 || task >= tasks) {
      ++state.strays;
      return;
    }
    ++state.runs[static_cast<size_t>(task)];
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.who.insert(std::this_thread::get_id());
  });
  state.alive = 0xdeadbeef;
  for (const int runs : state.runs) {
    if (runs != 1) return false;
  }
  return state.strays == 0 && static_cast<int>(state.who.size()) <= std::max(threads, 1);
}

// A job that ends only when `threads` threads are in it at once; false after ten seconds.
bool run_together(int threads) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::atomic<int> arrived{0}, late{0};
  parallel_for(threads, threads, [&](int) {
    ++arrived;
    while (arrived < threads && late == 0) {
      if (std::chrono::steady_clock::now() > end) ++late;
      std::this_thread::yield();
    }
  });
  return late == 0;
}

void test_every_task_runs_once() {
  const int sizes[] = {0, 1, 2, 3, 4, 7, 8, 16, 17, 64, 1000};
  for (int round = 0; round < repetitions(20); ++round) {
    for (const int tasks : sizes) {
      for (const int threads : {-1, 0, 1, 2, 3, 4, 8, 16}) CHECK(run_job(tasks, threads));
    }
  }
  CHECK(run_job(5000, 1 << 30));  // more threads than anyone can start
}

void test_one_thread_or_one_task_runs_on_the_caller_in_order() {
  for (const auto& [tasks, threads] : {std::pair(1, 8), std::pair(9, 1), std::pair(9, 0)}) {
    std::vector<int> order;
    parallel_for(tasks, threads, [&](int task) { order.push_back(task); });
    CHECK_EQUAL(order.size(), static_cast<size_t>(tasks));
    for (int task = 0; task < tasks; ++task) CHECK_EQUAL(order[static_cast<size_t>(task)], task);
  }
}

void test_threads_grow_and_all_take_part_awake_or_asleep() {
  for (const int threads : {2, 3, 5, 8}) CHECK(run_together(threads));
  for (const int threads : {8, 2, 5}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // all asleep
    CHECK(run_together(threads));
  }
}

// A worker that wakes behind its caller would come milliseconds late, or never.
void test_workers_wake_off_the_callers_core() {
  cpu_set_t all;
  CHECK_EQUAL(sched_getaffinity(0, sizeof(all), &all), 0);
  if (CPU_COUNT(&all) < 2) return;
  int looked = 0;
  for (int round = 0; round < 50 && looked < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // asleep
    std::atomic<int> arrived{0};
    const std::thread::id caller = std::this_thread::get_id();
    const int core = sched_getcpu();
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    parallel_for(2, 2, [&](int) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
      if (std::this_thread::get_id() == caller) return;
      CHECK_EQUAL(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    });
    if (sched_getcpu() != core) continue;  // moved meanwhile
    ++looked;
    cpu_set_t expected = all;
    CPU_CLR(core, &expected);
    CHECK(CPU_EQUAL(&allowed, &expected));
  }
  CHECK(looked > 0);
}

// Calls around the moment when the worker, the only one so far (others would wake it as they join),
// ends its spin. A lost wake-up hangs the job. Each thread keeps to a core of its own where there
// are two: on one core the worker would rarely come to the end of its spin.
void test_no_wake_up_is_lost() {
  cpu_set_t all;
  CHECK_EQUAL(sched_getaffinity(0, sizeof(all), &all), 0);
  std::vector<cpu_set_t> masks;
  for (int cpu = 0; cpu < CPU_SETSIZE && masks.size() < 2; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    masks.emplace_back();
    CPU_ZERO(&masks.back());
    CPU_SET(cpu, &masks.back());
  }
  const auto keep_to = [](const cpu_set_t& first, const cpu_set_t& second) {
    std::atomic<int> arrived{0};
    parallel_for(2, 2, [&](int) {
      const cpu_set_t mask = arrived++ == 0 ? first : second;
      sched_setaffinity(0, sizeof(mask), &mask);
      while (arrived < 2) std::this_thread::yield();
    });
  };
  if (masks.empty()) return;
  keep_to(masks.front(), masks.back());
  uint32_t random = 1;
  for (int round = 0; round < repetitions(20000) && failures == 0; ++round) {
    random = random * 1664525 + 1013904223;
    const auto gap = std::chrono::nanoseconds(75000 + (random >> 16) % 15000);
    const auto end = std::chrono::steady_clock::now() + gap;
    while (std::chrono::steady_clock::now() < end) {
    }
    CHECK(run_together(2));
  }
  keep_to(all, all);
}

void test_no_more_threads_than_asked_for() {
  CHECK(run_together(8));
  for (int threads : {2, 3, 4}) {
    // On a busy machine a thread may come too late for a job, but hardly for all of them.
    size_t most = 0;
    for (int round = 0; round < 100 && most < static_cast<size_t>(threads); ++round) {
      std::mutex mutex;
      std::set<std::thread::id> who;
      parallel_for(100, threads, [&](int) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));  // time for others to come in
        const std::lock_guard<std::mutex> lock(mutex);
        who.insert(std::this_thread::get_id());
      });
      most = std::max(most, who.size());
    }
    CHECK_EQUAL(most, static_cast<size_t>(threads));
  }
}

void test_many_short_jobs() {
  int64_t wrong = 0;
  for (int round = 0; round < repetitions(100000); ++round) {
    const int tasks = 2 + round % 3;
    int runs[4] = {};
    parallel_for(tasks, 2 + round / 7 % 2, [&](int task) { ++runs[task]; });
    for (int task = 0; task < 4; ++task) wrong += runs[task] != (task < tasks);
  }
  CHECK_EQUAL(wrong, 0);
}

void test_nested_calls_run_alone() {
  for (int round = 0; round < repetitions(200); ++round) {
    std::atomic<int> runs{0}, strangers{0};
    parallel_for(6, 3, [&](int) {
      const auto outer = std::this_thread::get_id();
      parallel_for(5, 4, [&](int) {
        ++runs;
        if (std::this_thread::get_id() != outer) ++strangers;
        parallel_for(2, 2, [&](int) { ++runs; });
      });
    });
    CHECK_EQUAL(runs.load(), 6 * 5 * 3);
    CHECK_EQUAL(strangers.load(), 0);
  }
}

// A task that finds no memory, in whichever thread, ends the job with an exception in the caller;
// the next job is as good as any.
void test_a_task_may_run_out_of_memory() {
  for (int round = 0; round < repetitions(300); ++round) {
    const int threads = 1 + round % 4, tasks = 1 + round % 7;
    std::atomic<int> runs{0};
    bool thrown = false;
    try {
      parallel_for(tasks, threads, [&](int task) {
        ++runs;
        if (task == round % tasks) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    CHECK(thrown);
    CHECK(runs >= 1 && runs <= tasks);
    CHECK(run_job(tasks, threads));
  }
  std::atomic<int> arrived{0};
  const auto caller = std::this_thread::get_id();
  bool thrown = false;
  try {
    parallel_for(3, 3, [&](int) {
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
      if (std::this_thread::get_id() != caller) throw std::bad_alloc();  // in workers alone
    });
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
  CHECK(run_together(3));
}

void test_callers_at_once() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < repetitions(3000); ++round) {
        if (!run_job(1 + (round + caller) % 9, 2 + caller % 3)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQUAL(wrong.load(), 0);
}

void test_workers_leave_signals_to_others() {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  std::atomic<int> arrived{0}, blocking{0};
  const auto caller = std::this_thread::get_id();
  parallel_for(3, 3, [&](int) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    const bool blocks = sigismember(&mask, SIGINT) == 1 && sigismember(&mask, SIGALRM) == 1 &&
                        sigismember(&mask, SIGSEGV) == 0;
    if (std::this_thread::get_id() != caller && blocks) ++blocking;
  });
  CHECK_EQUAL(blocking.load(), 2);
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  CHECK_EQUAL(sigismember(&after, SIGINT), sigismember(&before, SIGINT));
}

// A child's own pool works, and so does its child's.
int work_in_child(int generations) {
  if (!run_together(2) || !run_job(50, 4)) return 1;
  return generations > 1 ? in_child([&] { return work_in_child(generations - 1); }) : 0;
}

void test_fork_while_idle() {
  CHECK(run_together(3));
  for (int round = 0; round < 10; ++round) {
    if (round % 2)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // asleep, or spinning
    CHECK_EQUAL(in_child([] { return work_in_child(3); }), 0);
    CHECK(run_together(3));  // the parent goes on
  }
  CHECK_EQUAL(in_child([] {
                set_default_threads(3);  // as the child's first call
                return default_threads() == 3 ? work_in_child(1) : 2;
              }),
              0);
}

void test_fork_while_others_work() {
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> others;
  for (int caller = 0; caller < 2; ++caller) {
    others.emplace_back([&] {
      while (!stop) {
        if (!run_job(40, 3)) ++wrong;
      }
    });
  }
  std::thread forks([&] {
    for (int round = 0; round < 15; ++round) {
      if (in_child([] { return work_in_child(2); }) != 0) ++wrong;
    }
  });
  for (int round = 0; round < 15; ++round) {
    CHECK_EQUAL(in_child([] { return work_in_child(2); }), 0);
  }
  forks.join();
  stop = true;
  for (std::thread& other : others) other.join();
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(run_together(3));
}

// Before any other test: the environment is read once.
void test_default_threads_come_from_the_environment() {
  const auto threads = [](const char* octavo, const char* omp) {
    return in_child([&] {
      octavo ? setenv("OCTAVO_NUM_THREADS", octavo, 1) : unsetenv("OCTAVO_NUM_THREADS");
      omp ? setenv("OMP_NUM_THREADS", omp, 1) : unsetenv("OMP_NUM_THREADS");
      return default_threads();
    });
  };
  const int cores = usable_cores();
  CHECK_EQUAL(threads(nullptr, nullptr), cores);
  CHECK_EQUAL(threads("7", nullptr), 7);
  CHECK_EQUAL(threads("7", "5"), 7);
  CHECK_EQUAL(threads(nullptr, "5"), 5);
  CHECK_EQUAL(threads(nullptr, "9,2"), 9);
  CHECK_EQUAL(threads(" 7 ", nullptr), 7);
  for (const char* bad : {"", "0", "-3", "many", "7x", "3.5", "99999999999999999999"}) {
    CHECK_EQUAL(threads(bad, "5"), 5);
    CHECK_EQUAL(threads(bad, nullptr), cores);
    CHECK_EQUAL(threads(nullptr, bad), cores);
  }
  CHECK_EQUAL(threads("7,2", "5"), 5);  // a list is OpenMP's

  CHECK_EQUAL(default_threads() >= 1, true);
  const int usual = default_threads();
  set_default_threads(6);
  CHECK_EQUAL(default_threads(), 6);
  set_default_threads(0);
  CHECK_EQUAL(default_threads(), usual);
}

}  // namespace
}  // namespace octavo

int main() {
  using namespace octavo;
  alarm(600);  // a hang is a failure
  test_default_threads_come_from_the_environment();
  test_features_are_those_of_cpuinfo();
  test_name_and_caches_are_plausible();
  test_quota_of_the_control_group_bounds_the_cores();
  test_buffers_are_aligned();
  test_scratch_grows_and_stays();
  test_a_new_worker_does_not_inherit_the_mode();
  test_guard_sets_the_default_mode_and_restores();
  test_no_wake_up_is_lost();
  test_every_task_runs_once();
  test_one_thread_or_one_task_runs_on_the_caller_in_order();
  test_threads_grow_and_all_take_part_awake_or_asleep();
  test_workers_wake_off_the_callers_core();
  test_no_more_threads_than_asked_for();
  test_many_short_jobs();
  test_nested_calls_run_alone();
  test_a_task_may_run_out_of_memory();
  test_callers_at_once();
  test_workers_leave_signals_to_others();
  if (!in_qemu) {  // whose user mode dies when a forked child starts a thread
    test_fork_while_idle();
    test_fork_while_others_work();
  }
  std::printf("%s: %s, %d usable cores: %s\n", failures ? "FAILED" : "ok", cpu_name().c_str(),
              usable_cores(), feature_names(cpu_features()).c_str());
  return failures ? 1 : 0;
}
