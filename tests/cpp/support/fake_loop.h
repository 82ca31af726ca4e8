// A scheduler over the fake model, and short ways to give it calls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engine/live_sequence.h"
#include "engine/scheduler.h"
#include "support/fake_texts.h"

namespace gpt2fast::testing {

using Texts = std::vector<std::unique_ptr<Participant>>;

struct Loop {
  explicit Loop(int64_t slots = 4, int64_t max_tokens = 8) : Loop(fake_options(slots, max_tokens)) {}
  explicit Loop(const EngineOptions& wanted)
      : options(wanted),
        model(wanted.max_sequences, wanted.n_positions, wanted.max_step_tokens,
              std::max(wanted.max_step_tokens, wanted.max_sequences)),
        scheduler(model, options) {}

  std::unique_ptr<Participant> text(Tokens prompt, std::shared_ptr<const GenerationOptions> generation,
                                    bool streamed = false, std::shared_ptr<ChoiceHook> hook = nullptr) {
    return std::make_unique<LiveSequence>(Request{std::move(prompt), 0, std::move(hook)},
                                          std::move(generation), options, streamed, scheduler.waker());
  }
  std::unique_ptr<Participant> text(Tokens prompt, int64_t count, bool streamed = false,
                                    std::shared_ptr<ChoiceHook> hook = nullptr) {
    return text(std::move(prompt), length(count), streamed, std::move(hook));
  }

  // Attended: the test's own thread makes the steps while it waits and there is no other call.
  std::shared_ptr<Call> submit(Texts texts, bool attended = true, const CallOptions& call = {}) {
    auto submitted = std::make_shared<Call>(std::move(texts), call, attended);
    scheduler.submit(submitted, true);
    return submitted;
  }
  std::shared_ptr<Call> submit(std::unique_ptr<Participant> text, bool attended = true,
                               const CallOptions& call = {}) {
    Texts texts;
    texts.push_back(std::move(text));
    return submit(std::move(texts), attended, call);
  }
  std::shared_ptr<Call> stream(Tokens prompt, int64_t count, bool attended = true) {
    CallOptions call;
    call.streamed = true;
    return submit(text(std::move(prompt), count, true), attended, call);
  }
  void finish(Call& call) { scheduler.wait(call, false, {}); }

  // What a stream's only text has gained since it was last read.
  Tokens take(Call& call) {
    Tokens tokens;
    for (const Progress& progress : call.mailbox.take()) {
      tokens = joined(std::move(tokens), progress.new_tokens);
      auto& text = static_cast<LiveSequence&>(*call.participants[static_cast<size_t>(progress.index)]);
      if (text.mark_read(static_cast<int64_t>(progress.new_tokens.size()))) scheduler.wake();
    }
    return tokens;
  }
  // The same for all of it, as it comes.
  Tokens read(Call& call) {
    Tokens tokens;
    while (!call.mailbox.finished()) {
      scheduler.wait(call, true, {});
      tokens = joined(std::move(tokens), take(call));
    }
    return joined(std::move(tokens), take(call));
  }

  EngineOptions options;
  FakeModel model;
  Scheduler scheduler;
};

inline TextResult result_of(const Call& call, size_t index = 0) {
  return static_cast<const LiveSequence&>(*call.participants[index]).result();
}

}  // namespace gpt2fast::testing
