// A caller's InterruptCheck, asked at most every few milliseconds: it may have to take the host's lock.
#pragma once

#include <chrono>

#include "engine/clock.h"
#include "engine/host_code.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// How often a waiting caller's InterruptCheck is asked at most.
inline constexpr auto kInterruptInterval = std::chrono::milliseconds(10);

class InterruptGuard {
 public:
  // `engine` is the one that the check must not use. Both must outlive the guard.
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
  // Whether it has said yes.
  bool fired() const { return fired_; }

 private:
  const InterruptCheck& check_;
  const void* engine_;
  Clock::time_point last_ = Clock::now();
  bool fired_ = false;
};

}  // namespace gpt2fast
