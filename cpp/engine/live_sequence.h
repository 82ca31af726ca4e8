// A text being generated: its tokens, its slot, its choice of tokens and its reasons to stop.
#pragma once

#include <atomic>
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
#include "engine/clock.h"
#include "engine/participant.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// Throws std::invalid_argument unless there is a token and every one is in the vocabulary.
void check_token_ids(std::span<const int32_t> tokens, int64_t vocab_size);

class LiveSequence final : public Participant, public HookWork {
 public:
  // `waker` wakes the loop when the options' assistant has a draft ready.
  LiveSequence(Request request, std::shared_ptr<const GenerationOptions> generation,
               const EngineOptions& options, bool streamed, std::shared_ptr<Waker> waker);

  // Creates what choosing tokens needs, which also checks the options. Otherwise admit() does it, so that
  // texts that wait for a slot need little memory.
  void prepare();

  int64_t prompt_length() const override { return static_cast<int64_t>(prompt_length_); }
  Admitted admit(Admission& admission) override;
  bool has_slot() const override { return slot_ >= 0; }
  void release(SlotPool& slots) override;
  SlotContents contents() const override {
    return {slot_, window(), cached_length_, generation_->prefix_scope};
  }
  Readiness readiness() override;
  bool decodes() override { return pending() == 1; }
  int64_t pending() override { return static_cast<int64_t>(pending_tokens().size()); }
  void plan(StepPlan& plan) override;
  void use(const StepResults& results) override;
  bool has_hooks() const override { return request_.hook != nullptr; }
  HookWork* hook() override { return away_ ? this : nullptr; }
  void drop_hook() override;
  bool done() const override { return finished(); }
  void end(FinishReason reason) override { finish(reason); }
  TokenGains take_gains() override;
  bool report(Mailbox& mailbox, int64_t index) override;

  void run_hook() override;

  // The reader of a stream reports, from any thread, that it has taken so many tokens. Returns whether the
  // text is paused and should be woken.
  bool mark_read(int64_t tokens);

  // Valid when done().
  TextResult result() const;

 private:
  // Tokens are numbered over prompt and output; the window is the part that the model sees, from
  // window_start_ on.
  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const int32_t> window() const { return tokens().subspan(window_start_); }
  std::span<const int32_t> prompt() const { return tokens().first(prompt_length_); }
  std::span<const int32_t> output() const { return tokens().subspan(prompt_length_); }
  TokenHistory history() const { return {prompt(), output()}; }
  bool window_is_full() const;
  // The tokens that are still to be read. At a full context window with `slide`, drops the older half first.
  std::span<const int32_t> pending_tokens();

  // Draft tokens to verify beside the last token, at most `limit`.
  std::span<const int32_t> drafts(int64_t limit);
  void request_draft();
  // Chooses tokens from the rows of logits of the last token and its drafts, as far as the drafts are right.
  template <typename Rows>
  void choose_all(const Rows& rows);
  // Chooses the next token from its scores [vocab_size], appends it and sees whether that ends the text.
  int32_t choose_next(std::span<const float> scores, std::span<const float> maxima);
  void append(int32_t token);
  // The log-probabilities of the chosen token and of the likeliest ones.
  void record_likeliest(std::span<const float> scores, int32_t chosen);
  void hold_rows(const StepResults& results);
  bool finished() const { return finish_reason_ != FinishReason::kNone; }
  void finish(FinishReason reason) { finish_reason_ = reason; }
  std::optional<int64_t> safe_bytes() const;

  const Request request_;
  const std::shared_ptr<const GenerationOptions> generation_;
  const EngineOptions& options_;
  const bool streamed_;
  std::shared_ptr<Waker> waker_;
  std::vector<int32_t> tokens_;
  size_t prompt_length_;
  size_t window_start_ = 0;
  int64_t slot_ = -1;
  int64_t cached_length_ = 0;  // positions of the window
  int64_t reused_tokens_ = -1;

  std::optional<TokenChooser> chooser_;
  std::optional<TopLogprobs> top_logprobs_;
  std::optional<StopMatcher> stop_matcher_;
  std::optional<PromptLookup> prompt_lookup_;
  std::unique_ptr<Assistant> assistant_;
  std::vector<int32_t> drafts_;  // in the step that is planned or running
  TokenGains gains_;
  const Clock::time_point begun_ = Clock::now();
  Clock::time_point started_ = begun_;  // with its first slot
  Clock::time_point first_token_ = begun_;
  Clock::time_point last_token_ = begun_;

  // Logits [rows, vocab_size] and their maxima, kept for a hook that runs on another thread.
  std::vector<float> held_logits_;
  std::vector<float> held_maxima_;
  std::atomic<bool> away_ = false;

  size_t reported_tokens_ = 0;
  size_t reported_likeliest_ = 0;
  bool reported_end_ = false;
  std::atomic<int64_t> unread_tokens_ = 0;
  std::atomic<bool> paused_ = false;

  FinishReason finish_reason_ = FinishReason::kNone;
  Logprobs logprobs_;
};

}  // namespace gpt2fast
