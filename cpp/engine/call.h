// One caller's texts in the engine, and what the loop must know about them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/clock.h"
#include "engine/mailbox.h"
#include "engine/participant.h"

namespace gpt2fast {

class Call {
 public:
  // attended: a thread is going to wait for the call, and can run steps itself, until it gives the call up.
  Call(std::vector<std::unique_ptr<Participant>> participants, const CallOptions& options, bool attended)
      : streamed(options.streamed),
        held(options.held),
        attended(attended),
        turn(Clock::now() - std::chrono::seconds(options.priority)),
        deadline(deadline_after(options.max_seconds)),
        mailbox(options.ready_queue, options.key),
        participants(std::move(participants)),
        has_hooks(std::ranges::any_of(this->participants, [](const auto& one) { return one->has_hooks(); })),
        unfinished(static_cast<int64_t>(this->participants.size())),
        cancelled_(options.cancelled),
        refers_to_host_(has_hooks) {}

  // May be called from any thread.
  void cancel() noexcept { cancelled_ = true; }
  // Ends the call with an error, the first one if there are several.
  void fail(std::exception_ptr error) noexcept {
    const std::lock_guard lock(mutex_);
    if (error_ == nullptr) error_ = std::move(error);
    cancelled_ = true;
  }
  std::exception_ptr error() const {
    const std::lock_guard lock(mutex_);
    return error_;
  }
  // For the caller: throws what the finished call failed with, if it did, and forgets it. What a hook of the
  // host program raised may refer to whoever holds the call, and both would stay for ever.
  void rethrow() {
    {
      const std::lock_guard lock(mutex_);
      error_ = nullptr;
    }
    mailbox.rethrow();
  }
  // What the participants point to lives as long as the call. For the caller's thread.
  void keep(std::shared_ptr<const void> memory) {
    memory_ = std::move(memory);
    refers_to_host_ = true;
  }
  // Whether the host's lock may be needed to destroy it.
  bool refers_to_host() const { return refers_to_host_; }
  // Whether the thread that should run its hooks is not waiting. Its texts then need no slot.
  bool is_left_alone() const { return has_hooks && attended && !awaited; }
  // Why its texts must end now; kNone: they go on.
  FinishReason end_reason(Clock::time_point now) const {
    if (cancelled_) return FinishReason::kCancelled;
    return now >= deadline ? FinishReason::kTime : FinishReason::kNone;
  }

  const bool streamed;
  const bool held;
  std::atomic<bool> attended;
  // Calls get slots in this order. Each level of priority is worth a second of waiting, so that none starves.
  const Clock::time_point turn;
  const Clock::time_point deadline;
  Mailbox mailbox;
  // Whether a thread is waiting for it at this moment.
  std::atomic<bool> awaited = false;

  // Used by the loop alone until the mailbox is finished.
  std::vector<std::unique_ptr<Participant>> participants;
  const bool has_hooks;
  int64_t unfinished;

 private:
  std::atomic<bool> cancelled_;
  std::atomic<bool> refers_to_host_;
  std::shared_ptr<const void> memory_;
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace gpt2fast
