// A smaller model that drafts one sequence's next tokens.
#include "engine/assistant.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/common_prefix.h"
#include "engine/engine.h"

namespace gpt2fast {

Assistant::Assistant(const Request& request, const EngineOptions& options, int64_t max_length)
    : engine_(std::dynamic_pointer_cast<EngineImpl>(request.assistant)),
      chooser_(request.sampling, request.stop.eos_token_ids, options.vocab_size,
               max_length + request.num_assistant_tokens),
      max_draft_(request.num_assistant_tokens),
      draft_length_(std::min<int64_t>(max_draft_, 4)) {
  const int64_t vocabulary = engine_->options().vocab_size;
  if (vocabulary != options.vocab_size) {
    throw std::invalid_argument("assistant_model has a vocabulary of " + std::to_string(vocabulary) +
                                " tokens, the model one of " + std::to_string(options.vocab_size));
  }
  cached_.reserve(static_cast<size_t>(engine_->options().n_positions));
  output_.reserve(static_cast<size_t>(max_length + max_draft_));
}

Assistant::~Assistant() { release_slot(); }

void Assistant::release_slot() {
  if (slot_ >= 0) engine_->pool().release(std::exchange(slot_, -1), cached_);
  cached_.clear();
}

std::span<const int32_t> Assistant::propose(const TokenHistory& history, int64_t limit,
                                            const InterruptCheck& stop) {
  drafted_ = 0;
  const int64_t room = engine_->options().n_positions - history.size();
  const int64_t wanted = std::min({limit, draft_length_, room});
  if (wanted <= 0) return {};
  const SlotPool::Working working(engine_->pool());
  if (slot_ < 0) {
    // The draft is a convenience: without a free slot there is none.
    const SlotPool::Grant grant = engine_->pool().try_acquire(history.prompt, true);
    if (grant.slot < 0) return {};
    slot_ = grant.slot;
    cached_.assign(history.prompt.begin(), history.prompt.begin() + grant.cached_length);
  }
  keep_agreeing(history);
  output_.assign(history.output.begin(), history.output.end());
  for (; drafted_ < wanted; ++drafted_) {
    const int32_t token = draft_one({history.prompt, output_}, stop);
    if (token == TokenChooser::kNoToken) break;
    output_.push_back(token);
  }
  return std::span<const int32_t>(output_).last(static_cast<size_t>(drafted_));
}

// Forgets what the slot holds of a draft that was not taken; one token at least is left to compute.
void Assistant::keep_agreeing(const TokenHistory& history) {
  const auto prompt = static_cast<int64_t>(history.prompt.size());
  int64_t agreeing = common_prefix(cached_, history.prompt);
  if (agreeing == prompt) {
    agreeing +=
        common_prefix(std::span<const int32_t>(cached_).subspan(history.prompt.size()), history.output);
  }
  cached_.resize(static_cast<size_t>(std::min(agreeing, history.size() - 1)));
}

// Brings the slot up to date with the history and chooses what follows it.
int32_t Assistant::draft_one(const TokenHistory& history, const InterruptCheck& stop) {
  Stepper& stepper = engine_->stepper();
  while (static_cast<int64_t>(cached_.size()) < history.size()) {
    const size_t known = cached_.size();
    const int64_t count = std::min(history.size() - static_cast<int64_t>(known), stepper.max_tokens());
    for (int64_t i = 0; i < count; ++i) cached_.push_back(history[static_cast<int64_t>(known) + i]);
    const auto last = static_cast<int32_t>(count) - 1;
    const bool reaches_end = static_cast<int64_t>(cached_.size()) == history.size();
    const StepPart part{slot_, static_cast<int64_t>(known), std::span<const int32_t>(cached_).subspan(known),
                        reaches_end ? std::span(&last, 1) : std::span<const int32_t>()};
    const std::lock_guard lock(stepper.mutex());
    try {
      stepper.step({&part, 1}, stop);
    } catch (...) {
      cached_.resize(known);
      throw;
    }
    if (reaches_end)
      return chooser_.choose(stepper.logits(0), history, nullptr, false, nullptr, stepper.maxima(0)).token;
  }
  return TokenChooser::kNoToken;
}

void Assistant::accept(int64_t count) {
  draft_length_ =
      count == drafted_ ? std::min(max_draft_, 2 * draft_length_) : std::max<int64_t>(1, count + 1);
}

}  // namespace gpt2fast
