// Who owns which slot of the KV cache, and what the idle ones still remember for prompts to come.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "engine/kv_cache.h"

namespace gpt2fast {

// A slot's owner alone reads and writes it. An idle slot keeps the keys and values of the tokens it last held
// (the prefix cache); a new owner with a common prefix takes them over, or a copy of them.
class SlotPool {
 public:
  // How long a caller waits for a slot while nobody is at work: streams pause for a moment between their
  // steps.
  static constexpr std::chrono::milliseconds kPatience{1000};

  SlotPool(KvCache& cache, int64_t prefix_cache_bytes, std::chrono::milliseconds patience = kPatience);

  struct Grant {
    int64_t slot = -1;          // -1: none is free
    int64_t cached_length = 0;  // leading tokens of the prompt whose keys and values the slot already holds
  };

  // A slot for `prompt` if one is free. At least one token of the prompt is always left to compute.
  Grant try_acquire(std::span<const int32_t> prompt, bool use_prefix_cache);

  // Waits for a slot while other callers are at work (those give slots back by themselves); throws BusyError
  // when every slot has been held by paused callers for a while, Interrupted when `interrupted` says so.
  Grant acquire(std::span<const int32_t> prompt, bool use_prefix_cache,
                const std::function<bool()>& interrupted);

  // So many slots at once, for a search that copies among them; waits like acquire().
  std::vector<int64_t> acquire_many(int64_t count, const std::function<bool()>& interrupted);

  // `tokens` are those whose keys and values the slot holds; they stay for later prompts as the budget
  // allows.
  void release(int64_t slot, std::span<const int32_t> tokens);

  void clear_idle();

  // Held by every call that runs steps, so that waiting callers know whether a slot can come free.
  class Working {
   public:
    explicit Working(SlotPool& pool);
    ~Working();
    Working(const Working&) = delete;
    Working& operator=(const Working&) = delete;

   private:
    SlotPool& pool_;
  };

 private:
  struct Slot {
    bool in_use = false;
    uint64_t last_use = 0;
    int64_t extent = 0;           // positions that have had memory
    std::vector<int32_t> tokens;  // remembered while idle
  };

  Grant grant_locked(std::span<const int32_t> prompt, bool use_prefix_cache);
  // Waits a little for another caller to give a slot back; throws as acquire() says.
  void wait_for_release(std::unique_lock<std::mutex>& lock, const std::function<bool()>& interrupted);
  void forget_locked(Slot& slot);
  // Of an idle slot that has been emptied.
  void keep_or_discard_locked(Slot& slot);
  void discard_locked(Slot& slot);
  void keep_within_budget_locked();
  // Whether a slot is idle and remembers nothing.
  static bool is_empty(const Slot& slot) { return !slot.in_use && slot.tokens.empty(); }

  KvCache& cache_;
  const int64_t budget_tokens_;
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<Slot> slots_;
  // The empty slot with most memory keeps it for the next prompt: having it from the system anew costs some
  // hundredths of a prompt's time. Of slots with as much, the one that was emptied last.
  Slot* warm_ = nullptr;
  int64_t remembered_tokens_ = 0;
  uint64_t clock_ = 0;
  int working_ = 0;                                  // callers that run steps
  int waiting_ = 0;                                  // those among them that wait for a slot
  std::chrono::steady_clock::time_point last_work_;  // when a caller last began or ended its steps
};

}  // namespace gpt2fast
