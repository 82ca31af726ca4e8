// The continuations of one prompt, read for their log-probabilities: the prompt once, the rest side by side.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/participant.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// What the readers of one prompt share. Used by the loop's thread alone.
struct ContinuationWork {
  explicit ContinuationWork(ContinuationsRequest wanted);

  // Tokens of the prompt and its longest continuation.
  int64_t length() const;
  // The next continuation that has anything to read; -1: none.
  int64_t take_next();

  ContinuationsRequest request;
  std::vector<Logprobs> scores;  // of each continuation
  size_t next = 0;               // the first continuation to be read that nobody has taken
  int64_t prompt_slot = -1;      // holds the prompt once it has been read; -1: it has not

 private:
  void skip_single_tokens();
};

// The first reader of a prompt reads it, and then continuations in its own slot. The others help where slots
// are free, each with a copy of the prompt's keys and values.
class ContinuationReader final : public Participant {
 public:
  ContinuationReader(std::shared_ptr<ContinuationWork> work, bool first);

  int64_t prompt_length() const override { return static_cast<int64_t>(work_->request.prompt.size()); }
  Admitted admit(Admission& admission) override;
  bool has_slot() const override { return slot_ >= 0; }
  void release(SlotPool& slots) override;
  bool decodes() override { return false; }
  int64_t pending() override;
  void plan(StepPlan& plan) override;
  void use(const StepResults& results) override;
  bool done() const override;
  bool ends_others() const override { return true; }
  void end(FinishReason) override { ended_ = true; }

 private:
  bool reads_prompt() const { return first_ && work_->prompt_slot < 0; }
  std::span<const int32_t> rest() const;
  void use_prompt(std::span<const float> logits);

  const std::shared_ptr<ContinuationWork> work_;
  const bool first_;
  int64_t slot_ = -1;
  int64_t cached_length_ = 0;
  int64_t current_ = -1;  // the continuation being read
  bool ended_ = false;
};

}  // namespace gpt2fast
