// The continuations of one prompt, read for their log-probabilities.
#include "engine/continuation_reader.h"

#include <algorithm>
#include <utility>

#include "decoding/log_probabilities.h"
#include "engine/admission.h"

namespace gpt2fast {

ContinuationWork::ContinuationWork(ContinuationsRequest wanted)
    : request(std::move(wanted)), scores(request.continuations.size()) {
  skip_single_tokens();
}

int64_t ContinuationWork::take_next() {
  if (next == request.continuations.size()) return -1;
  const auto taken = static_cast<int64_t>(next++);
  skip_single_tokens();
  return taken;
}

int64_t ContinuationWork::length() const {
  size_t longest = 0;
  for (const std::vector<int32_t>& tokens : request.continuations) longest = std::max(longest, tokens.size());
  return static_cast<int64_t>(request.prompt.size() + longest);
}

// What follows a continuation's last token is not wanted: a single one need not be read.
void ContinuationWork::skip_single_tokens() {
  while (next < request.continuations.size() && request.continuations[next].size() == 1) ++next;
}

ContinuationReader::ContinuationReader(std::shared_ptr<ContinuationWork> work, bool first)
    : work_(std::move(work)), first_(first) {}

Admitted ContinuationReader::admit(Admission& admission) {
  if (!first_) {
    if (work_->prompt_slot < 0) return Admitted::kLater;
    slot_ = admission.acquire_empty(work_->length());
    if (slot_ < 0) return Admitted::kNoSlot;
    admission.cache().copy(work_->prompt_slot, slot_, 0, prompt_length());
    cached_length_ = prompt_length();
    return Admitted::kYes;
  }
  const ContinuationsRequest& request = work_->request;
  const Admission::Grant grant =
      admission.acquire(request.prompt, {true, request.prefix_scope}, request.prefix.get(), work_->length());
  if (grant.admitted != Admitted::kYes) return grant.admitted;
  slot_ = grant.slot;
  cached_length_ = grant.cached_length;
  return Admitted::kYes;
}

void ContinuationReader::release(SlotPool& slots) {
  if (slot_ < 0) return;
  const auto kept = static_cast<size_t>(std::min(cached_length_, prompt_length()));
  slots.release(
      std::exchange(slot_, -1),
      first_ ? std::span<const int32_t>(work_->request.prompt).first(kept) : std::span<const int32_t>(),
      work_->request.prefix_scope);
}

bool ContinuationReader::done() const {
  if (ended_) return true;
  return !reads_prompt() && current_ < 0 && work_->next == work_->request.continuations.size();
}

std::span<const int32_t> ContinuationReader::rest() const {
  if (reads_prompt()) {
    return std::span<const int32_t>(work_->request.prompt).subspan(static_cast<size_t>(cached_length_));
  }
  if (current_ < 0) return {};
  const std::vector<int32_t>& tokens = work_->request.continuations[static_cast<size_t>(current_)];
  return std::span<const int32_t>(tokens.begin(), tokens.end() - 1)
      .subspan(static_cast<size_t>(cached_length_ - prompt_length()));
}

int64_t ContinuationReader::pending() {
  if (!reads_prompt() && current_ < 0) {
    current_ = work_->take_next();
    cached_length_ = prompt_length();  // what was read behind the prompt is written over
  }
  return static_cast<int64_t>(rest().size());
}

void ContinuationReader::plan(StepPlan& plan) {
  std::span<const int32_t> tokens = rest();
  const auto count = std::min(plan.room(), static_cast<int64_t>(tokens.size()));
  const bool reaches_end = count == static_cast<int64_t>(tokens.size());
  if (count <= 0 || (reads_prompt() && reaches_end && plan.rows() <= 0)) return;
  tokens = tokens.first(static_cast<size_t>(count));
  if (reads_prompt()) {
    plan.add(slot_, cached_length_, tokens, static_cast<int64_t>(reaches_end));
  } else {
    const std::span<const int32_t> all = work_->request.continuations[static_cast<size_t>(current_)];
    const auto next = static_cast<size_t>(cached_length_ - prompt_length()) + 1;
    plan.add_scored(slot_, cached_length_, tokens, all.subspan(next, tokens.size()));
  }
}

void ContinuationReader::use(const StepResults& results) {
  const PlannedPart& part = results.parts().front();
  if (reads_prompt()) {
    cached_length_ += part.tokens;
    if (part.wanted > 0) use_prompt(results.logits(part.first_row));
    return;
  }
  std::vector<float>& chosen = work_->scores[static_cast<size_t>(current_)].chosen;
  for (int64_t i = 0; i < part.tokens; ++i) chosen.push_back(results.log_probability(part.first_row + i));
  cached_length_ += part.tokens;
  if (rest().empty()) current_ = -1;
}

void ContinuationReader::use_prompt(std::span<const float> logits) {
  const double total = log_sum_exp(logits);
  for (size_t i = 0; i < work_->scores.size(); ++i) {
    const auto first = static_cast<size_t>(work_->request.continuations[i].front());
    work_->scores[i].chosen.push_back(static_cast<float>(static_cast<double>(logits[first]) - total));
  }
  work_->prompt_slot = slot_;
}

}  // namespace gpt2fast
