// A pool's threads: each task once, after sleep too, and off the caller's core for a while.
#include "system/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "support/refused_memory.h"
#include "support/testing.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace gpt2fast {
namespace {

// Runs short tasks until one of them has run on another thread, which calls there(). A thread that is just
// falling asleep misses a run.
template <typename There>
bool reaches_another_thread(const ThreadPool& pool, const There& there) {
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> reached = false;
  for (int round = 0; round < 1000000 && !reached; ++round) {
    pool.run(2, [&](int64_t) noexcept {
      if (std::this_thread::get_id() == caller) {
        std::this_thread::yield();
      } else if (!reached.exchange(true)) {
        there();
      }
    });
  }
  return reached;
}

TEST(each_task_runs_once_whatever_the_number_of_threads) {
  for (const int threads : {1, 2, 3, 20}) {
    const ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      pool.run(count, [&](int64_t i) noexcept { ++runs[static_cast<size_t>(i)]; });
      for (const std::atomic<int>& one : runs) CHECK_EQ(one.load(), 1);
    }
  }
}

TEST(a_pool_for_which_there_is_no_memory_is_not_made) {
  int64_t granted = 0;
  for (bool made = false; !made; ++granted) {
    testing::granted_allocations = granted;
    try {
      const ThreadPool pool(4);
    } catch (const std::bad_alloc&) {
    }
    made = testing::granted_allocations >= 0;
    testing::granted_allocations = -1;
  }
  CHECK(granted > 3);  // that of each thread was refused once
}

TEST(tasks_have_ended_when_the_run_returns) {
  ThreadPool pool(4);
  const StepThreads awake(pool);
  std::vector<int64_t> squares(100);  // not atomic: ThreadSanitizer sees a task that is still running
  for (int64_t round = 0; round < 1000; ++round) {
    const int64_t count = 1 + round % 100;
    pool.run(count, [&](int64_t i) noexcept { squares[static_cast<size_t>(i)] = i * i + round; });
    for (int64_t i = 0; i < count; ++i) CHECK_EQ(squares[static_cast<size_t>(i)], i * i + round);
  }
}

TEST(threads_help_whether_awake_or_asleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    CHECK(reaches_another_thread(pool, [] {}));  // asleep since the round before, or not
    const StepThreads awake(pool);
    CHECK(reaches_another_thread(pool, [] {}));
  }
}

TEST(whoever_is_done_helps_the_others) {
  const ThreadPool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  // Shards of 500 tasks; the other thread is held up in one of its own until all others have begun.
  std::atomic<int> begun = 0, by_caller = 0;
  pool.run(1000, [&](int64_t) noexcept {
    ++begun;
    if (std::this_thread::get_id() == caller) {
      ++by_caller;
    } else {
      while (begun < 1000) std::this_thread::yield();
    }
  });
  CHECK_EQ(begun.load(), 1000);
  CHECK(by_caller.load() >= 999);
}

// Waiting threads sleep then, and are woken, in the middle of steps.
TEST(each_task_runs_once_beside_threads_that_never_rest) {
  std::atomic<bool> is_over = false;
  std::vector<std::thread> neighbours;
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < 2 * cores; ++i) {
    neighbours.emplace_back([&] {
      while (!is_over) {
      }
    });
  }
  {
    ThreadPool pool(3);
    for (int step = 0; step < 3; ++step) {
      const StepThreads threads(pool);
      for (int round = 0; round < 10; ++round) {
        std::vector<std::atomic<int>> runs(7);
        // Long enough for a task to lose its core, which the others wait for.
        pool.run(7, [&](int64_t i) noexcept {
          std::atomic<int>& own = runs[static_cast<size_t>(i)];
          for (int count = 0; count < 100000; ++count) own.fetch_add(1, std::memory_order_relaxed);
        });
        for (const auto& one : runs) CHECK_EQ(one.load(), 100000);
      }
    }
  }
  is_over = true;
  for (std::thread& one : neighbours) one.join();
}

TEST(a_pool_that_was_never_used_ends) {
  for (int i = 0; i < 20; ++i) ThreadPool(5);
}

#ifdef __linux__
int first_core(const cpu_set_t& cores) {
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &cores)) return core;
  }
  return -1;
}

// The cores that the pool's second thread may use.
cpu_set_t cores_of_second(const ThreadPool& pool) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CHECK(reaches_another_thread(pool, [&] { sched_getaffinity(0, sizeof cores, &cores); }));
  return cores;
}

TEST(threads_are_off_the_callers_core_for_the_length_of_a_step) {
  cpu_set_t all;
  CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  ThreadPool pool(2);
  cpu_set_t own;
  CPU_ZERO(&own);
  CPU_SET(first_core(all), &own);
  CHECK_EQ(sched_setaffinity(0, sizeof own, &own), 0);

  cpu_set_t others = all;
  if (CPU_COUNT(&all) > 1) CPU_CLR(first_core(all), &others);
  {
    const StepThreads awake(pool);
    const cpu_set_t seen = cores_of_second(pool);
    CHECK(CPU_EQUAL(&seen, &others));
  }
  const cpu_set_t seen = cores_of_second(pool);
  CHECK(CPU_EQUAL(&seen, &all));
  CHECK_EQ(sched_setaffinity(0, sizeof all, &all), 0);
}
#endif

}  // namespace
}  // namespace gpt2fast
