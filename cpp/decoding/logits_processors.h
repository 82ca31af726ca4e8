// What changes the scores before a token is chosen: penalties, biases and bans, one small type per option, in
// the order in which Hugging Face's transformers applies them.
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
  // scores [vocab_size], changed in place: logits, or log-probabilities in a beam search.
  virtual void apply(std::span<float> scores, const TokenHistory& history) = 0;
};

// The processors that a set of options switches on, chosen and allocated once. One per sequence: they keep
// counts.
class LogitsProcessors {
 public:
  // max_length: the most tokens that prompt and output have together. The options and the ids must outlive
  // the processors, which look at them and copy nothing.
  LogitsProcessors(const SamplingOptions& options, std::span<const int32_t> eos_token_ids, int64_t vocab_size,
                   int64_t max_length);

  // Whether apply() never changes anything when every token is allowed.
  bool empty() const { return processors_.empty() && forced_prefix_.empty(); }

  // allowed: bit t % 32 of word t / 32 says whether token t may come (as llguidance lays it out), or null:
  // all may.
  void apply(std::span<float> scores, const TokenHistory& history, const uint32_t* allowed);

 private:
  std::vector<std::unique_ptr<LogitsProcessor>> processors_;
  std::span<const int32_t> forced_prefix_;
};

}  // namespace gpt2fast
