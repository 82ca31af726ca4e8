// A caller's own code in the choice of tokens.
#pragma once

#include <cstdint>
#include <span>

#include "gpt2fast/token_history.h"

namespace gpt2fast {

// A caller's own say in the choice of a token. Called on the thread that runs the step.
class ChoiceHook {
 public:
  virtual ~ChoiceHook() = default;
  // Bit set of allowed tokens, least significant bit first, (vocab_size + 31) / 32 words, or null for all.
  virtual const uint32_t* allowed_tokens(const TokenHistory& history, int64_t vocab_size) = 0;
  // May change the scores [vocab_size]; what the options or allowed_tokens() forbid stays forbidden.
  virtual void process_scores(const TokenHistory& history, std::span<float> scores) = 0;
  // Asked after each chosen token: true ends the text there, with FinishReason::kStop.
  virtual bool is_complete(const TokenHistory& history) = 0;
};

}  // namespace gpt2fast
