// A loaded model's working parts in one process: the session, the slots, the loop.
#pragma once

#include <memory>
#include <vector>

#include "engine/call.h"
#include "engine/scheduler.h"
#include "engine/stepper.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

class EngineState {
 public:
  explicit EngineState(const EngineOptions& options)
      : options_(options), stepper_(options_), scheduler_(stepper_, options_) {}

  // A text whose caller has gone may hold the last reference to an engine, even to the one that runs it. A
  // state that an engine's own thread releases last is therefore destroyed on another thread.
  static std::shared_ptr<EngineState> create(const EngineOptions& options);

  // Participants keep references to the options: calls live no longer than the state.
  const EngineOptions& options() const { return options_; }

  Stepper& stepper() { return stepper_; }
  Scheduler& scheduler() { return scheduler_; }

  // A call that runs as long as its handle lives, however many texts wait.
  static std::unique_ptr<CallHandle> submit_unattended(const std::shared_ptr<EngineState>& state,
                                                       std::vector<std::unique_ptr<Participant>> participants,
                                                       const CallOptions& options);

 private:
  const EngineOptions options_;
  Stepper stepper_;
  Scheduler scheduler_;
};

}  // namespace gpt2fast
