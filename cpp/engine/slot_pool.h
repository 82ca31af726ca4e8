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
// (the prefix cache); a new owner with a common prefix takes them over, or a copy of them. Slots keep memory
// for as many texts as ran at once lately, since getting it from the system again delays a step. Never waits,
// and is used by one thread at a time.
class SlotPool {
 public:
  SlotPool(KvCache& cache, int64_t prefix_cache_bytes);

  struct Grant {
    int64_t slot = -1;          // -1: none is free
    int64_t cached_length = 0;  // leading tokens of the prompt whose keys and values the slot already holds
  };

  // A slot for `prompt` if one is free, where the text may grow to `length` tokens. At least one token of the
  // prompt is always left to compute.
  Grant acquire(std::span<const int32_t> prompt, Sharing sharing, int64_t length);

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
    int64_t blocks = 0;           // of kKeyBlock positions whose memory is committed, as far as is known
    int64_t expected_blocks = 0;  // that its owner may use
    std::vector<int32_t> tokens;  // remembered while idle
    uint64_t scope = 0;           // the scope of the text that they come from
  };

  int64_t in_use() const { return size() - free_; }
  int64_t blocks_of(int64_t length) const;
  // The idle slot for a text of which nothing is remembered: one whose memory suffices, if possible.
  Slot* slot_for(int64_t length);
  // The least recently used of the idle slots that remember something and have memory for as many blocks, or
  // null.
  Slot* oldest_remembered(int64_t blocks);
  void forget(Slot& slot);
  // Gives memory of empty slots back, of those with the least first. They may keep what the budget leaves and
  // what as many texts as ran at once lately may need.
  void discard_surplus();
  void discard(Slot& slot);
  // Whether a slot is idle and remembers nothing.
  static bool is_empty(const Slot& slot) { return !slot.in_use && slot.tokens.empty(); }
  // Whether `slot` has more memory than `other`, or as much and was used later.
  static bool has_more(const Slot& slot, const Slot& other) {
    return slot.blocks != other.blocks ? slot.blocks > other.blocks : slot.last_use > other.last_use;
  }

  KvCache& cache_;
  const int64_t budget_tokens_;
  std::vector<Slot> slots_;
  int64_t free_;
  int64_t remembered_tokens_ = 0;
  uint64_t clock_ = 0;
  // The most slots in use at once since `releases_` releases, and in the size() releases before those.
  int64_t busiest_ = 0;
  int64_t busiest_before_ = 0;
  int64_t releases_ = 0;
};

}  // namespace gpt2fast
