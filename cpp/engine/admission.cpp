// How a text gets its slot.
#include "engine/admission.h"

#include <algorithm>

#include "engine/common_prefix.h"

namespace gpt2fast {

namespace {

// A prefix shared with a text that is still reading its prompt is worth waiting for from this length on.
constexpr int64_t kMinSharedPrefix = 16;

}  // namespace

Admission::Grant Admission::acquire(std::span<const int32_t> tokens, Sharing sharing, const Prefix* prefix,
                                    int64_t length) {
  if (slots_.free() == 0) return {};
  const auto most = static_cast<int64_t>(tokens.size()) - 1;
  SlotContents donor;
  int64_t donated = 0;
  for (Participant* other : sharing.reuses ? std::span(live_) : std::span<Participant* const>()) {
    if (other->readiness() == Readiness::kAway) continue;
    const SlotContents held = other->contents();
    if (held.slot < 0 || held.scope != sharing.scope) continue;
    const int64_t shared = std::min(common_prefix(held.tokens, tokens), most);
    if (shared >= kMinSharedPrefix && held.cached_length < shared &&
        other->readiness() == Readiness::kReady) {
      return {.admitted = Admitted::kLater};
    }
    if (std::min(shared, held.cached_length) > donated) {
      donor = held;
      donated = std::min(shared, held.cached_length);
    }
  }
  const SlotPool::Grant idle = slots_.acquire(tokens, sharing, length);
  Grant grant{Admitted::kYes, idle.slot, idle.cached_length};
  if (donated > grant.cached_length) {
    cache_.copy(donor.slot, grant.slot, grant.cached_length, donated);
    grant.cached_length = donated;
  }
  if (sharing.reuses) {
    queries_ += static_cast<int64_t>(tokens.size());
    hits_ += grant.cached_length;
  }
  if (prefix != nullptr) grant.cached_length = restore(*prefix, tokens, grant.slot, grant.cached_length);
  return grant;
}

int64_t Admission::restore(const Prefix& prefix, std::span<const int32_t> tokens, int64_t slot,
                           int64_t cached_length) {
  const int64_t length =
      std::min(common_prefix(prefix.tokens, tokens), static_cast<int64_t>(tokens.size()) - 1);
  if (length <= cached_length) return cached_length;
  const CacheShape& shape = cache_.shape();
  const auto stored = static_cast<int64_t>(prefix.tokens.size());
  for (int64_t layer = 0; layer < cache_.layers(); ++layer) {
    const float* keys = prefix.layers[static_cast<size_t>(layer)].data();
    cache_.restore(layer, slot, length, stored, keys, keys + stored * shape.heads * shape.head_dim);
  }
  return length;
}

}  // namespace gpt2fast
