// Drafts for another engine's text: in the assistant's engine, a text that follows it and writes ahead.
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

// What the loops of two engines exchange: requests (history and number of tokens) one way, drafts the other.
class DraftExchange {
 public:
  explicit DraftExchange(std::shared_ptr<Waker> requester) : requester_(std::move(requester)) {}

  // For the assistant, in the loop of the text's own engine.

  void request(const TokenHistory& history, int64_t wanted);
  bool is_drafting() const { return drafting_.load(std::memory_order_acquire); }
  void take(std::vector<int32_t>& draft);

  // For the writer, in the loop of the assistant's engine.

  // Takes the request; false if there is no new one.
  bool take_request(std::vector<int32_t>& prompt, std::vector<int32_t>& output, int64_t& wanted);
  bool has_request() const;
  void deliver(std::span<const int32_t> draft);
  // No more drafts come.
  void end();

 private:
  const std::shared_ptr<Waker> requester_;
  mutable std::mutex mutex_;
  std::vector<int32_t> prompt_;
  std::vector<int32_t> output_;
  std::vector<int32_t> draft_;
  int64_t wanted_ = 0;  // 0: no request
  bool ended_ = false;
  std::atomic<bool> drafting_ = false;
};

class DraftWriter final : public Participant {
 public:
  // max_length: the most tokens that text and draft have together. The options are copied as far as needed,
  // not kept: they refer to the engine that the writer is part of.
  DraftWriter(std::shared_ptr<DraftExchange> exchange, const GenerationOptions& options, uint64_t seed,
              const EngineOptions& engine, int64_t max_length);

  Admitted admit(Admission& admission) override;
  bool refused() override;
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
  void take_request();
  int64_t size() const { return static_cast<int64_t>(prompt_.size() + output_.size()); }
  void deliver();

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
  int64_t wanted_ = 0;  // tokens still to draft; 0: no request
  int64_t drafted_ = 0;
  bool done_ = false;
};

}  // namespace gpt2fast
