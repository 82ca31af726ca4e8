// Who owns which slot of the KV cache, and what the idle ones still remember for prompts to come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache.h"

namespace gpt2fast {

// What a text takes over from others: nothing, or their keys and values, where they are of the same scope.
struct Sharing {
  bool reuses = true;
  uint64_t scope = 0;
};

// A slot's owner alone reads and writes it. An idle slot keeps the keys and values of the tokens it last held
// (the prefix cache); a new owner with a common prefix takes them over, or a copy of them. Never waits, and
// is used by one thread at a time.
class SlotPool {
 public:
  SlotPool(KvCache& cache, int64_t prefix_cache_bytes);

  struct Grant {
    int64_t slot = -1;          // -1: none is free
    int64_t cached_length = 0;  // leading tokens of the prompt whose keys and values the slot already holds
  };

  // A slot for `prompt` if one is free. At least one token of the prompt is always left to compute.
  Grant acquire(std::span<const int32_t> prompt, Sharing sharing);

  // `tokens` are those whose keys and values the slot holds; they stay for later prompts of the scope as the
  // budget allows.
  void release(int64_t index, std::span<const int32_t> tokens, uint64_t scope = 0);

  int64_t size() const { return static_cast<int64_t>(slots_.size()); }
  int64_t free() const { return free_; }

  void clear_idle();

 private:
  struct Slot {
    bool in_use = false;
    uint64_t last_use = 0;
    int64_t extent = 0;           // positions whose memory is committed
    std::vector<int32_t> tokens;  // remembered while idle
    uint64_t scope = 0;           // the scope of the text that they come from
  };

  void forget(Slot& slot);
  // Keeps the memory of an idle slot that has been emptied, or gives it back: see warm_.
  void keep_or_discard(Slot& slot);
  void discard(Slot& slot);
  void keep_within_budget();
  // Whether a slot is idle and remembers nothing.
  static bool is_empty(const Slot& slot) { return !slot.in_use && slot.tokens.empty(); }

  KvCache& cache_;
  const int64_t budget_tokens_;
  std::vector<Slot> slots_;
  int64_t free_;
  // The empty slot with the most memory keeps it for the next prompt: getting it from the system again costs
  // a few percent of a prompt's time. Among equals, the one that was emptied last.
  Slot* warm_ = nullptr;
  int64_t remembered_tokens_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace gpt2fast
