// A round finds the best continuations of all beams, and splits them into finished hypotheses and beams that
// live on.
#include "decoding/beam_search.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace gpt2fast {
namespace {

BeamSearchOptions checked(const BeamSearchOptions& options, const StopOptions& stop) {
  const auto require = [](bool valid, const char* rule, auto value) {
    if (!valid) throw std::invalid_argument(std::string(rule) + ", got " + std::to_string(value));
  };
  require(options.num_beams >= 1, "num_beams must be at least 1", options.num_beams);
  require(options.num_return_sequences >= 1, "num_return_sequences must be at least 1",
          options.num_return_sequences);
  require(options.num_return_sequences <= options.num_beams, "num_return_sequences must not exceed num_beams",
          options.num_return_sequences);
  require(std::isfinite(options.length_penalty), "length_penalty must be finite", options.length_penalty);
  require(stop.max_new_tokens >= 1, "max_new_tokens must be at least 1 in a beam search",
          stop.max_new_tokens);
  if (!stop.stop_strings.empty() && !stop.token_bytes) {
    throw std::invalid_argument("stop_strings need token_bytes");
  }
  return options;
}

}  // namespace

BeamSearch::BeamSearch(const BeamSearchOptions& options, const StopOptions& stop, int64_t vocab_size)
    : options_(checked(options, stop)),
      stop_(stop),
      vocab_size_(vocab_size),
      beams_(1),
      candidates_(vocab_size) {
  if (!stop.stop_strings.empty()) {
    beams_[0].stop_matcher.emplace(stop.stop_strings, stop.include_stop_string);
  }
}

std::span<const BeamSearch::Extension> BeamSearch::advance(std::span<const float> log_probabilities,
                                                           std::span<const float> reported) {
  extensions_.clear();
  if (done_) return extensions_;
  find_continuations(log_probabilities);
  if (continuations_.empty()) {  // everything is forbidden: the beams end as they are
    end();
    return extensions_;
  }
  ++length_;
  const bool at_limit = length_ == stop_.max_new_tokens;
  // Only the best num_beams continuations may finish; the others keep num_beams beams alive.
  const auto best = std::min(continuations_.size(), static_cast<size_t>(options_.num_beams));
  for (const Continuation& next : std::span(continuations_).first(best)) {
    if (next.ended == FinishReason::kNone && !at_limit) continue;
    const float score = normalized(next.score, length_);
    if (!improves(score)) continue;
    Hypothesis hypothesis{beams_[static_cast<size_t>(next.parent)], score, next.ended};
    append(next, reported, hypothesis);
    finish(std::move(hypothesis));
  }
  const int64_t rows = live_beams();
  if (!at_limit) extend(reported);
  rows_seen_ += rows;
  done_ =
      extensions_.empty() || (full() && options_.early_stopping == EarlyStopping::kTrue) || !can_improve();
  if (done_) extensions_.clear();
  return extensions_;
}

void BeamSearch::end() {
  if (done_) return;
  for (const Beam& beam : beams_) {
    const float score = normalized(beam.score, length_);
    if (improves(score)) finish({beam, score});
  }
  done_ = true;
}

void BeamSearch::find_continuations(std::span<const float> log_probabilities) {
  const auto wanted =
      std::max<size_t>(2, 1 + stop_.eos_token_ids.size()) * static_cast<size_t>(options_.num_beams);
  continuations_.clear();
  for (size_t beam = 0; beam < beams_.size(); ++beam) {
    const auto row =
        log_probabilities.subspan(beam * static_cast<size_t>(vocab_size_), static_cast<size_t>(vocab_size_));
    candidates_.reset(row, 0);
    candidates_.keep_top_k(static_cast<int64_t>(wanted));
    for (int64_t i = 0; i < candidates_.count(); ++i) {
      const int32_t token = candidates_.id(i);
      const float score = row[static_cast<size_t>(token)] + beams_[beam].score;
      if (!std::isfinite(score)) continue;
      continuations_.push_back({score, static_cast<int32_t>(beam), token});
    }
  }
  const auto kept = std::min(wanted, continuations_.size());
  std::partial_sort(continuations_.begin(), continuations_.begin() + static_cast<std::ptrdiff_t>(kept),
                    continuations_.end(), [](const Continuation& a, const Continuation& b) {
                      if (a.score != b.score) return a.score > b.score;
                      return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
                    });
  continuations_.resize(kept);
  for (Continuation& next : continuations_) next.ended = end_of(next);
}

FinishReason BeamSearch::end_of(const Continuation& next) const {
  if (std::ranges::find(stop_.eos_token_ids, next.token) != stop_.eos_token_ids.end())
    return FinishReason::kEos;
  std::optional<StopMatcher> matcher = beams_[static_cast<size_t>(next.parent)].stop_matcher;
  const bool stops = matcher && matcher->feed((*stop_.token_bytes)[next.token]);
  return stops ? FinishReason::kStop : FinishReason::kNone;
}

// Adds the continuation's token to the output of its parent.
void BeamSearch::append(const Continuation& next, std::span<const float> reported, Output& output) const {
  output.tokens.push_back(next.token);
  if (output.stop_matcher) output.stop_matcher->feed((*stop_.token_bytes)[next.token]);
  if (reported.empty()) return;
  output.reported.push_back(reported[static_cast<size_t>(next.parent * vocab_size_ + next.token)]);
  output.rows.push_back(rows_seen_ + next.parent);
}

// Adds a hypothesis to the finished ones if it is better than the worst of them.
void BeamSearch::finish(Hypothesis hypothesis) {
  if (full()) finished_.pop_back();
  const auto place = std::ranges::find_if(
      finished_, [&](const Hypothesis& other) { return other.score < hypothesis.score; });
  finished_.insert(place, std::move(hypothesis));
}

void BeamSearch::extend(std::span<const float> reported) {
  for (const Continuation& next : continuations_) {
    if (next.ended != FinishReason::kNone) continue;
    if (extensions_.size() == static_cast<size_t>(options_.num_beams)) break;
    const size_t index = extensions_.size();
    if (next_beams_.size() <= index) next_beams_.emplace_back();
    next_beams_[index] = beams_[static_cast<size_t>(next.parent)];
    append(next, reported, next_beams_[index]);
    next_beams_[index].score = next.score;
    extensions_.push_back({next.parent, next.token});
  }
  next_beams_.resize(extensions_.size());
  std::swap(beams_, next_beams_);
}

bool BeamSearch::can_improve() const {
  if (!full()) return true;
  const bool longest = options_.early_stopping == EarlyStopping::kNever && options_.length_penalty > 0;
  return normalized(beams_.front().score, longest ? stop_.max_new_tokens : length_) > finished_.back().score;
}

std::vector<BeamSearch::Hypothesis> BeamSearch::results() const {
  const auto count = std::min(finished_.size(), static_cast<size_t>(options_.num_return_sequences));
  return {finished_.begin(), finished_.begin() + static_cast<std::ptrdiff_t>(count)};
}

float BeamSearch::normalized(float score, int64_t length) const {
  if (length == 0) return score;
  return score / static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
}

}  // namespace gpt2fast
