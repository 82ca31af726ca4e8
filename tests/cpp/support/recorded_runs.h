// A pool of any number of threads that computes on the calling one and notes how many would have been woken.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "system/parallel.h"

namespace gpt2fast::testing {

class RecordedRuns final : public Parallel {
 public:
  explicit RecordedRuns(int threads) : threads_(threads) {}

  int threads() const override { return threads_; }
  // Of each run, the threads that have a task.
  const std::vector<int64_t>& woken() const { return woken_; }

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    woken_.push_back(std::min<int64_t>(count, threads_));
    for (int64_t i = 0; i < count; ++i) function(data, i);
  }

 private:
  int threads_;
  mutable std::vector<int64_t> woken_;
};

}  // namespace gpt2fast::testing
