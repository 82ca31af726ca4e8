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

SlotPool::Grant SlotPool::acquire(std::span<const int32_t> prompt, Sharing sharing, int64_t length) {
  Slot* best = nullptr;  // idle, with the longest common prefix
  int64_t best_length = 0;
  for (Slot& slot : slots_) {
    if (slot.in_use || !sharing.reuses || slot.scope != sharing.scope) continue;
    const int64_t shared = common_prefix(slot.tokens, prompt);
    if (shared > best_length) {
      best = &slot;
      best_length = shared;
    }
  }
  length = std::max(length, static_cast<int64_t>(prompt.size()));
  Slot* chosen = slot_for(length);
  if (chosen == nullptr) return {};

  // The last prompt token is computed in any case: its logits are wanted.
  best_length = std::min(best_length, static_cast<int64_t>(prompt.size()) - 1);
  if (best != nullptr && best_length > 0) {
    // Taking the slot over is free but loses what follows the prefix there; a copy keeps both.
    const bool loses_much = static_cast<int64_t>(best->tokens.size()) > 2 * best_length;
    if (best != chosen && loses_much) {
      cache_.copy(best - slots_.data(), chosen - slots_.data(), 0, best_length);
      best->last_use = ++clock_;
    } else {
      chosen = best;
    }
  }
  forget(*chosen);
  chosen->in_use = true;
  chosen->expected_blocks = blocks_of(length);
  --free_;
  busiest_ = std::max(busiest_, in_use());
  return {chosen - slots_.data(), best_length};
}

int64_t SlotPool::blocks_of(int64_t length) const {
  return std::min((length + kKeyBlock - 1) / kKeyBlock, cache_.shape().blocks());
}

SlotPool::Slot* SlotPool::slot_for(int64_t length) {
  const int64_t blocks = blocks_of(length);
  Slot* fitting = nullptr;  // the empty one with the least memory that suffices
  Slot* largest = nullptr;  // the empty one with the most memory
  for (Slot& slot : slots_) {
    if (!is_empty(slot)) continue;
    if (largest == nullptr || has_more(slot, *largest)) largest = &slot;
    if (slot.blocks >= blocks && (fitting == nullptr || slot.blocks < fitting->blocks)) fitting = &slot;
  }
  if (fitting != nullptr) return fitting;
  // If the text is going to push another out when it is released, that one's memory may as well serve now.
  if (remembered_tokens_ + length > budget_tokens_) {
    if (Slot* oldest = oldest_remembered(blocks)) return oldest;
  }
  return largest != nullptr ? largest : oldest_remembered(0);
}

void SlotPool::release(int64_t index, std::span<const int32_t> tokens, uint64_t scope) {
  Slot& slot = slots_[static_cast<size_t>(index)];
  if (!slot.in_use) throw std::logic_error("a slot is given back that nobody holds");
  if (++releases_ >= size()) {
    busiest_before_ = busiest_;
    busiest_ = in_use();
    releases_ = 0;
  }
  slot.in_use = false;
  slot.last_use = ++clock_;
  slot.tokens.assign(tokens.begin(), tokens.end());
  slot.scope = scope;
  // Whoever leaves no tokens may have used what it expected to.
  const auto length = static_cast<int64_t>(tokens.size());
  slot.blocks = std::max(slot.blocks, tokens.empty() ? slot.expected_blocks : blocks_of(length));
  remembered_tokens_ += length;
  ++free_;
  while (remembered_tokens_ > budget_tokens_) forget(*oldest_remembered(0));
  discard_surplus();
}

SlotPool::Slot* SlotPool::oldest_remembered(int64_t blocks) {
  Slot* oldest = nullptr;
  for (Slot& slot : slots_) {
    if (slot.in_use || slot.tokens.empty() || slot.blocks < blocks) continue;
    if (oldest == nullptr || slot.last_use < oldest->last_use) oldest = &slot;
  }
  return oldest;
}

void SlotPool::discard_surplus() {
  const int64_t at_rest = std::max(busiest_, busiest_before_) - in_use();
  const int64_t may_keep =
      (budget_tokens_ - remembered_tokens_) / kKeyBlock + at_rest * cache_.shape().blocks();
  while (true) {
    int64_t kept = 0;
    Slot* least = nullptr;
    for (Slot& slot : slots_) {
      if (!is_empty(slot) || slot.blocks == 0) continue;
      kept += slot.blocks;
      if (least == nullptr || has_more(*least, slot)) least = &slot;
    }
    if (kept <= may_keep) return;
    discard(*least);
  }
}

void SlotPool::discard(Slot& slot) {
  cache_.discard(&slot - slots_.data());
  slot.blocks = 0;
}

void SlotPool::clear_idle() {
  for (Slot& slot : slots_) {
    if (slot.in_use) continue;
    forget(slot);
    discard(slot);
  }
  busiest_ = busiest_before_ = in_use();
}

}  // namespace gpt2fast
