// Drafts in the assistant's engine.
#include "engine/draft_writer.h"

#include <algorithm>
#include <utility>

#include "engine/admission.h"
#include "engine/common_prefix.h"

namespace gpt2fast {

void DraftExchange::request(const TokenHistory& history, int64_t wanted) {
  const std::lock_guard lock(mutex_);
  draft_.clear();
  if (ended_ || wanted <= 0) return;
  prompt_.assign(history.prompt.begin(), history.prompt.end());
  output_.assign(history.output.begin(), history.output.end());
  wanted_ = wanted;
  drafting_.store(true, std::memory_order_release);
}

void DraftExchange::take(std::vector<int32_t>& draft) {
  const std::lock_guard lock(mutex_);
  draft.assign(draft_.begin(), draft_.end());
}

bool DraftExchange::has_request() const {
  const std::lock_guard lock(mutex_);
  return wanted_ > 0;
}

bool DraftExchange::take_request(std::vector<int32_t>& prompt, std::vector<int32_t>& output,
                                 int64_t& wanted) {
  const std::lock_guard lock(mutex_);
  if (wanted_ == 0) return false;
  prompt.assign(prompt_.begin(), prompt_.end());
  output.assign(output_.begin(), output_.end());
  wanted = std::exchange(wanted_, 0);
  return true;
}

void DraftExchange::deliver(std::span<const int32_t> draft) {
  {
    const std::lock_guard lock(mutex_);
    draft_.assign(draft.begin(), draft.end());
    wanted_ = 0;
    drafting_.store(false, std::memory_order_release);
  }
  requester_->wake();
}

void DraftExchange::end() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  deliver({});
}

DraftWriter::DraftWriter(std::shared_ptr<DraftExchange> exchange, const GenerationOptions& options,
                         uint64_t seed, const EngineOptions& engine, int64_t max_length)
    : exchange_(std::move(exchange)),
      engine_(engine),
      prefix_scope_(options.prefix_scope),
      eos_token_ids_(options.stop.eos_token_ids),
      chooser_(std::make_shared<const SamplingOptions>(options.sampling), seed, eos_token_ids_,
               engine.vocab_size, max_length) {
  cached_.reserve(static_cast<size_t>(engine.n_positions));
  output_.reserve(static_cast<size_t>(max_length));
  text_.reserve(static_cast<size_t>(max_length));
}

void DraftWriter::take_request() {
  if (wanted_ > 0 || !exchange_->take_request(prompt_, output_, wanted_)) return;
  drafted_ = 0;
  text_.assign(prompt_.begin(), prompt_.end());
  text_.insert(text_.end(), output_.begin(), output_.end());
  wanted_ = std::min(wanted_, engine_.n_positions - size());
  if (wanted_ <= 0) return deliver();
  // Keys and values of rejected draft tokens are dropped; at least one token is left to compute.
  cached_.resize(static_cast<size_t>(std::min(common_prefix(cached_, text_), size() - 1)));
}

Admitted DraftWriter::admit(Admission& admission) {
  take_request();
  if (wanted_ <= 0) return Admitted::kLater;
  const Admission::Grant grant =
      admission.acquire(text_, {true, prefix_scope_}, nullptr, engine_.n_positions);
  if (grant.admitted != Admitted::kYes) return grant.admitted;
  slot_ = grant.slot;
  cached_.assign(text_.begin(), text_.begin() + grant.cached_length);
  return Admitted::kYes;
}

// A draft is a convenience: without a free slot there is none.
bool DraftWriter::refused() {
  take_request();
  if (wanted_ > 0) deliver();
  return false;
}

void DraftWriter::release(SlotPool& slots) {
  if (slot_ >= 0) slots.release(std::exchange(slot_, -1), cached_, prefix_scope_);
  cached_.clear();
}

Readiness DraftWriter::readiness() {
  return wanted_ > 0 || exchange_->has_request() ? Readiness::kReady : Readiness::kPaused;
}

int64_t DraftWriter::pending() {
  take_request();
  return wanted_ > 0 ? size() - static_cast<int64_t>(cached_.size()) : 0;
}

void DraftWriter::plan(StepPlan& plan) {
  if (wanted_ <= 0 || plan.room() <= 0) return;
  std::span<const int32_t> tokens = std::span<const int32_t>(text_).subspan(cached_.size());
  const bool reaches_end = static_cast<int64_t>(tokens.size()) <= plan.room();
  if (reaches_end && plan.rows() <= 0) return;
  if (!reaches_end) tokens = tokens.first(static_cast<size_t>(plan.room()));
  plan.add(slot_, static_cast<int64_t>(cached_.size()), tokens, reaches_end ? 1 : 0);
}

void DraftWriter::use(const StepResults& results) {
  const PlannedPart& part = results.parts().front();
  const auto read = text_.begin() + static_cast<std::ptrdiff_t>(cached_.size());
  cached_.insert(cached_.end(), read, read + static_cast<std::ptrdiff_t>(part.tokens));
  if (part.wanted == 0) return;
  const int32_t token = chooser_
                            .choose(results.logits(part.first_row), {prompt_, output_}, nullptr, false,
                                    nullptr, results.maxima(part.first_row))
                            .token;
  if (token == TokenChooser::kNoToken) return deliver();
  output_.push_back(token);
  text_.push_back(token);
  ++drafted_;
  if (--wanted_ == 0) deliver();
}

void DraftWriter::deliver() {
  wanted_ = 0;
  exchange_->deliver(std::span<const int32_t>(output_).last(static_cast<size_t>(std::exchange(drafted_, 0))));
}

void DraftWriter::end(FinishReason) {
  done_ = true;
  exchange_->end();
}

}  // namespace gpt2fast
