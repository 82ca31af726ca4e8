// A smaller model that drafts one text's next tokens.
#include "engine/assistant.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/draft_writer.h"
#include "engine/engine_state.h"

namespace gpt2fast {

namespace {

// Drafts go first: a text of another engine waits for each.
constexpr int32_t kDraftPriority = 1000;

}  // namespace

Assistant::Assistant(const GenerationOptions& options, uint64_t seed, const EngineOptions& model,
                     int64_t max_length, std::shared_ptr<Waker> waker)
    : state_(options.assistant->state()),
      exchange_(std::make_shared<DraftExchange>(std::move(waker))),
      max_draft_(options.num_assistant_tokens),
      draft_length_(std::min<int64_t>(max_draft_, 4)) {
  const EngineOptions& own = state_->options();
  if (own.vocab_size != model.vocab_size) {
    throw std::invalid_argument("assistant_model has a vocabulary of " + std::to_string(own.vocab_size) +
                                " tokens, the model one of " + std::to_string(model.vocab_size));
  }
  std::vector<std::unique_ptr<Participant>> writers;
  writers.push_back(std::make_unique<DraftWriter>(exchange_, options, seed, own, max_length + max_draft_));
  // Nobody waits for the call itself: the assistant's own thread runs its steps.
  CallOptions call;
  call.priority = kDraftPriority;
  call_ = EngineState::submit_unattended(state_, std::move(writers), call);
}

Assistant::~Assistant() { call_->cancel(); }

void Assistant::request_draft(const TokenHistory& history, int64_t limit) {
  drafted_ = 0;
  exchange_->request(history, std::min(limit, draft_length_));
  if (exchange_->is_drafting()) state_->scheduler().wake();
}

bool Assistant::is_drafting() const { return exchange_->is_drafting(); }

void Assistant::take_draft(std::vector<int32_t>& draft, int64_t limit) {
  exchange_->take(draft);
  draft.resize(std::min(draft.size(), static_cast<size_t>(limit)));
  drafted_ = static_cast<int64_t>(draft.size());
}

void Assistant::accept(int64_t count) {
  draft_length_ =
      count == drafted_ ? std::min(max_draft_, 2 * draft_length_) : std::max<int64_t>(1, count + 1);
}

}  // namespace gpt2fast
