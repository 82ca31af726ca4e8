// Log-probabilities under the softmax of raw logits, in vectorised passes that never sort a vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decoding/candidates.h"

namespace gpt2fast {

// Returns log(sum(exp(logits))). Throws std::runtime_error when a logit is NaN or +infinity.
double log_sum_exp(std::span<const float> logits);

// Writes log_probabilities[i] = logits[i] - log_sum_exp(logits); the two may be the same array.
void log_softmax(std::span<const float> logits, std::span<float> log_probabilities);

inline float log_probability(std::span<const float> logits, int32_t token) {
  return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) - log_sum_exp(logits));
}

// A row of logits of which only sums are left, see OutputSums.
struct SummedLogits {
  float wanted;                   // one token's logit
  std::span<const float> maxima;  // of each block
  std::span<const float> sums;
};

// The wanted token's: the same bits as from the row itself.
float log_probability(const SummedLogits& logits);

struct TokenLogprob {
  int32_t token;
  float logprob;
};

// Finds the k most probable tokens, best first, the lower id first among equals. All buffers are allocated at
// construction.
class TopLogprobs {
 public:
  TopLogprobs(int64_t vocab_size, int32_t k);

  // Returns min(k, vocab_size) entries, fewer if too many logits are -infinity. Valid until the next call.
  std::span<const TokenLogprob> find(std::span<const float> logits);
  // Of a token that has this logit among those that find() was given last.
  float log_probability(float logit) const {
    return static_cast<float>(static_cast<double>(logit) - normalizer_);
  }

 private:
  int64_t k_;
  double normalizer_ = 0;  // log_sum_exp() of the logits
  Candidates candidates_;
  std::vector<TokenLogprob> best_;  // [vocab_size]: room for all that tie with the k-th
};

}  // namespace gpt2fast
