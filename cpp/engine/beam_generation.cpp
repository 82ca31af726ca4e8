// A search with beams over slots.
#include "engine/beam_generation.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/admission.h"
#include "engine/common_prefix.h"
#include "engine/live_sequence.h"

namespace gpt2fast {

namespace {

Request checked(Request request, const GenerationOptions& generation, const EngineOptions& options) {
  check_token_ids(request.prompt, options.vocab_size);
  const int64_t wanted = generation.stop.max_new_tokens;
  if (wanted < 1) throw std::invalid_argument("max_new_tokens must be at least 1 for beams");
  const int64_t total = static_cast<int64_t>(request.prompt.size()) + wanted;
  if (total - 1 > options.n_positions) {  // the last token is not read
    throw std::invalid_argument("prompt and max_new_tokens together (" + std::to_string(total) +
                                ") exceed the model's context window of " +
                                std::to_string(options.n_positions));
  }
  if (generation.num_beams > options.max_sequences) {
    throw std::invalid_argument("num_beams (" + std::to_string(generation.num_beams) +
                                ") must not exceed max_sequences (" + std::to_string(options.max_sequences) +
                                "), with which the model was loaded");
  }
  return request;
}

}  // namespace

BeamGeneration::BeamGeneration(Request request, std::shared_ptr<const GenerationOptions> generation,
                               const EngineOptions& options)
    : request_(checked(std::move(request), *generation, options)),
      generation_(std::move(generation)),
      vocabulary_(static_cast<size_t>(options.vocab_size)),
      processors_(generation_->sampling, generation_->stop.eos_token_ids, options.vocab_size,
                  static_cast<int64_t>(request_.prompt.size()) + generation_->stop.max_new_tokens),
      search_({.num_beams = generation_->num_beams,
               .num_return_sequences = generation_->num_return_sequences,
               .length_penalty = generation_->length_penalty,
               .early_stopping = generation_->early_stopping},
              generation_->stop, options.vocab_size, request_.prompt) {}

Admitted BeamGeneration::admit(Admission& admission) {
  if (admission.free_slots() < slots_needed()) return Admitted::kNoSlot;
  cache_ = &admission.cache();
  const int64_t length = static_cast<int64_t>(request_.prompt.size()) + generation_->stop.max_new_tokens;
  slots_.reserve(static_cast<size_t>(slots_needed()));
  while (static_cast<int64_t>(slots_.size()) < slots_needed()) {
    std::vector<int32_t> tokens;
    tokens.reserve(static_cast<size_t>(length));
    slots_.push_back({admission.acquire_empty(length), std::move(tokens)});
  }
  if (generation_->logprobs > 0)
    top_logprobs_.emplace(static_cast<int64_t>(vocabulary_), generation_->logprobs);
  return Admitted::kYes;
}

void BeamGeneration::release(SlotPool& slots) {
  for (const BeamSlot& held : std::exchange(slots_, {})) slots.release(held.slot, {});
  log_probabilities_ = {};
  own_log_probabilities_ = {};
  top_logprobs_.reset();
}

int64_t BeamGeneration::pending() {
  return reads_prompt() ? static_cast<int64_t>(request_.prompt.size()) - length() : 1;
}

void BeamGeneration::plan(StepPlan& plan) {
  if (reads_prompt()) {
    std::span<const int32_t> tokens = std::span(request_.prompt).subspan(static_cast<size_t>(length()));
    const bool reaches_end = static_cast<int64_t>(tokens.size()) <= plan.room();
    if (plan.room() <= 0 || (reaches_end && plan.rows() <= 0)) return;
    if (!reaches_end) tokens = tokens.first(static_cast<size_t>(plan.room()));
    plan.add(slots_[0].slot, length(), tokens, reaches_end ? 1 : 0);
    return;
  }
  const auto beams = static_cast<int64_t>(extensions_.size());
  if (std::min({plan.room(), plan.rows(), plan.parts_left()}) < beams) return;
  for (size_t i = 0; i < extensions_.size(); ++i) {
    plan.add(slots_[i].slot, length(), {&extensions_[i].token, 1}, 1);
  }
}

void BeamGeneration::note_tokens(std::span<const PlannedPart> parts) {
  if (!reads_prompt()) {
    for (size_t i = 0; i < parts.size(); ++i) slots_[i].tokens.push_back(extensions_[i].token);
    return;
  }
  const std::span<const int32_t> read =
      std::span<const int32_t>(request_.prompt)
          .subspan(static_cast<size_t>(length()), static_cast<size_t>(parts[0].tokens));
  slots_[0].tokens.insert(slots_[0].tokens.end(), read.begin(), read.end());
}

// The step's logits become processed log-probabilities, in the order that transformers has.
void BeamGeneration::use(const StepResults& results) {
  const std::span<const PlannedPart> parts = results.parts();
  note_tokens(parts);
  if (parts[0].wanted == 0) return;
  log_probabilities_.resize(parts.size() * vocabulary_);
  own_log_probabilities_.clear();
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::span scores = std::span(log_probabilities_).subspan(i * vocabulary_, vocabulary_);
    const std::span<const float> logits = results.logits(parts[i].first_row);
    log_softmax(logits, scores);
    if (wants_logprobs()) {
      own_log_probabilities_.insert(own_log_probabilities_.end(), scores.begin(), scores.end());
      record_likeliest(logits);
    }
    processors_.apply(scores, {request_.prompt, search_.tokens(static_cast<int32_t>(i))}, nullptr);
  }
  const std::span<const BeamSearch::Extension> extensions =
      search_.advance(log_probabilities_, own_log_probabilities_);
  if (search_.done()) return;
  extensions_.assign(extensions.begin(), extensions.end());
  move_beams();
}

void BeamGeneration::record_likeliest(std::span<const float> logits) {
  if (!top_logprobs_) return;
  const size_t end = top_ids_.size() + static_cast<size_t>(generation_->logprobs);
  for (const TokenLogprob& best : top_logprobs_->find(logits)) {
    top_ids_.push_back(best.token);
    top_values_.push_back(best.logprob);
  }
  top_ids_.resize(end, -1);  // fewer are found where logits are -infinity
  top_values_.resize(end, -std::numeric_limits<float>::infinity());
}

Logprobs BeamGeneration::logprobs_of(BeamSearch::Hypothesis& hypothesis) const {
  Logprobs logprobs{.chosen = std::move(hypothesis.reported), .top_ids = {}, .top_values = {}};
  const int64_t k = std::max(generation_->logprobs, 0);
  for (const int64_t row : hypothesis.rows) {
    logprobs.top_ids.insert(logprobs.top_ids.end(), top_ids_.begin() + row * k,
                            top_ids_.begin() + (row + 1) * k);
    logprobs.top_values.insert(logprobs.top_values.end(), top_values_.begin() + row * k,
                               top_values_.begin() + (row + 1) * k);
  }
  return logprobs;
}

// Lets slots_[i] hold what beam i continues. A beam's first continuation stays in its slot; only further ones
// are copied, to the slots of beams that nothing continues, and only what these do not hold already: beams
// have their beginning in common.
void BeamGeneration::move_beams() {
  constexpr size_t kNowhere = SIZE_MAX;
  std::vector<size_t> places(extensions_.size(), kNowhere);  // of the new beams, in slots_
  std::vector<bool> taken(slots_.size(), false);
  for (size_t i = 0; i < extensions_.size(); ++i) {
    const auto parent = static_cast<size_t>(extensions_[i].parent);
    if (!taken[parent]) places[i] = parent;
    taken[parent] = true;
  }
  std::vector<size_t> free;
  for (size_t place = 0; place < slots_.size(); ++place) {
    if (!taken[place]) free.push_back(place);
  }
  for (size_t i = 0; i < extensions_.size(); ++i) {
    if (places[i] != kNowhere) continue;
    places[i] = free.back();
    free.pop_back();
    copy_beam(slots_[static_cast<size_t>(extensions_[i].parent)], slots_[places[i]]);
  }
  places.insert(places.end(), free.begin(), free.end());
  std::vector<BeamSlot> moved;
  moved.reserve(slots_.size());
  for (const size_t place : places) moved.push_back(std::move(slots_[place]));
  slots_ = std::move(moved);
}

void BeamGeneration::copy_beam(const BeamSlot& from, BeamSlot& to) {
  const auto length = static_cast<int64_t>(from.tokens.size());
  cache_->copy(from.slot, to.slot, common_prefix(from.tokens, to.tokens), length);
  to.tokens.assign(from.tokens.begin(), from.tokens.end());
}

void BeamGeneration::end(FinishReason reason) {
  end_reason_ = reason;
  search_.end();
}

std::vector<TextResult> BeamGeneration::results() const {
  std::vector<TextResult> results;
  for (BeamSearch::Hypothesis& best : search_.results()) {
    TextResult result;
    result.tokens = std::move(best.tokens);
    result.finish_reason = best.ended == FinishReason::kNone ? end_reason_ : best.ended;
    if (best.stop_matcher) result.kept_bytes = best.stop_matcher->kept_bytes();
    result.logprobs = logprobs_of(best);
    result.score = best.score;
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace gpt2fast
