// Participants whose steps a test makes itself, one participant at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/admission.h"
#include "engine/participant.h"
#include "engine/slot_pool.h"
#include "engine/step_plan.h"
#include "support/fake_texts.h"

namespace gpt2fast::testing {

struct ByHand {
  explicit ByHand(int64_t slots = 4, int64_t max_tokens = 8)
      : options(fake_options(slots, max_tokens)),
        model(slots, kPositions, max_tokens, std::max(max_tokens, slots)),
        slots(model.cache(), options.prefix_cache_bytes),
        plan(max_tokens, model.max_logits_rows(), slots) {}

  Admitted admit(Participant& participant) {
    Admission admission(model.cache(), slots, holders);
    const Admitted admitted = participant.admit(admission);
    if (admitted == Admitted::kYes) holders.push_back(&participant);
    return admitted;
  }

  // Returns how many tokens the step had; 0: the participant had nothing to add.
  int64_t step(Participant& participant, int64_t room) {
    plan.clear();
    plan.open(room, 0);
    participant.pending();
    participant.plan(plan);
    if (plan.empty()) return 0;
    model.step(plan.parts(), [] { return false; });
    participant.use(StepResults(model, plan.planned()));
    return plan.tokens();
  }
  int64_t step(Participant& participant) { return step(participant, options.max_step_tokens); }

  // Until it is done.
  void run(Participant& participant) {
    while (!participant.done() && step(participant) > 0) {
    }
  }

  void release(Participant& participant) {
    participant.release(slots);
    std::erase(holders, &participant);
  }

  EngineOptions options;
  FakeModel model;
  SlotPool slots;
  StepPlan plan;
  std::vector<Participant*> holders;
};

}  // namespace gpt2fast::testing
