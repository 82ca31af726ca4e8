// Proposals by the longest agreement with an earlier position, as in LZ77's search.
#include "decoding/prompt_lookup.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace gpt2fast {
namespace {

constexpr int64_t kLeastAgreement = 2;
constexpr int64_t kMostAgreement = 12;  // longer agreements count the same
constexpr int64_t kFirstDraft = 4;
constexpr int kPlaces = 16;  // the most earlier positions that are compared

// Time, in parts of a plain step. A draft token lengthens a step by an eighth where the kernels profit least.
constexpr int64_t kStep = 64;
constexpr int64_t kTokenCost = 8;
constexpr int64_t kStepAllowance = 1;  // for trials: 1.6 % of the time

}  // namespace

PromptLookup::PromptLookup(int32_t max_draft, int64_t max_length)
    : max_length_(static_cast<size_t>(std::max<int64_t>(max_length, 0))),
      draft_(static_cast<size_t>(std::max(max_draft, 0))),
      draft_length_(std::min<int64_t>(max_draft, kFirstDraft)),
      needed_agreement_(kLeastAgreement),
      budget_(kStep) {
  if (max_draft < 0) {
    throw std::invalid_argument("prompt_lookup_num_tokens must not be negative, got " +
                                std::to_string(max_draft));
  }
  if (max_length < 0)
    throw std::invalid_argument("max_length must not be negative, got " + std::to_string(max_length));
  tokens_.reserve(max_length_);
  previous_.reserve(max_length_);
  latest_.assign(std::bit_ceil(2 * max_length_ + 1), -1);
}

void PromptLookup::append(std::span<const int32_t> tokens) {
  if (tokens.size() > max_length_ - tokens_.size()) {
    throw std::length_error("prompt lookup was made for " + std::to_string(max_length_) +
                            " tokens, got more");
  }
  for (int32_t token : tokens) {
    // The pair before this token is entered now that its next token is known.
    const size_t position = tokens_.size();
    int32_t before = -1;
    if (position >= 2) {
      int32_t& latest = latest_[bucket(tokens_[position - 2], tokens_[position - 1])];
      before = latest;
      latest = static_cast<int32_t>(position);
    }
    previous_.push_back(before);
    tokens_.push_back(token);
  }
}

std::span<const int32_t> PromptLookup::propose(int64_t limit) {
  proposed_ = 0;
  budget_ += kStepAllowance;
  const int64_t wanted = std::min({draft_length_, limit, budget_ / kTokenCost});
  if (wanted <= 0 || tokens_.size() < 2) return {};
  const Match match = find_match();
  if (match.length < needed_agreement_) return {};
  const int64_t known = static_cast<int64_t>(tokens_.size()) - match.next;
  for (int64_t i = 0; i < wanted; ++i) {  // beyond the last token, the draft repeats itself
    draft_[static_cast<size_t>(i)] =
        i < known ? tokens_[static_cast<size_t>(match.next + i)] : draft_[static_cast<size_t>(i - known)];
  }
  proposed_ = wanted;
  return std::span(draft_).first(static_cast<size_t>(wanted));
}

void PromptLookup::accept(int64_t count) {
  if (proposed_ == 0) return;
  if (count == 0) {
    needed_agreement_ = std::min(needed_agreement_ + 1, kMostAgreement);
  } else {
    needed_agreement_ = kLeastAgreement;
  }
  // What was gained pays for one draft of full length, not for more: the text may change.
  const int64_t most = std::max(kStep, kTokenCost * static_cast<int64_t>(draft_.size()));
  budget_ = std::min(budget_ + kStep * count - kTokenCost * proposed_, most);
  const int64_t length = count == proposed_ ? 2 * draft_length_ : count + 1;
  draft_length_ = std::min(length, static_cast<int64_t>(draft_.size()));
  proposed_ = 0;
}

PromptLookup::Match PromptLookup::find_match() const {
  const auto size = static_cast<int64_t>(tokens_.size());
  Match best;
  int32_t place = latest_[bucket(tokens_[tokens_.size() - 2], tokens_.back())];
  for (int looked = 0; place >= 0 && looked < kPlaces;
       ++looked, place = previous_[static_cast<size_t>(place)]) {
    int64_t length = 0;
    const int64_t most = std::min<int64_t>(place, kMostAgreement);
    while (length < most && tokens_[static_cast<size_t>(place - 1 - length)] ==
                                tokens_[static_cast<size_t>(size - 1 - length)]) {
      ++length;
    }
    if (length > best.length) best = {place, length};
    if (length == kMostAgreement) break;
  }
  return best;
}

size_t PromptLookup::bucket(int32_t first, int32_t second) const {
  const uint64_t pair = uint64_t{static_cast<uint32_t>(first)} << 32 | static_cast<uint32_t>(second);
  return static_cast<size_t>(pair * 0x9E3779B97F4A7C15u >> 32) & (latest_.size() - 1);
}

}  // namespace gpt2fast
