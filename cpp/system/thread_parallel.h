// A few plain threads, for work outside the engine's pool: packing at conversion.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "system/parallel.h"

namespace gpt2fast {

// Starts its threads for each run, which suits tasks of milliseconds, not the decode loop.
class ThreadParallel final : public Parallel {
 public:
  explicit ThreadParallel(int threads) : threads_(threads) {}
  int threads() const override { return threads_; }

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    std::atomic<int64_t> next = 0;
    const auto work = [&]() noexcept {
      for (int64_t i = next++; i < count; i = next++) function(data, i);
    };
    const int64_t helpers = std::min<int64_t>(threads_, count) - 1;
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(helpers));
    bool granted = true;
    for (int64_t i = 0; i < helpers && granted; ++i) {
      try {
        others.emplace_back(work);
      } catch (const std::exception&) {
        granted = false;  // no more threads, or no memory for them: those that there are do all tasks
      }
    }
    work();
    for (std::thread& thread : others) thread.join();
  }

 private:
  int threads_;
};

}  // namespace gpt2fast
