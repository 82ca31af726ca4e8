// How much of a prompt a step may take while texts are being streamed, by the times that steps take.
#pragma once

#include <cstdint>
#include <vector>

namespace gpt2fast {

class StepBudget {
 public:
  // max_tokens: the most tokens of a step. slowdown (>= 1): the factor by which prompts may lengthen a step,
  // but for one in twenty.
  StepBudget(int64_t max_tokens, double slowdown);

  // Records how long a step of this many decoded tokens and prompt tokens took.
  void observe(int64_t decoded, int64_t prompt_tokens, double seconds);

  // How many tokens of so many prompts a step may have beside this many decoded tokens; at least 1, so that
  // prompts make progress. All prompts but one count as if they were being decoded, as they soon will be:
  // otherwise a crowd that comes at once would be read bit by bit beside the first of it to be done.
  int64_t prompt_tokens(int64_t decoded, int64_t prompts = 1) const;

  // How long this many prompt tokens take; 0: not known.
  double prompt_seconds(int64_t tokens) const {
    return seconds_per_prompt_token_ * static_cast<double>(tokens);
  }

 private:
  // A number of tokens that were decoded in one step, and the time of such steps; 0: none is known.
  struct Measured {
    int64_t decoded = 0;
    double seconds = 0;
  };

  Measured nearest(int64_t decoded) const;
  double decode_seconds(int64_t decoded) const;

  const int64_t max_tokens_;
  const double slowdown_;
  // Seconds of a step by its number of decoded tokens, without prompts; 0: not known. Index 0 is not used.
  std::vector<double> decode_seconds_;
  double seconds_per_prompt_token_ = 0;  // 0: not known
  // By what part steps with decoded tokens and prompts differ from what was expected, in the mean.
  double deviation_ = 0;
};

}  // namespace gpt2fast
