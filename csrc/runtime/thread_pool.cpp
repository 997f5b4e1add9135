// One 64-bit word, `open_`, is the whole hand-over: the free seats of the current job (high half)
// and the tasks that nobody has taken (low half).
//
//   caller   writes the job's fields, remaining_ = tasks, open_ = seats:tasks;
//            takes tasks (open_ - 1) until none is left; waits for remaining_ == 0
//   worker   takes a seat and a task in one step (open_ - 1:1), then single tasks until none is
//            left; subtracts what it did from remaining_
//
// Why a worker never sees a job that is over: whoever has taken a task owes it to remaining_, so
// the caller cannot return, and no field can change, before that task is done and subtracted. A
// worker reads the fields only after it has taken a task, and a word that it read too long ago
// either fails the exchange or still says the truth about the job that is current by then.
#include "runtime/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "runtime/cpu_features.h"
#include "runtime/fp_mode.h"

#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace octavo {
namespace {

constexpr int kMaxThreads = 1024;
constexpr auto kIdleSpin = std::chrono::microseconds(80);  // of a worker, before it sleeps
constexpr int kPausesPerCheck = 64;   // ... looks at the clock and lets others run
constexpr int kPausesOfCaller = 512;  // waiting for the last tasks, before it yields
constexpr size_t kLinePair = 128;  // what neighbouring prefetchers and Apple's caches move at once

#if defined(_WIN32)
struct Thread {};
#else
using Thread = pthread_t;
#endif

void* worker_main(void* pool);

// False where the system gives no more threads.
bool start_detached(void* pool, Thread* thread) {
#if defined(_WIN32)
  static_cast<void>(thread);
  try {
    std::thread(worker_main, pool).detach();  // 1 MiB of stack is the default here
    return true;
  } catch (const std::exception&) {
    return false;
  }
#else
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, size_t{1} << 20);
  // The new thread inherits the mask: signals from outside go to the threads that expect them, and
  // a fault of its own still reaches the handler that reports it.
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
    sigdelset(&blocked, fault);
  }
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  const bool started = pthread_create(thread, &attributes, worker_main, pool) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return started;
#endif
}

class Pool {
 public:
  bool try_own() {
    return !owned_.load(std::memory_order_relaxed) &&
           !owned_.exchange(true, std::memory_order_acquire);
  }

  // For the owner; gives the pool back at the end.
  void run(int tasks, int threads, TaskFunction function, void* context) {
    while (workers_ < threads - 1 && !out_of_threads_) {
      if (start_detached(this, &handles_[workers_])) {
        ++workers_;
      } else {
        out_of_threads_ = true;
      }
    }
    if (workers_ > placed_ || sleeping_.load(std::memory_order_relaxed) > 0) place_workers();
    function_ = function;
    context_ = context;
    tasks_ = tasks;
    seats_ = std::min(threads - 1, workers_);
    remaining_.store(tasks, std::memory_order_relaxed);
    open_.store(uint64_t(seats_) * kSeat +
                uint64_t(tasks));  // sequentially consistent: see sleep()
    wake_one_if_short();
    finish(take_tasks());
    for (int pauses = 0; remaining_.load(std::memory_order_acquire) != 0; ++pauses) {
      if (pauses < kPausesOfCaller) {
        spin_pause();
      } else {
        std::this_thread::yield();  // a worker with a task was put aside: give it this core
      }
    }
    const bool out_of_memory = out_of_memory_.exchange(false, std::memory_order_relaxed);
    owned_.store(false, std::memory_order_release);
    if (out_of_memory) throw std::bad_alloc();
  }

  void work() {
    const FpModeGuard mode;  // Linux hands the caller's mode down, which is right; others need not
    for (;;) {
      uint64_t open = wait_for_seat();
      if (!open_.compare_exchange_weak(open, open - kSeat - 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
        continue;
      }
      wake_one_if_short();
      run_task(tasks_ - untaken(open));
      finish(1 + take_tasks());
    }
  }

 private:
  static constexpr uint64_t kSeat = uint64_t{1} << 32;
  static int untaken(uint64_t open) { return static_cast<int>(open & (kSeat - 1)); }
  static bool has_seat(uint64_t open) { return open >= kSeat && untaken(open) > 0; }

  // An exception must not leave a worker, nor the caller before all tasks are done.
  void run_task(int task) noexcept {
    try {
      function_(context_, task);
    } catch (const std::bad_alloc&) {
      out_of_memory_.store(true, std::memory_order_relaxed);  // finish() makes it visible
    }
  }

  // For the owner, and for a worker that has a seat. Returns how many tasks it ran.
  int take_tasks() {
    int done = 0;
    uint64_t open = open_.load(std::memory_order_relaxed);
    while (untaken(open) > 0) {
      if (open_.compare_exchange_weak(open, open - 1, std::memory_order_relaxed)) {
        run_task(tasks_ - untaken(open));
        ++done;
        open = open_.load(std::memory_order_relaxed);
      }
    }
    return done;
  }

  void finish(int done) { remaining_.fetch_sub(done, std::memory_order_acq_rel); }

  // Linux may queue a thread behind the one that wakes it, for milliseconds, though a core idles:
  // on a small machine that is half busy it looks for none. So workers are kept off the core of
  // the caller, which would wait for them there. They never exit: their handles stay good.
  void place_workers() {
#if defined(__linux__)
    const int core = sched_getcpu();
    if (core < 0 || (core == off_core_ && workers_ == placed_)) return;
    off_core_ = core;
    placed_ = workers_;
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return;
    CPU_CLR(core, &cores);
    if (CPU_COUNT(&cores) == 0) return;
    for (int i = 0; i < workers_; ++i) pthread_setaffinity_np(handles_[i], sizeof cores, &cores);
#else
    placed_ = workers_;
#endif
  }

  // Called with a task in hand (or by the owner), so that workers_ and seats_ stand still. Whoever
  // joins wakes the next one: nobody pays for more than one.
  void wake_one_if_short() {
    if (workers_ - sleeping_.load() >= seats_) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (sleeping_.load(std::memory_order_relaxed) == 0) return;
      sleeping_.fetch_sub(1);
      ++wakes_;
    }
    wake_.notify_one();
  }

  uint64_t wait_for_seat() {
    using Clock = std::chrono::steady_clock;
    for (;;) {
      Clock::time_point end = {};
      for (int pauses = 1;; ++pauses) {
        const uint64_t open = open_.load(std::memory_order_relaxed);
        if (has_seat(open)) return open;
        spin_pause();
        if (pauses % kPausesPerCheck != 0) continue;
        const Clock::time_point now = Clock::now();
        if (end == Clock::time_point()) end = now + kIdleSpin;
        if (now > end) break;
        std::this_thread::yield();
      }
      sleep();
    }
  }

  // The caller writes open_, then reads sleeping_; here it is the other way round, and all four are
  // sequentially consistent: either the caller sees the sleeper, or the sleeper sees the job.
  void sleep() {
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1);
    if (has_seat(open_.load())) {
      sleeping_.fetch_sub(1);
      return;
    }
    wake_.wait(lock, [this] { return wakes_ > 0; });
    --wakes_;
  }

  alignas(kLinePair) std::atomic<uint64_t> open_{0};
  // The job and the pool's size: written by the owner alone, before open_, and on its line, for a
  // worker needs them at once.
  TaskFunction function_ = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0;
  int seats_ = 0;
  int workers_ = 0;
  alignas(kLinePair) std::atomic<int> remaining_{0};
  alignas(kLinePair) std::atomic<int> sleeping_{0};  // workers asleep whom nobody has woken yet
  alignas(kLinePair) std::atomic<bool> owned_{false};
  std::atomic<bool> out_of_memory_{false};  // of a task of the current job
  // The owner's:
  bool out_of_threads_ = false;
  Thread handles_[kMaxThreads] = {};  // of workers_
  int placed_ = 0;                    // workers that were kept off off_core_
  int off_core_ = -1;
  std::mutex mutex_;
  std::condition_variable wake_;
  int wakes_ = 0;  // sleepers told to wake that have not yet; under mutex_
};

void* worker_main(void* pool) {
  static_cast<Pool*>(pool)->work();
  return nullptr;
}

// Never deleted: workers may outlive every static object.
std::atomic<Pool*> the_pool{nullptr};

#if !defined(_WIN32)
// A child has the parent's memory without its workers, and locks as they were at that moment.
[[maybe_unused]] const int forget_in_child =
    pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_relaxed); });
#endif

// Null where there is no memory for it.
Pool* pool() {
  Pool* current = the_pool.load(std::memory_order_acquire);
  if (current) return current;
  Pool* fresh = new (std::nothrow) Pool;
  if (the_pool.compare_exchange_strong(current, fresh, std::memory_order_acq_rel)) return fresh;
  delete fresh;
  return current;
}

// A whole number of at least 1 that ends at `end` or at the end of the text; else 0.
int thread_count(const char* name, char end) {
  const char* text = std::getenv(name);
  if (!text) return 0;
  char* rest = nullptr;
  const long value = std::strtol(text, &rest, 10);
  while (*rest == ' ') ++rest;
  const bool whole = rest != text && (*rest == '\0' || *rest == end);
  return whole && value >= 1 && value <= INT_MAX ? static_cast<int>(value) : 0;
}

std::atomic<int> chosen_threads{0};
std::atomic<int> environment_threads{0};

}  // namespace

int default_threads() {
  int threads = chosen_threads.load(std::memory_order_relaxed);
  if (threads == 0) threads = environment_threads.load(std::memory_order_relaxed);
  if (threads != 0) return threads;
  threads = thread_count("OCTAVO_NUM_THREADS", '\0');
  if (threads == 0) threads = thread_count("OMP_NUM_THREADS", ',');  // "4,2": one for each level
  if (threads == 0) threads = usable_cores();
  environment_threads.store(threads, std::memory_order_relaxed);
  return threads;
}

void set_default_threads(int threads) {
  chosen_threads.store(std::max(threads, 0), std::memory_order_relaxed);
}

void parallel_for(int tasks, int threads, TaskFunction function, void* context) {
  const FpModeGuard mode;
  threads = std::min({threads, tasks, kMaxThreads});
  Pool* shared = threads > 1 ? pool() : nullptr;
  if (shared && shared->try_own()) {
    shared->run(tasks, threads, function, context);
  } else {
    for (int task = 0; task < tasks; ++task) function(context, task);
  }
}

}  // namespace octavo
