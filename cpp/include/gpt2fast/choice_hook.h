// A caller's own code that takes part in the choice of tokens.
#pragma once

#include <cstdint>
#include <span>

#include "gpt2fast/token_history.h"

namespace gpt2fast {

// Changes which tokens may be chosen. The thread that waits for the call runs it or, if none waits, a thread
// of the engine; EngineOptions::with_host_lock is held. One thread at a time. A hook that forks throws in the
// child, where with_host_lock ends the process unless the thread has a caller to return to.
class ChoiceHook {
 public:
  virtual ~ChoiceHook() = default;
  // Bit set of allowed tokens, least significant bit first, (vocab_size + 31) / 32 words, or null for all.
  virtual const uint32_t* allowed_tokens(const TokenHistory& history, int64_t vocab_size) = 0;
  // May change the scores [vocab_size]; what the options or allowed_tokens() forbid stays forbidden.
  virtual void process_scores(const TokenHistory& history, std::span<float> scores) = 0;
  // Called after each chosen token; true ends the text there, with FinishReason::kStop.
  virtual bool is_complete(const TokenHistory& history) = 0;
};

}  // namespace gpt2fast
