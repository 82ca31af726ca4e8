// Two phases of tasks in shards.
#include "kernels/shards.h"

#include <atomic>
#include <cstdint>
#include <vector>

#include "support/recorded_runs.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;

namespace {

TEST(parts_cover_everything_once) {
  for (int64_t parts = 1; parts <= 7; ++parts) {
    for (int64_t count = parts; count <= 40; ++count) {
      int64_t next = 0;
      for (int64_t i = 0; i < parts; ++i) {
        const Range range = part(count, i, parts);
        CHECK_EQ(range.begin, next);
        for (int64_t item = range.begin; item < range.end; ++item) CHECK_EQ(part_of(item, count, parts), i);
        next = range.end;
      }
      CHECK_EQ(next, count);
    }
  }
}

TEST(every_task_runs_once_and_the_second_kind_after_the_first) {
  for (int threads : {1, 2, 3, 20}) {
    for (int64_t first : {0, 1, 2, 5, 40}) {
      for (int64_t second : {0, 1, 3, 64}) {
        std::vector<std::atomic<int>> firsts(static_cast<size_t>(first)),
            seconds(static_cast<size_t>(second));
        std::atomic<int64_t> done = 0, early = 0;
        run_phases(
            first, second, ThreadParallel(threads),
            [&](int64_t index) noexcept {
              ++firsts[static_cast<size_t>(index)];
              ++done;
            },
            [&](int64_t index) noexcept {
              ++seconds[static_cast<size_t>(index)];
              if (done < first) ++early;
            });
        CHECK_EQ(early.load(), int64_t{0});
        for (const std::atomic<int>& count : firsts) CHECK_EQ(count.load(), 1);
        for (const std::atomic<int>& count : seconds) CHECK_EQ(count.load(), 1);
      }
    }
  }
}

TEST(threads_without_a_task_are_not_woken) {
  const gpt2fast::testing::RecordedRuns pool(64);
  const auto nothing = [](int64_t) noexcept {};
  run_phases(1, 5, pool, nothing, nothing);
  run_phases(3, 5, pool, nothing, nothing);
  run_phases(8, 2, pool, nothing, nothing);
  run_phases(8, 200, pool, nothing, nothing);
  CHECK(pool.woken() == std::vector<int64_t>({5, 5, 8, 64}));
}

TEST(whoever_is_done_helps_the_others) {
  Shards shards(40, 4);
  std::vector<int> runs(40, 0);
  std::vector<int64_t> order;
  shards.run(2, [&](int64_t index) {
    ++runs[static_cast<size_t>(index)];
    order.push_back(index);
  });
  CHECK(runs == std::vector<int>(40, 1));
  CHECK_EQ(order[0], int64_t{20});   // its own first
  CHECK_EQ(order[10], int64_t{30});  // then the next ones
  CHECK_EQ(order[39], int64_t{19});
}

}  // namespace
