// How much of a prompt a step may take while texts are being streamed, by the times that steps take.
#pragma once

#include <cstdint>
#include <vector>

namespace gpt2fast {

class StepBudget {
 public:
  // max_tokens: of a step. slowdown (>= 1): by what factor prompts may lengthen a step.
  StepBudget(int64_t max_tokens, double slowdown);

  // A step of so many tokens of texts being decoded, and so many of prompts, took so long.
  void observe(int64_t decoded, int64_t prompt_tokens, double seconds);

  // Prompt tokens for a step beside so many tokens of texts being decoded; at least 1, so that prompts are
  // read at all.
  int64_t prompt_tokens(int64_t decoded) const;

  // How long so many tokens of prompts take; 0: not known.
  double prompt_seconds(int64_t tokens) const {
    return seconds_per_prompt_token_ * static_cast<double>(tokens);
  }

 private:
  double decode_seconds(int64_t decoded) const;

  const int64_t max_tokens_;
  const double slowdown_;
  // Of a step of so many decoded tokens alone; 0: not known. Index 0 is not used.
  std::vector<double> decode_seconds_;
  double seconds_per_prompt_token_ = 0;  // 0: not known
};

}  // namespace gpt2fast
