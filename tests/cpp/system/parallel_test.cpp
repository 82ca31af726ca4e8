// Tasks on the calling thread, and those that need no pool.
#include "system/parallel.h"

#include <thread>
#include <vector>

#include "support/testing.h"

namespace gpt2fast {
namespace {

TEST(serial_tasks_run_in_order_on_the_calling_thread) {
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<int64_t> order;
  Serial().run(5, [&](int64_t i) noexcept {
    CHECK(std::this_thread::get_id() == caller);
    order.push_back(i);
  });
  CHECK(order == std::vector<int64_t>({0, 1, 2, 3, 4}));
}

// Counts what reaches the pool.
class CountedPool final : public Parallel {
 public:
  int threads() const override { return 4; }
  mutable int64_t tasks = 0;

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    tasks += count;
    for (int64_t i = count - 1; i >= 0; --i) function(data, i);
  }
};

TEST(one_task_or_none_does_not_reach_the_pool) {
  const CountedPool pool;
  int64_t sum = 0;
  const auto add = [&](int64_t i) noexcept { sum += i + 1; };
  pool.run(-1, add);
  pool.run(0, add);
  CHECK_EQ(sum, 0);
  pool.run(1, add);
  CHECK_EQ(sum, 1);
  CHECK_EQ(pool.tasks, 0);
  pool.run(3, add);
  CHECK_EQ(sum, 7);
  CHECK_EQ(pool.tasks, 3);
}

}  // namespace
}  // namespace gpt2fast
