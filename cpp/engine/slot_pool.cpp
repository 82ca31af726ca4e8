// Who owns which slot of the KV cache.
#include "engine/slot_pool.h"

#include <algorithm>
#include <stdexcept>

#include "engine/common_prefix.h"

namespace gpt2fast {

SlotPool::SlotPool(KvCache& cache, int64_t prefix_cache_bytes)
    : cache_(cache),
      budget_tokens_(prefix_cache_bytes / std::max<int64_t>(1, cache.bytes_per_position())),
      slots_(static_cast<size_t>(cache.slots())),
      free_(cache.slots()) {
  // Reserved here so that remembering tokens never allocates in a step.
  for (Slot& slot : slots_) slot.tokens.reserve(static_cast<size_t>(cache.shape().positions));
}

void SlotPool::forget(Slot& slot) {
  remembered_tokens_ -= static_cast<int64_t>(slot.tokens.size());
  slot.tokens.clear();
}

SlotPool::Grant SlotPool::acquire(std::span<const int32_t> prompt, Sharing sharing) {
  Slot* best = nullptr;    // idle, with the longest common prefix
  Slot* oldest = nullptr;  // idle, least recently used; an empty one if there is any
  int64_t best_length = 0;
  for (Slot& slot : slots_) {
    if (slot.in_use) continue;
    const bool emptier = oldest != nullptr && slot.tokens.empty() && !oldest->tokens.empty();
    const bool as_empty = oldest != nullptr && slot.tokens.empty() == oldest->tokens.empty();
    if (oldest == nullptr || emptier || (as_empty && slot.last_use < oldest->last_use)) oldest = &slot;
    const bool shared = sharing.reuses && slot.scope == sharing.scope;
    const int64_t length = shared ? common_prefix(slot.tokens, prompt) : 0;
    if (length > best_length) {
      best = &slot;
      best_length = length;
    }
  }
  if (oldest == nullptr) return {};
  if (oldest->tokens.empty() && warm_ != nullptr && is_empty(*warm_)) oldest = warm_;

  // The last prompt token is computed in any case: its logits are wanted.
  best_length = std::min(best_length, static_cast<int64_t>(prompt.size()) - 1);
  Slot* chosen = oldest;
  if (best != nullptr && best_length > 0) {
    // Taking the slot over is free but loses what follows the prefix there; a copy keeps both.
    const bool loses_much = static_cast<int64_t>(best->tokens.size()) > 2 * best_length;
    if (best != oldest && loses_much && oldest->tokens.empty()) {
      cache_.copy(best - slots_.data(), oldest - slots_.data(), best_length);
      best->last_use = ++clock_;
    } else {
      chosen = best;
    }
  }
  forget(*chosen);
  chosen->in_use = true;
  --free_;
  return {chosen - slots_.data(), best_length};
}

void SlotPool::release(int64_t index, std::span<const int32_t> tokens, uint64_t scope) {
  Slot& slot = slots_[static_cast<size_t>(index)];
  if (!slot.in_use) throw std::logic_error("a slot is given back that nobody holds");
  slot.in_use = false;
  slot.last_use = ++clock_;
  slot.tokens.assign(tokens.begin(), tokens.end());
  slot.scope = scope;
  slot.extent = std::max(slot.extent, static_cast<int64_t>(tokens.size()));
  remembered_tokens_ += static_cast<int64_t>(tokens.size());
  ++free_;
  keep_within_budget();
}

void SlotPool::keep_within_budget() {
  while (remembered_tokens_ > budget_tokens_) {
    Slot* oldest = nullptr;  // there is one, as what is remembered is in idle slots
    for (Slot& slot : slots_) {
      if (slot.in_use || slot.tokens.empty()) continue;
      if (oldest == nullptr || slot.last_use < oldest->last_use) oldest = &slot;
    }
    forget(*oldest);
    keep_or_discard(*oldest);
  }
}

void SlotPool::keep_or_discard(Slot& slot) {
  if (warm_ != nullptr && warm_ != &slot && is_empty(*warm_)) {
    if (warm_->extent > slot.extent) return discard(slot);
    discard(*warm_);
  }
  warm_ = &slot;
}

void SlotPool::discard(Slot& slot) {
  cache_.discard(&slot - slots_.data());
  slot.extent = 0;
}

void SlotPool::clear_idle() {
  warm_ = nullptr;
  for (Slot& slot : slots_) {
    if (slot.in_use) continue;
    forget(slot);
    discard(slot);
  }
}

}  // namespace gpt2fast
