// The threads of an engine. They spin for the length of a step and a moment after it, so that they begin at
// once, and then sleep. Where other programs keep the cores busy, they sleep between long runs, too.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "system/parallel.h"

namespace gpt2fast {

// Tasks are cut into shards, one a thread. Each thread does its own shard, whose data lie together, and then
// helps with the others. So a thread that comes late, or not at all, costs nothing but its help: a run does
// not wait for one that is just falling asleep. Tasks may only wait for tasks that have begun.
class ThreadPool final : public Parallel {
 public:
  // The calling thread is one of `threads`, which are at least 1. Throws std::runtime_error when the system
  // refuses the others.
  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() override;

  int threads() const override { return static_cast<int>(members_.size()); }

 protected:
  // Only one thread at a time may call it.
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override;

 private:
  friend class StepThreads;
  struct State;
  struct Member;

  void stop() noexcept;
  void keep_off_this_core() const noexcept;
  void serve(int64_t index) const noexcept;
  bool wait_for_tasks(Member& member) const noexcept;
  int64_t run_shard(int64_t index) const noexcept;

  std::unique_ptr<State> state_;
  std::vector<std::unique_ptr<Member>> members_;  // the first stands for the calling thread
  std::chrono::steady_clock::time_point last_use_;
};

// While an object lives, the pool's threads spin, once they are awake, and do not wake up on the core of the
// calling thread.
//
// Linux sometimes wakes a thread that has slept for milliseconds on the core of the thread that wakes it,
// even though other cores are idle. The two then take turns: the pool's thread spins for a whole time slice
// of 3 to 4 ms while the other could work, until the system balances its load. Threads stay where they are if
// they cannot have slept for so long, if there is only one core, and on other systems.
class StepThreads {
 public:
  explicit StepThreads(ThreadPool& pool) noexcept;
  ~StepThreads();
  StepThreads(const StepThreads&) = delete;
  StepThreads& operator=(const StepThreads&) = delete;

 private:
  ThreadPool& pool_;
};

}  // namespace gpt2fast
