// Threads that spin between runs, so that a benchmark measures kernels and not wake-ups.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "system/parallel.h"

namespace gpt2fast {

class SpinningThreads final : public Parallel {
 public:
  explicit SpinningThreads(int count) {
    for (int i = 1; i < count; ++i) threads_.emplace_back([this] { serve(); });
  }
  SpinningThreads(const SpinningThreads&) = delete;
  SpinningThreads& operator=(const SpinningThreads&) = delete;
  ~SpinningThreads() override {
    stopping_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    for (std::thread& thread : threads_) thread.join();
  }

  int threads() const override { return static_cast<int>(threads_.size()) + 1; }

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    function_ = function;
    data_ = data;
    count_ = count;
    next_ = 0;
    busy_ = static_cast<int>(threads_.size());
    generation_.fetch_add(1, std::memory_order_release);
    take_tasks();
    for (int64_t spins = 0; busy_.load(std::memory_order_acquire) > 0; ++spins) yield_after(spins);
  }

 private:
  void take_tasks() const {
    for (int64_t i = next_++; i < count_; i = next_++) function_(data_, i);
  }

  // Lets other programs run where there are fewer cores than threads.
  static void yield_after(int64_t spins) {
    if (spins > 100000) std::this_thread::yield();
  }

  void serve() const {
    for (int64_t seen = 0;;) {
      int64_t generation = seen;
      for (int64_t spins = 0; generation == seen; ++spins) {
        generation = generation_.load(std::memory_order_acquire);
        yield_after(spins);
      }
      seen = generation;
      if (stopping_) return;
      take_tasks();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  mutable std::atomic<int64_t> generation_ = 0;
  mutable std::atomic<int64_t> next_ = 0;
  mutable std::atomic<int> busy_ = 0;
  mutable TaskFunction function_ = nullptr;
  mutable const void* data_ = nullptr;
  mutable int64_t count_ = 0;
  std::atomic<bool> stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace gpt2fast
