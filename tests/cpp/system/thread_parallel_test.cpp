// Tasks on plain threads.
#include "system/thread_parallel.h"

#include "support/testing.h"

namespace gpt2fast {
namespace {

TEST(each_task_runs_once_whatever_the_number_of_threads) {
  for (const int threads : {1, 2, 3, 8}) {
    const ThreadParallel parallel(threads);
    CHECK_EQ(parallel.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      parallel.run(count, [&](int64_t i) noexcept { ++runs[static_cast<size_t>(i)]; });
      for (const std::atomic<int>& one : runs) CHECK_EQ(one.load(), 1);
    }
  }
}

TEST(tasks_have_ended_when_the_run_returns) {
  const ThreadParallel parallel(4);
  std::vector<int64_t> squares(100);  // not atomic: ThreadSanitizer sees a task that is still running
  for (int round = 0; round < 10; ++round) {
    parallel.run(100, [&](int64_t i) noexcept { squares[static_cast<size_t>(i)] = i * i + round; });
    for (int64_t i = 0; i < 100; ++i) CHECK_EQ(squares[static_cast<size_t>(i)], i * i + round);
  }
}

}  // namespace
}  // namespace gpt2fast
