// One request in flight: its tokens, its slot, its choice of tokens and its reasons to stop.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "decoding/log_probabilities.h"
#include "decoding/prompt_lookup.h"
#include "decoding/stop_matcher.h"
#include "decoding/token_chooser.h"
#include "engine/assistant.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

using Clock = std::chrono::steady_clock;

// Throws std::invalid_argument unless there is a token and every one is in the vocabulary.
void check_token_ids(std::span<const int32_t> tokens, int64_t vocab_size);

class LiveSequence {
 public:
  LiveSequence(Request request, const EngineOptions& options);

  // Tokens are numbered over prompt and output; the window is the part that the model sees, from window_start
  // on.
  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const int32_t> window() const { return tokens().subspan(window_start_); }
  std::span<const int32_t> prompt() const { return tokens().first(prompt_length_); }
  std::span<const int32_t> output() const { return tokens().subspan(prompt_length_); }
  // What has been added to the output since this was last called.
  std::span<const int32_t> take_new_output();
  TokenHistory history() const { return {prompt(), output()}; }

  bool has_slot() const { return slot_ >= 0; }
  int64_t slot() const { return slot_; }
  int64_t cached_length() const { return cached_length_; }  // positions of the window
  void give_slot(int64_t slot, int64_t cached_length);
  int64_t take_slot();
  // Tokens whose keys and values the slot holds.
  std::span<const int32_t> cached_tokens() const {
    return window().first(static_cast<size_t>(cached_length_));
  }
  // Where the next step starts; at a full context window with `slide`, first drops the older half of it.
  std::span<const int32_t> pending_tokens();
  void advance_cache(int64_t tokens) { cached_length_ += tokens; }

  // Draft tokens to verify beside the last token, at most `limit`.
  std::span<const int32_t> propose_drafts(int64_t limit, const InterruptCheck& stop);
  void report_drafts(int64_t proposed, int64_t accepted);

  // Chooses the next token from its scores [vocab_size], appends it and sees whether that ends the sequence.
  // `maxima`: see TokenChooser::choose().
  int32_t choose_next(std::span<const float> scores, std::span<const float> maxima);

  bool finished() const { return finish_reason_ != FinishReason::kNone; }
  FinishReason finish_reason() const { return finish_reason_; }
  void finish(FinishReason reason) { finish_reason_ = reason; }
  bool out_of_time(Clock::time_point now) const { return deadline_ && now >= *deadline_; }

  const Prefix* prefix() const { return request_.prefix.get(); }
  bool use_prefix_cache() const { return request_.use_prefix_cache; }
  // As Run has it.
  std::optional<int64_t> safe_bytes() const;
  int64_t reused_tokens() const { return reused_tokens_; }
  const Logprobs& logprobs() const { return logprobs_; }

 private:
  void append(int32_t token);
  void record_logprobs(std::span<const float> scores, float chosen);
  bool window_is_full() const;

  Request request_;
  const EngineOptions& options_;
  std::vector<int32_t> tokens_;
  size_t prompt_length_;
  size_t window_start_ = 0;
  size_t taken_output_ = 0;  // tokens that take_new_output() has given
  int64_t slot_ = -1;
  int64_t cached_length_ = 0;
  int64_t reused_tokens_ = 0;
  TokenChooser chooser_;
  std::optional<StopMatcher> stop_matcher_;
  std::optional<PromptLookup> prompt_lookup_;
  std::unique_ptr<Assistant> assistant_;
  std::optional<TopLogprobs> top_logprobs_;
  std::optional<Clock::time_point> deadline_;
  FinishReason finish_reason_ = FinishReason::kNone;
  Logprobs logprobs_;
};

}  // namespace gpt2fast
