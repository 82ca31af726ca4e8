// Who owns which slot of the KV cache.
#include "engine/slot_pool.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "engine/common_prefix.h"
#include "gpt2fast/errors.h"

namespace gpt2fast {

SlotPool::SlotPool(KvCache& cache, int64_t prefix_cache_bytes, std::chrono::milliseconds patience)
    : cache_(cache),
      budget_tokens_(prefix_cache_bytes / std::max<int64_t>(1, cache.bytes_per_position())),
      patience_(patience),
      slots_(static_cast<size_t>(cache.slots())) {
  // So that remembering tokens never allocates in a step.
  for (Slot& slot : slots_) slot.tokens.reserve(static_cast<size_t>(cache.shape().positions));
}

void SlotPool::forget_locked(Slot& slot) {
  remembered_tokens_ -= static_cast<int64_t>(slot.tokens.size());
  slot.tokens.clear();
}

SlotPool::Grant SlotPool::grant_locked(std::span<const int32_t> prompt, bool use_prefix_cache) {
  Slot* best = nullptr;    // idle, with the longest common prefix
  Slot* oldest = nullptr;  // idle, least recently used; an empty one if there is any
  int64_t best_length = 0;
  for (Slot& slot : slots_) {
    if (slot.in_use) continue;
    const bool emptier = oldest != nullptr && slot.tokens.empty() && !oldest->tokens.empty();
    const bool as_empty = oldest != nullptr && slot.tokens.empty() == oldest->tokens.empty();
    if (oldest == nullptr || emptier || (as_empty && slot.last_use < oldest->last_use)) oldest = &slot;
    const int64_t length = use_prefix_cache ? common_prefix(slot.tokens, prompt) : 0;
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
  forget_locked(*chosen);
  chosen->in_use = true;
  return {chosen - slots_.data(), best_length};
}

SlotPool::Grant SlotPool::try_acquire(std::span<const int32_t> prompt, bool use_prefix_cache) {
  const std::lock_guard lock(mutex_);
  return grant_locked(prompt, use_prefix_cache);
}

SlotPool::Grant SlotPool::acquire(std::span<const int32_t> prompt, bool use_prefix_cache,
                                  const std::function<bool()>& interrupted) {
  std::unique_lock lock(mutex_);
  for (;;) {
    const Grant grant = grant_locked(prompt, use_prefix_cache);
    if (grant.slot >= 0) return grant;
    wait_for_release(lock, interrupted);
  }
}

std::vector<int64_t> SlotPool::acquire_many(int64_t count, const std::function<bool()>& interrupted) {
  if (count > cache_.slots()) {
    throw std::invalid_argument("num_beams (" + std::to_string(count) + ") must not exceed max_sequences (" +
                                std::to_string(cache_.slots()) + "), with which the model was loaded");
  }
  const auto is_free = [](const Slot& slot) { return !slot.in_use; };
  std::unique_lock lock(mutex_);
  while (std::count_if(slots_.begin(), slots_.end(), is_free) < count) wait_for_release(lock, interrupted);
  std::vector<int64_t> granted;
  while (static_cast<int64_t>(granted.size()) < count) granted.push_back(grant_locked({}, false).slot);
  return granted;
}

void SlotPool::wait_for_release(std::unique_lock<std::mutex>& lock,
                                const std::function<bool()>& interrupted) {
  // Only a caller at work that does not itself wait here can give a slot back; the present one counts as one.
  const bool others_work = working_ - waiting_ > 1;
  if (!others_work && std::chrono::steady_clock::now() - last_work_ >= patience_) {
    throw BusyError(
        "all " + std::to_string(slots_.size()) +
        " slots of the KV cache are held by paused streams: finish or close one, or load the model with "
        "a larger max_sequences");
  }
  ++waiting_;
  released_.wait_for(lock, std::chrono::milliseconds(20));
  --waiting_;
  lock.unlock();
  if (interrupted && interrupted()) throw Interrupted();
  lock.lock();
}

void SlotPool::release(int64_t index, std::span<const int32_t> tokens) {
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = slots_[static_cast<size_t>(index)];
    slot.in_use = false;
    slot.last_use = ++clock_;
    slot.tokens.assign(tokens.begin(), tokens.end());
    slot.extent = std::max(slot.extent, static_cast<int64_t>(tokens.size()));
    remembered_tokens_ += static_cast<int64_t>(tokens.size());
    keep_within_budget_locked();
  }
  released_.notify_one();
}

void SlotPool::keep_within_budget_locked() {
  while (remembered_tokens_ > budget_tokens_) {
    Slot* oldest = nullptr;
    for (Slot& slot : slots_) {
      if (slot.in_use || slot.tokens.empty()) continue;
      if (oldest == nullptr || slot.last_use < oldest->last_use) oldest = &slot;
    }
    if (oldest == nullptr) return;
    forget_locked(*oldest);
    keep_or_discard_locked(*oldest);
  }
}

void SlotPool::keep_or_discard_locked(Slot& slot) {
  if (warm_ != nullptr && warm_ != &slot && is_empty(*warm_)) {
    if (warm_->extent > slot.extent) return discard_locked(slot);
    discard_locked(*warm_);
  }
  warm_ = &slot;
}

void SlotPool::discard_locked(Slot& slot) {
  cache_.discard(&slot - slots_.data());
  slot.extent = 0;
}

void SlotPool::clear_idle() {
  const std::lock_guard lock(mutex_);
  warm_ = nullptr;
  for (Slot& slot : slots_) {
    if (slot.in_use) continue;
    forget_locked(slot);
    discard_locked(slot);
  }
}

SlotPool::Working::Working(SlotPool& pool) : pool_(pool) {
  const std::lock_guard lock(pool_.mutex_);
  ++pool_.working_;
  pool_.last_work_ = std::chrono::steady_clock::now();
}

SlotPool::Working::~Working() {
  {
    const std::lock_guard lock(pool_.mutex_);
    --pool_.working_;
    pool_.last_work_ = std::chrono::steady_clock::now();
  }
  pool_.released_.notify_all();
}

}  // namespace gpt2fast
