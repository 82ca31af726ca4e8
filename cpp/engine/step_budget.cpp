// How much of a prompt a step may take.
#include "engine/step_budget.h"

#include <algorithm>

namespace gpt2fast {

namespace {

// The weight of a new measurement in the running mean, which covers about ten steps.
constexpr double kWeight = 0.1;

// Prompt tokens in a step while no times are known yet.
constexpr int64_t kFirstTokens = 16;

void update(double& mean, double value) { mean = mean == 0 ? value : mean + kWeight * (value - mean); }

}  // namespace

StepBudget::StepBudget(int64_t max_tokens, double slowdown)
    : max_tokens_(max_tokens),
      slowdown_(slowdown),
      decode_seconds_(static_cast<size_t>(max_tokens) + 1, 0.0) {}

void StepBudget::observe(int64_t decoded, int64_t prompt_tokens, double seconds) {
  if (prompt_tokens == 0) {
    if (decoded > 0) update(decode_seconds_[static_cast<size_t>(std::min(decoded, max_tokens_))], seconds);
    return;
  }
  const double alone = decoded > 0 ? decode_seconds(decoded) : 0;
  if (decoded > 0 && alone == 0) return;
  update(seconds_per_prompt_token_, std::max(0.0, seconds - alone) / static_cast<double>(prompt_tokens));
}

// The time for the nearest number of tokens that was measured.
double StepBudget::decode_seconds(int64_t decoded) const {
  const int64_t wanted = std::min(decoded, max_tokens_);
  for (int64_t distance = 0; distance <= max_tokens_; ++distance) {
    for (const int64_t near : {wanted - distance, wanted + distance}) {
      if (near < 1 || near > max_tokens_) continue;
      const double seconds = decode_seconds_[static_cast<size_t>(near)];
      if (seconds > 0) return seconds;
    }
  }
  return 0;
}

int64_t StepBudget::prompt_tokens(int64_t decoded, int64_t prompts) const {
  const double alone = decode_seconds(decoded + prompts - 1);
  if (alone == 0 || seconds_per_prompt_token_ == 0) return std::min(kFirstTokens, max_tokens_);
  const double tokens = (slowdown_ - 1) * alone / seconds_per_prompt_token_;
  return tokens >= static_cast<double>(max_tokens_) ? max_tokens_
                                                    : std::max<int64_t>(1, static_cast<int64_t>(tokens));
}

}  // namespace gpt2fast
