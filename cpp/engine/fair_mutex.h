// A mutex that serves in the order of asking, so that one caller's loop of steps can't starve another's.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace gpt2fast {

class FairMutex {
 public:
  void lock() {
    std::unique_lock guard(mutex_);
    const uint64_t ticket = next_ticket_++;
    served_.wait(guard, [&] { return ticket == now_serving_; });
  }

  void unlock() {
    {
      const std::lock_guard guard(mutex_);
      ++now_serving_;
    }
    served_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable served_;
  uint64_t next_ticket_ = 0;
  uint64_t now_serving_ = 0;
};

}  // namespace gpt2fast
