// How much of a prompt a step may take.
#include "engine/step_budget.h"

#include <algorithm>
#include <cmath>

namespace gpt2fast {

namespace {

// The weight of a new measurement in the running mean, which covers about ten steps.
constexpr double kWeight = 0.1;

// A step that something else held up counts as this many times as long as was expected, at most: steps
// without prompts are rare while prompts keep arriving, and one such step would lengthen many others.
constexpr double kMostTimes = 1.5;

// 19 of 20 steps are longer than expected by at most so many mean deviations, if their times are distributed
// normally.
constexpr double kDeviations = 2;

// Prompt tokens in a step while no times are known yet.
constexpr int64_t kFirstTokens = 16;

void update(double& mean, double value) { mean = mean == 0 ? value : mean + kWeight * (value - mean); }

// `expected` 0: not known.
double at_most_times(double expected, double seconds) {
  return expected > 0 ? std::min(seconds, kMostTimes * expected) : seconds;
}

}  // namespace

StepBudget::StepBudget(int64_t max_tokens, double slowdown)
    : max_tokens_(max_tokens),
      slowdown_(slowdown),
      decode_seconds_(static_cast<size_t>(max_tokens) + 1, 0.0) {}

void StepBudget::observe(int64_t decoded, int64_t prompt_tokens, double seconds) {
  if (prompt_tokens == 0) {
    if (decoded == 0) return;
    double& mean = decode_seconds_[static_cast<size_t>(std::min(decoded, max_tokens_))];
    update(mean, at_most_times(mean, seconds));
    return;
  }
  const Measured alone = decoded > 0 ? nearest(decoded) : Measured();
  if (decoded > 0 && alone.seconds == 0) return;
  const int64_t more = prompt_tokens + std::max<int64_t>(0, decoded - alone.decoded);
  if (seconds_per_prompt_token_ > 0) {
    const double expected = alone.seconds + prompt_seconds(more);
    seconds = at_most_times(expected, seconds);
    if (decoded > 0) deviation_ += kWeight * (std::abs(seconds - expected) / expected - deviation_);
  }
  update(seconds_per_prompt_token_, std::max(0.0, seconds - alone.seconds) / static_cast<double>(more));
}

// Tokens more than were ever decoded at once take as long as tokens of prompts. While prompts keep arriving,
// no step without them tells, and counted as nothing they would make prompt tokens seem ever slower.
double StepBudget::decode_seconds(int64_t decoded) const {
  const Measured measured = nearest(decoded);
  if (measured.seconds == 0) return 0;
  return measured.seconds + prompt_seconds(std::max<int64_t>(0, decoded - measured.decoded));
}

StepBudget::Measured StepBudget::nearest(int64_t decoded) const {
  const int64_t wanted = std::min(decoded, max_tokens_);
  for (int64_t distance = 0; distance <= max_tokens_; ++distance) {
    for (const int64_t near : {wanted - distance, wanted + distance}) {
      if (near < 1 || near > max_tokens_) continue;
      const double seconds = decode_seconds_[static_cast<size_t>(near)];
      if (seconds > 0) return {near, seconds};
    }
  }
  return {};
}

int64_t StepBudget::prompt_tokens(int64_t decoded, int64_t prompts) const {
  const double alone = decode_seconds(decoded + prompts - 1);
  if (alone == 0 || seconds_per_prompt_token_ == 0) return std::min(kFirstTokens, max_tokens_);
  const double aim = slowdown_ / (1 + kDeviations * deviation_);
  const double tokens = (aim - 1) * alone / seconds_per_prompt_token_;
  return tokens >= static_cast<double>(max_tokens_) ? max_tokens_
                                                    : std::max<int64_t>(1, static_cast<int64_t>(tokens));
}

}  // namespace gpt2fast
