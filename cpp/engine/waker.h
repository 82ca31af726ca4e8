// Wakes the loop of a scheduler that may be gone.
#pragma once

#include <functional>
#include <mutex>
#include <utility>

namespace gpt2fast {

class Waker {
 public:
  explicit Waker(std::function<void()> wake) : wake_(std::move(wake)) {}

  void wake() {
    const std::lock_guard lock(mutex_);
    if (wake_) wake_();
  }
  // From now on wake() does nothing.
  void disconnect() {
    const std::lock_guard lock(mutex_);
    wake_ = nullptr;
  }

 private:
  std::mutex mutex_;
  std::function<void()> wake_;
};

}  // namespace gpt2fast
