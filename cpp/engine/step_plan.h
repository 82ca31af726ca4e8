// A step while it is planned, and its results while they are used: which rows belong to whom.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/step_runner.h"

namespace gpt2fast {

// A part of the step, and where its results lie.
struct PlannedPart {
  int64_t slot = 0;
  int64_t tokens = 0;
  int64_t wanted = 0;
  int64_t first_token = 0;   // in the step
  int64_t first_row = 0;     // in the step's logits, or in its scored tokens
  int64_t first_hidden = 0;  // in the step's hidden states
};

// Holds copies of all that the parts refer to, in memory that is allocated once.
class StepPlan {
 public:
  StepPlan(int64_t max_tokens, int64_t max_rows, int64_t max_parts)
      : max_tokens_(max_tokens), max_rows_(max_rows), max_parts_(max_parts) {
    tokens_.reserve(static_cast<size_t>(max_tokens));
    wanted_.reserve(static_cast<size_t>(std::max(max_tokens, max_rows)));
    scored_.reserve(static_cast<size_t>(max_tokens));
    parts_.reserve(static_cast<size_t>(max_parts));
    planned_.reserve(static_cast<size_t>(max_parts));
  }

  void clear() {
    tokens_.clear();
    wanted_.clear();
    scored_.clear();
    parts_.clear();
    planned_.clear();
    room_ = 0;
    rows_ = 0;
    logits_rows_ = 0;
    hidden_rows_ = 0;
  }

  bool empty() const { return parts_.empty(); }
  std::span<const StepPart> parts() const { return parts_; }
  std::span<const PlannedPart> planned() const { return planned_; }
  int64_t tokens() const { return static_cast<int64_t>(tokens_.size()); }

  // Tokens, rows of logits and parts that the participant being planned may add.
  int64_t room() const { return room_; }
  int64_t rows() const { return rows_; }
  int64_t parts_left() const { return max_parts_ - static_cast<int64_t>(parts_.size()); }

  // Leaves the next participant at most `tokens`, and keeps some tokens and rows back for others.
  void open(int64_t tokens, int64_t kept_back) {
    room_ = std::max<int64_t>(0, std::min(tokens, max_tokens_ - this->tokens() - kept_back));
    rows_ = std::max<int64_t>(0, max_rows_ - logits_rows_ - kept_back);
  }

  // Adds a part of at most room() tokens, `drafts` behind `tokens`, whose last `wanted` tokens' logits are
  // wanted.
  void add(int64_t slot, int64_t cached_length, std::span<const int32_t> tokens, int64_t wanted,
           std::span<const int32_t> drafts = {}) {
    const size_t first_wanted = wanted_.size();
    want_last(static_cast<int64_t>(tokens.size() + drafts.size()), wanted);
    add_part(slot, cached_length, tokens, drafts, first_wanted);
  }

  // Adds a part whose wanted tokens are listed, ascending.
  void add_wanted(int64_t slot, int64_t cached_length, std::span<const int32_t> tokens,
                  std::span<const int32_t> wanted) {
    const size_t first_wanted = wanted_.size();
    wanted_.insert(wanted_.end(), wanted.begin(), wanted.end());
    add_part(slot, cached_length, tokens, {}, first_wanted);
  }

  // Adds a part that wants log-probabilities alone, for which it needs no rows: scored[i] is the token that
  // follows the i-th of the last scored.size() tokens.
  void add_scored(int64_t slot, int64_t cached_length, std::span<const int32_t> tokens,
                  std::span<const int32_t> scored) {
    const size_t first_wanted = wanted_.size();
    const size_t first_scored = scored_.size();
    want_last(static_cast<int64_t>(tokens.size()), static_cast<int64_t>(scored.size()));
    scored_.insert(scored_.end(), scored.begin(), scored.end());
    StepPart& part = add_tokens(slot, cached_length, tokens, {}, first_wanted);
    part.scored = std::span<const int32_t>(scored_).subspan(first_scored);
    planned_.back().first_row = static_cast<int64_t>(first_scored);
  }

  // Adds a part that wants every token's hidden state, or also those before each layer, and no logits.
  void add_hidden(int64_t slot, int64_t cached_length, std::span<const int32_t> tokens, bool layer_inputs) {
    StepPart& part = add_tokens(slot, cached_length, tokens, {}, wanted_.size());
    part.all_hidden = true;
    part.layer_inputs = layer_inputs;
    planned_.back().first_hidden = hidden_rows_;
    hidden_rows_ += static_cast<int64_t>(tokens.size());
  }

 private:
  void want_last(int64_t tokens, int64_t wanted) {
    for (int64_t i = tokens - wanted; i < tokens; ++i) wanted_.push_back(static_cast<int32_t>(i));
  }

  // Adds a part with the logits and hidden states of what is wanted of it.
  void add_part(int64_t slot, int64_t cached_length, std::span<const int32_t> tokens,
                std::span<const int32_t> drafts, size_t first_wanted) {
    const auto rows =
        static_cast<int64_t>(add_tokens(slot, cached_length, tokens, drafts, first_wanted).wanted.size());
    planned_.back().first_row = logits_rows_;
    planned_.back().first_hidden = hidden_rows_;
    logits_rows_ += rows;
    hidden_rows_ += rows;
    rows_ -= rows;
  }

  StepPart& add_tokens(int64_t slot, int64_t cached_length, std::span<const int32_t> tokens,
                       std::span<const int32_t> drafts, size_t first_wanted) {
    const size_t first_token = tokens_.size();
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    tokens_.insert(tokens_.end(), drafts.begin(), drafts.end());
    const std::span<const int32_t> all = std::span<const int32_t>(tokens_).subspan(first_token);
    const std::span<const int32_t> wanted = std::span<const int32_t>(wanted_).subspan(first_wanted);
    const auto count = static_cast<int64_t>(all.size());
    planned_.push_back({.slot = slot,
                        .tokens = count,
                        .wanted = static_cast<int64_t>(wanted.size()),
                        .first_token = static_cast<int64_t>(first_token)});
    room_ -= count;
    parts_.push_back({.slot = slot, .cached_length = cached_length, .tokens = all, .wanted = wanted});
    return parts_.back();
  }

  int64_t max_tokens_;
  int64_t max_rows_;
  int64_t max_parts_;
  int64_t room_ = 0;
  int64_t rows_ = 0;
  int64_t logits_rows_ = 0;
  int64_t hidden_rows_ = 0;      // those of scored parts come behind them
  std::vector<int32_t> tokens_;  // of all parts
  std::vector<int32_t> wanted_;  // of all parts, one after another
  std::vector<int32_t> scored_;
  std::vector<StepPart> parts_;
  std::vector<PlannedPart> planned_;  // for each part
};

// What a step computed for one participant.
class StepResults {
 public:
  StepResults(const StepRunner& runner, std::span<const PlannedPart> parts)
      : runner_(runner), parts_(parts) {}

  // In the order in which the participant added them.
  std::span<const PlannedPart> parts() const { return parts_; }
  std::span<const float> logits(int64_t row) const { return runner_.logits(row); }
  float log_probability(int64_t row) const { return runner_.log_probability(row); }
  std::span<const float> maxima(int64_t row) const { return runner_.maxima(row); }
  std::span<const float> hidden(int64_t row) const { return runner_.hidden(row); }
  std::span<const float> layer_input(int64_t layer, int64_t first, int64_t tokens) const {
    return runner_.layer_input(layer, first, tokens);
  }

 private:
  const StepRunner& runner_;
  std::span<const PlannedPart> parts_;
};

}  // namespace gpt2fast
