// Work divided into shards, one a thread, in one or two phases.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include "system/parallel.h"

namespace gpt2fast {

constexpr int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

struct Range {
  int64_t begin;
  int64_t end;
};

constexpr Range part(int64_t count, int64_t index, int64_t parts) {
  return {count * index / parts, count * (index + 1) / parts};
}

// The part that holds an item.
constexpr int64_t part_of(int64_t item, int64_t count, int64_t parts) {
  return ((item + 1) * parts - 1) / count;
}

// Numbers handed out to threads, each once, in order.
class Counter {
 public:
  int64_t next() { return value_.fetch_add(1, std::memory_order_relaxed); }
  void add_done() { value_.fetch_add(1, std::memory_order_release); }
  void wait_for(int64_t count) const {
    constexpr int kSpins = 10000;  // some tens of microseconds, longer than a running thread needs
    for (int spins = 0; value_.load(std::memory_order_acquire) < count; ++spins) {
      if (spins >= kSpins) std::this_thread::yield();
    }
  }

 private:
  alignas(64) std::atomic<int64_t> value_ = 0;
};

// Tasks in shards, one a thread. Each thread first does its own shard, whose data lie together, then helps
// with the others.
class Shards {
 public:
  Shards(int64_t tasks, int64_t threads) : tasks_(tasks), count_(std::min(threads, kMaxShards)) {}

  template <typename Task>
  void run(int64_t first, const Task& task) {
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t shard = (first + i) % count_;
      const Range range = part(tasks_, shard, count_);
      Counter& taken = taken_[static_cast<size_t>(shard)];
      for (int64_t k = range.begin + taken.next(); k < range.end; k = range.begin + taken.next()) task(k);
    }
  }

 private:
  static constexpr int64_t kMaxShards = 16;
  int64_t tasks_;
  int64_t count_;
  std::array<Counter, kMaxShards> taken_;
};

// Runs the tasks [0, first) of one kind and, once all of them are done, the tasks [0, second) of another.
// Handing work to a pool's threads costs microseconds, so it is done once for both: a thread that finds no
// more tasks of the first kind waits for those that others have begun.
//
// Delays aside, the same thread runs index k of a kind at every call, so what it wrote is still in its core's
// caches. Moving a line between cores that share no cache takes as long as a hundred dot products.
template <typename First, typename Second>
void run_phases(int64_t first, int64_t second, const Parallel& parallel, const First& run_first,
                const Second& run_second) {
  if (first <= 1) {
    if (first == 1) run_first(0);
    parallel.run(second, run_second);  // in shards as well, if the pool is the engine's
    return;
  }
  // Threads for which there is nothing to do are not woken.
  const int64_t threads = std::min<int64_t>(parallel.threads(), std::max(first, second));
  Shards firsts(first, threads), seconds(second, threads);
  Counter done;
  parallel.run(threads, [&](int64_t thread) noexcept {
    firsts.run(thread, [&](int64_t index) noexcept {
      run_first(index);
      done.add_done();
    });
    done.wait_for(first);
    seconds.run(thread, run_second);
  });
}

}  // namespace gpt2fast
