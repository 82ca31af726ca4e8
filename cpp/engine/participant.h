// Whoever has rows in a step: a text being generated, a search with beams, a text that is read once.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "engine/mailbox.h"
#include "engine/step_plan.h"
#include "gpt2fast/generation_options.h"

namespace gpt2fast {

class Admission;
class SlotPool;

enum class Readiness {
  kReady,    // has something for the next step
  kPaused,   // its reader is behind: it may lose its slots to others
  kWaiting,  // expects something that comes by itself, soon, such as a draft
  kAway,     // another thread runs its hook: until it returns, only readiness() may be called
};

enum class Admitted {
  kYes,
  kNoSlot,
  kLater,  // another participant is computing what it can share
};

// The text whose keys and values a slot holds, or is going to hold.
struct SlotContents {
  int64_t slot = -1;  // -1: nothing that others could share
  std::span<const int32_t> tokens;
  int64_t cached_length = 0;  // leading tokens whose keys and values the slot holds already
  uint64_t scope = 0;         // only texts of the same scope may share
};

// Counts of a participant's tokens, for the statistics.
struct TokenGains {
  int64_t chosen = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;  // drafted tokens that were right
};

inline constexpr int64_t kNoPrompt = std::numeric_limits<int64_t>::max();

// Used by one thread at a time, the one that runs the scheduler's loop; by use() one of the step's threads.
class Participant {
 public:
  virtual ~Participant() = default;

  // The length of its prompt before admit(): a step gives way to a prompt that is much shorter than those in
  // it. The default never does.
  virtual int64_t prompt_length() const { return kNoPrompt; }
  // Slots that it needs at once.
  virtual int64_t slots_needed() const { return 1; }
  virtual Admitted admit(Admission& admission) = 0;
  // There was no slot for it. Returns whether it keeps waiting for one, and others behind it; if not, it does
  // without for now.
  virtual bool refused() { return true; }
  virtual bool has_slot() const = 0;
  // Gives all slots back; admit() may follow, after which what they held is computed again.
  virtual void release(SlotPool& slots) = 0;
  virtual SlotContents contents() const { return {}; }

  virtual Readiness readiness() { return Readiness::kReady; }
  // Whether its next result needs one token of each slot: such participants go first.
  virtual bool decodes() = 0;
  // Tokens that it has to read before its next result.
  virtual int64_t pending() = 0;
  // Adds parts to the step, as far as there is room. Changes nothing else: the step may be abandoned.
  virtual void plan(StepPlan& plan) = 0;
  // Several participants use the results of a step at once, each on one of the step's threads.
  virtual void use(const StepResults& results) = 0;

  // Whether it has hooks.
  virtual bool has_hooks() const { return false; }
  // The hook that must run before it can go on; null if there is none.
  virtual HookWork* hook() { return nullptr; }
  // The hook will not be run; the results that it was to see are lost.
  virtual void drop_hook() {}

  virtual bool done() const = 0;
  // Whether others of its call, which wait, may be done when it is.
  virtual bool ends_others() const { return false; }
  // Ends it before its time.
  virtual void end(FinishReason reason) = 0;
  // The counts since the last call.
  virtual TokenGains take_gains() { return {}; }
  // Puts what is new into the mailbox; false if there is nothing new.
  virtual bool report(Mailbox& mailbox, int64_t index) {
    (void)mailbox;
    (void)index;
    return false;
  }
};

}  // namespace gpt2fast
