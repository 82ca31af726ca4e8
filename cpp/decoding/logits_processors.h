// Changes the scores before a token is chosen: penalties, biases and bans, one small type per option, in the
// order in which Hugging Face's transformers applies them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "decoding/token_counts.h"
#include "gpt2fast/generation_options.h"

namespace gpt2fast {

class LogitsProcessor {
 public:
  virtual ~LogitsProcessor() = default;
  // Changes scores [vocab_size], which are logits, or log-probabilities in a beam search.
  virtual void apply(std::span<float> scores, const TokenHistory& history) = 0;
};

// The processors that a set of options enables, chosen and allocated once. They keep counts, so each sequence
// has its own.
class LogitsProcessors {
 public:
  // Prompt and output have at most max_length tokens together. The options and the ids must outlive the
  // processors, which refer to them.
  LogitsProcessors(const SamplingOptions& options, std::span<const int32_t> eos_token_ids, int64_t vocab_size,
                   int64_t max_length);

  // Whether apply() changes nothing as long as every token is allowed.
  bool empty() const { return processors_.empty() && forced_prefix_.empty(); }

  // Bit t % 32 of word t / 32 of `allowed` says whether token t is allowed, as in llguidance; null allows
  // all.
  void apply(std::span<float> scores, const TokenHistory& history, const uint32_t* allowed);

 private:
  std::vector<std::unique_ptr<LogitsProcessor>> processors_;
  std::span<const int32_t> forced_prefix_;
};

}  // namespace gpt2fast
