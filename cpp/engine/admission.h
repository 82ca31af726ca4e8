// How a text gets its slot, and with it what is already known of its beginning.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/participant.h"
#include "engine/slot_pool.h"

namespace gpt2fast {

class Admission {
 public:
  // `live`: the participants that hold slots.
  Admission(KvCache& cache, SlotPool& slots, const std::vector<Participant*>& live)
      : cache_(cache), slots_(slots), live_(live) {}

  KvCache& cache() { return cache_; }

  struct Grant {
    Admitted admitted = Admitted::kNoSlot;
    int64_t slot = -1;
    int64_t cached_length = 0;  // tokens of the text that the slot holds, at most all but one
  };

  // A slot for a text that may grow to `length` tokens. If the text shares (Sharing::reuses), the slot gets
  // the longest beginning of it that idle slots or live texts of its scope hold, or kLater is returned
  // because a live text is about to compute much of it. Where `prefix` (null: none) has a longer beginning,
  // that is used.
  Grant acquire(std::span<const int32_t> tokens, Sharing sharing, const Prefix* prefix, int64_t length);

  // An empty slot for as many tokens; -1: none is free.
  int64_t acquire_empty(int64_t length) { return slots_.acquire({}, {.reuses = false}, length).slot; }
  int64_t free_slots() const { return slots_.free(); }

  int64_t prefix_queries() const { return queries_; }
  int64_t prefix_hits() const { return hits_; }

 private:
  int64_t restore(const Prefix& prefix, std::span<const int32_t> tokens, int64_t slot, int64_t cached_length);

  KvCache& cache_;
  SlotPool& slots_;
  const std::vector<Participant*>& live_;
  int64_t queries_ = 0;
  int64_t hits_ = 0;
};

}  // namespace gpt2fast
