// What the steps gave a caller: a wait for threads, a queue with a file descriptor for event loops.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/clock.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// Work that is done on a caller's thread: its own code in the choice of a token.
class HookWork {
 public:
  virtual ~HookWork() = default;
  // Called while the lock of the host language is held. Throws what the hook throws.
  virtual void run_hook() = 0;
};

class Mailbox {
 public:
  Mailbox(std::shared_ptr<ReadyQueue> queue, uint64_t key);
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // For the scheduler.

  // Reserves memory for some tokens of so many texts, so that reporting them allocates nothing.
  void reserve(int64_t texts, int64_t tokens_each);
  // What a text has gained. Its reader is woken by notify(), not by put().
  struct Report {
    int64_t index = 0;
    std::span<const int32_t> tokens;
    FinishReason reason = FinishReason::kNone;
    std::optional<int64_t> safe_bytes;
    // Each token's log-probability, and the likeliest tokens at its place; empty unless requested.
    std::span<const float> chosen;
    std::span<const int32_t> top_ids;
    std::span<const float> top_values;
  };
  // Stores all of it or, if there is no memory, nothing.
  void put(const Report& report);
  void put_hook(HookWork* work);
  // Takes back work that nobody has begun; false: somebody has.
  bool withdraw_hook(HookWork* work);
  // Marks the call as done, or as failed.
  void finish(std::exception_ptr error);
  // Wakes the reader if there is something new.
  void notify();
  // Wakes the reader even without news: it may have to run steps itself.
  void nudge();

  // For the reader.

  // Takes what has been reported since the last call.
  std::vector<Progress> take();
  std::vector<HookWork*> take_hooks();
  bool has_hooks() const;
  bool finished() const;
  // Throws the call's error, if it failed; after the first time, that it did.
  void rethrow();
  bool has_progress() const;
  // Blocks until there is a hook to run, everything is done or, with `or_progress`, there is something to
  // take; or until nudge() has been called since `seen`, or the time (kNever: any) is over.
  void wait_until(Clock::time_point time, bool or_progress, uint64_t seen);
  // Counts nudges; read before deciding to wait.
  uint64_t nudges() const;

 private:
  // A report without its tokens and log-probabilities, which are in the vectors below.
  struct Stored {
    int64_t index;
    size_t tokens;
    size_t chosen;
    size_t likeliest;
    FinishReason reason;
    std::optional<int64_t> safe_bytes;
  };

  const std::shared_ptr<ReadyQueue> queue_;
  const uint64_t key_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Stored> reports_;
  // The contents of all reports, one after another.
  std::vector<int32_t> tokens_;
  std::vector<float> chosen_;
  std::vector<int32_t> top_ids_;
  std::vector<float> top_values_;
  std::vector<HookWork*> hooks_;
  std::exception_ptr error_;
  bool finished_ = false;
  bool news_ = false;
  uint64_t nudges_ = 0;
};

}  // namespace gpt2fast
