// A small pool of worker threads.
//
// One caller owns the pool at a time; a caller that finds it taken (another Python thread, or a
// task that calls in again) runs its tasks alone, so threads are never oversubscribed and never
// wait for each other. The caller takes part and takes every task that nobody started. Workers
// spin for a bounded time after a job, then sleep. Workers start at the first parallel call, have
// 1 MiB stacks, block all signals but their own faults, and are never joined: a forked child
// forgets the parent's pool and starts its own when first needed.
#pragma once

namespace octavo {

// Threads that parallel_for uses where the caller says nothing: set_default_threads(), else
// OCTAVO_NUM_THREADS, else OMP_NUM_THREADS ("4,2" is 4), else usable_cores(). At least 1. The
// environment is read once; a value there that is no whole number of at least 1 is passed over.
int default_threads();
void set_default_threads(int threads);  // 0: back to the environment's value

using TaskFunction = void (*)(void* context, int task);

// Calls function(context, t) once for each t in [0, tasks), on up to `threads` threads, the caller
// included; returns when all are done. `function` throws nothing but std::bad_alloc, whichever
// thread it runs in: some tasks are then not done, and parallel_for throws it. Each thread runs
// under FpModeGuard's mode.
void parallel_for(int tasks, int threads, TaskFunction function, void* context);

template <class F>
void parallel_for(int tasks, int threads, const F& body) {
  parallel_for(
      tasks, threads, [](void* context, int task) { (*static_cast<const F*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace octavo
