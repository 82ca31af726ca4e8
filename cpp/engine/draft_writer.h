// In the assistant's engine, the text that follows another engine's text and drafts what comes next.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "decoding/token_chooser.h"
#include "engine/participant.h"
#include "engine/waker.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// Where two engines' loops meet: a question (history and number of tokens) goes one way, a draft the other.
class DraftExchange {
 public:
  explicit DraftExchange(std::shared_ptr<Waker> asker) : asker_(std::move(asker)) {}

  void ask(const TokenHistory& history, int64_t wanted);
  bool is_drafting() const { return drafting_.load(std::memory_order_acquire); }
  void take(std::vector<int32_t>& draft);

  // For the writer: the question, if there is a new one.
  bool take_question(std::vector<int32_t>& prompt, std::vector<int32_t>& output, int64_t& wanted);
  bool has_question() const;
  void answer(std::span<const int32_t> draft);
  // No more answers come.
  void end();

 private:
  const std::shared_ptr<Waker> asker_;
  mutable std::mutex mutex_;
  std::vector<int32_t> prompt_;
  std::vector<int32_t> output_;
  std::vector<int32_t> draft_;
  int64_t wanted_ = 0;  // 0: no question
  bool ended_ = false;
  std::atomic<bool> drafting_ = false;
};

class DraftWriter final : public Participant {
 public:
  // max_length: the most tokens that text and draft have together. Keeps nothing of the options, which refer
  // to the engine that the writer is part of.
  DraftWriter(std::shared_ptr<DraftExchange> exchange, const GenerationOptions& options, uint64_t seed,
              const EngineOptions& engine, int64_t max_length);

  Admitted admit(Admission& admission) override;
  void refused() override;
  bool has_slot() const override { return slot_ >= 0; }
  void release(SlotPool& slots) override;
  Readiness readiness() override;
  bool decodes() override { return pending() == 1; }
  int64_t pending() override;
  void plan(StepPlan& plan) override;
  void use(const StepResults& results) override;
  bool done() const override { return done_; }
  void end(FinishReason reason) override;

 private:
  void take_question();
  int64_t size() const { return static_cast<int64_t>(prompt_.size() + output_.size()); }
  void answer();

  const std::shared_ptr<DraftExchange> exchange_;
  const EngineOptions& engine_;
  const uint64_t prefix_scope_;
  const std::vector<int32_t> eos_token_ids_;
  TokenChooser chooser_;
  std::vector<int32_t> prompt_;
  std::vector<int32_t> output_;  // the text's output, then the draft
  std::vector<int32_t> cached_;  // tokens whose keys and values the slot holds
  std::vector<int32_t> text_;    // prompt and output
  int64_t slot_ = -1;
  int64_t wanted_ = 0;  // tokens still to draft; 0: no question
  int64_t drafted_ = 0;
  bool done_ = false;
};

}  // namespace gpt2fast
