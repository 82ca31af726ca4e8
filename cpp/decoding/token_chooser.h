// Chooses a sequence's next token from the model's logits: processors, then argmax, or filters and a draw.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "decoding/candidates.h"
#include "decoding/logits_processors.h"
#include "gpt2fast/choice_hook.h"
#include "gpt2fast/generation_options.h"

namespace gpt2fast {

// Each sequence has its own. Everything is decided and allocated at construction; choosing allocates nothing.
//
// The token is a function of (logits, history, options) alone, the random draw of (seed, output position). So
// drafted tokens need no acceptance rule of their own: a draft is right exactly when it is the token that
// choose() returns for its position, and the output, sampled or greedy, is the same as without drafts.
class TokenChooser {
 public:
  // Prompt and output have at most max_length tokens together. The ids must outlive the chooser; a call's
  // texts share the options. Throws std::invalid_argument when an option is out of range.
  TokenChooser(std::shared_ptr<const SamplingOptions> options, uint64_t seed,
               std::span<const int32_t> eos_token_ids, int64_t vocab_size, int64_t max_length);

  static constexpr int32_t kNoToken = -1;
  struct Choice {
    int32_t token = kNoToken;
    float logprob = 0;  // of the token, under the softmax of the raw logits; only if wanted
  };

  // Chooses from logits [vocab_size], which stay as they are. For `allowed` see LogitsProcessors::apply;
  // `maxima` are the logits' LinearArguments::maxima, or empty. The token is kNoToken when every token is
  // forbidden. Throws std::runtime_error when the model produced NaN or infinity, or a penalty overflowed to
  // it.
  Choice choose(std::span<const float> logits, const TokenHistory& history, const uint32_t* allowed,
                bool want_logprob, ChoiceHook* hook = nullptr, std::span<const float> maxima = {});

  // Writes the distribution that choose() draws from: probabilities [vocab_size], zero for tokens that are
  // filtered out; without do_sample, the softmax of the processed scores. All are zero when every token is
  // forbidden.
  void distribution(std::span<const float> logits, const TokenHistory& history, const uint32_t* allowed,
                    std::span<float> probabilities);

 private:
  // Returns the processed scores: `logits` themselves if nothing changes them, else scores_.
  std::span<const float> process(std::span<const float> logits, const TokenHistory& history,
                                 const uint32_t* allowed, ChoiceHook* hook);
  // A hook may change scores, but not choose what the options or a constraint forbid.
  void remember_bans(std::span<const float> scores);
  void ban_again(std::span<float> scores) const;
  // Reduces `scores`, whose maximum is `best`, to the weighted candidates of a draw.
  void filter(std::span<const float> scores, float best);

  const std::shared_ptr<const SamplingOptions> options_;
  const uint64_t seed_;
  LogitsProcessors processors_;
  std::unique_ptr<float[]> scores_;  // [vocab_size]
  std::vector<uint64_t> banned_;     // [(vocab_size + 63) / 64], with a hook: a bit a token
  Candidates candidates_;
};

}  // namespace gpt2fast
