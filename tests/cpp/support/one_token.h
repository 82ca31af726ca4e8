// A participant that reads one token, for tests that change one of its methods.
#pragma once

#include <utility>

#include "engine/admission.h"
#include "engine/participant.h"

namespace gpt2fast::testing {

class OneToken : public Participant {
 public:
  Admitted admit(Admission& admission) override {
    slot_ = admission.acquire_empty(0);
    return slot_ < 0 ? Admitted::kNoSlot : Admitted::kYes;
  }
  bool has_slot() const override { return slot_ >= 0; }
  void release(SlotPool& slots) override {
    if (slot_ >= 0) slots.release(std::exchange(slot_, -1), {});
  }
  bool decodes() override { return false; }
  int64_t pending() override { return 1; }
  void plan(StepPlan& plan) override {
    const int32_t token = 1;
    if (plan.room() > 0) plan.add(slot_, 0, {&token, 1}, 0);
  }
  void use(const StepResults&) override { done_ = true; }
  bool done() const override { return done_; }
  void end(FinishReason) override { done_ = true; }

 private:
  int64_t slot_ = -1;
  bool done_ = false;
};

}  // namespace gpt2fast::testing
