// An abstract pool of threads, so that kernels can split their work without knowing who owns the threads.
#pragma once

#include <cstdint>
#include <type_traits>

namespace gpt2fast {

// Runs `count` independent tasks, in any order, on any threads, and returns when all are done.
// Tasks must not throw. How work is divided into tasks may depend on `threads()`; its results may not.
class Parallel {
 public:
  virtual ~Parallel() = default;

  virtual int threads() const = 0;

  template <typename Task>
  void run(int64_t count, const Task& task) const {
    static_assert(std::is_nothrow_invocable_v<const Task&, int64_t>, "mark the task noexcept");
    if (count <= 0) return;
    if (count == 1) {
      task(0);
      return;
    }
    run_tasks(
        count, [](const void* data, int64_t index) noexcept { (*static_cast<const Task*>(data))(index); },
        &task);
  }

 protected:
  using TaskFunction = void (*)(const void* data, int64_t index) noexcept;
  virtual void run_tasks(int64_t count, TaskFunction function, const void* data) const = 0;
};

// Runs everything on the calling thread.
class Serial final : public Parallel {
 public:
  int threads() const override { return 1; }

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    for (int64_t i = 0; i < count; ++i) function(data, i);
  }
};

}  // namespace gpt2fast
