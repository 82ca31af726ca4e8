// Calls a caller's InterruptCheck at most every few milliseconds, since it may have to take the host's lock.
#pragma once

#include <chrono>

#include "engine/clock.h"
#include "engine/host_code.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// The shortest time between two calls of an InterruptCheck.
inline constexpr auto kInterruptInterval = std::chrono::milliseconds(10);

class InterruptGuard {
 public:
  // The check must not use `engine`. Both must outlive the guard.
  InterruptGuard(const InterruptCheck& check, const void* engine) : check_(check), engine_(engine) {}

  bool operator()() {
    if (!check_) return false;
    const Clock::time_point now = Clock::now();
    if (now - last_ < kInterruptInterval) return false;
    last_ = now;
    const HostCode scope(engine_);
    fired_ = check_();
    return fired_;
  }
  // Whether the check has returned true.
  bool fired() const { return fired_; }

 private:
  const InterruptCheck& check_;
  const void* engine_;
  Clock::time_point last_ = Clock::now();
  bool fired_ = false;
};

}  // namespace gpt2fast
