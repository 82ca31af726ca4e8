// The loop against a model of its promises, through random calls: who holds a slot, who is in a step and with
// how many tokens. `GPT2FAST_SCHEDULER_STEPS`: how many steps, for a longer run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler.h"
#include "support/fake_loop.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

constexpr int64_t kSlots = 3;
constexpr int64_t kStepTokens = 8;

// A text as the model knows it. Its prompt is one token over and over, which no other unfinished text has.
struct Modelled {
  std::shared_ptr<Call> call;
  size_t index = 0;  // in the call
  int32_t token = 0;
  int64_t prompt = 0;
  int64_t wanted = 0;
  int64_t read = 0;    // of the prompt
  int64_t chosen = 0;  // of those wanted
  int64_t slot = -1;
  int64_t left_out = 0;  // steps in a row without a part

  int64_t pending() const { return read < prompt ? prompt - read : 1; }
  int64_t cached() const { return read + std::max<int64_t>(chosen - 1, 0); }
  bool decodes() const { return pending() == 1; }
};

class Promises {
 public:
  Promises(uint32_t seed, double slowdown) : random_(seed), slowdown_(slowdown), loop_(options(slowdown)) {
    // So that it is known how long steps take.
    auto first = length(5);
    first->use_prefix_cache = false;
    loop_.finish(*loop_.submit(loop_.text(Tokens(20, 0), first)));
    loop_.model.on_step = [this](auto parts) { step(parts); };
  }

  void run(int64_t steps) {
    for (;;) {
      Modelled next;
      {
        const std::lock_guard lock(mutex_);
        if (submitted_.empty()) {
          if (steps_ >= steps || !wrong_.empty()) break;
          more_ = steps - steps_;
          submit();
        }
        next = std::move(submitted_.front());
        submitted_.pop_front();
      }
      loop_.finish(*next.call);
      const Tokens tokens = result_of(*next.call, next.index).tokens;
      const Tokens expected =
          FakeModel::greedy(Tokens(static_cast<size_t>(next.prompt), next.token), next.wanted);
      if (next.call->end_reason(Clock::now()) == FinishReason::kNone && tokens != expected) wrong("a text");
    }
    const EngineStats stats = loop_.scheduler.stats();
    CHECK_EQ(stats.slots_used + stats.running + stats.waiting, 0);
    CHECK_EQ(wrong_, std::string());
    std::printf("     %lld calls in %lld steps\n", static_cast<long long>(stats.calls),
                static_cast<long long>(stats.steps));
  }

 private:
  static EngineOptions options(double slowdown) {
    EngineOptions options = fake_options(kSlots, kStepTokens);
    options.decode_slowdown = slowdown;
    options.read_ahead = kPositions;  // no stream pauses
    return options;
  }
  int64_t below(int64_t limit) { return static_cast<int64_t>(random_() % static_cast<uint32_t>(limit)); }
  bool one_in(int64_t count) { return below(count) == 0; }
  void wrong(const std::string& what) {
    if (wrong_.empty()) wrong_ = what + " in step " + std::to_string(steps_);
  }

  // Called when a step begins.
  void step(std::span<const StepPart> parts) {
    const std::lock_guard lock(mutex_);
    ++steps_;
    if (!wrong_.empty()) return;  // the model knows no more
    advance();
    planned_.clear();
    for (const StepPart& part : parts) note(part);
    check();
    if (--more_ <= 0) return;
    if (unfinished() < 12 && one_in(3)) submit();
    if (one_in(40)) cancel();
  }

  // What has happened since the last step began.
  void advance() {
    if (loop_.model.steps() > completed_) {  // it was not abandoned
      for (const auto& [token, tokens] : planned_) {
        Modelled& text = *std::ranges::find(live_, token, &Modelled::token);
        if (text.read < text.prompt) text.read += tokens;
        if (text.read == text.prompt) ++text.chosen;
      }
    }
    completed_ = loop_.model.steps();
    const auto cancelled = [](const Modelled& text) {
      return text.call->end_reason(Clock::now()) != FinishReason::kNone;
    };
    std::erase_if(live_, [&](const Modelled& text) { return text.chosen == text.wanted || cancelled(text); });
    std::erase_if(waiting_, cancelled);
    while (std::ssize(live_) < kSlots && !waiting_.empty()) {
      live_.push_back(waiting_.front());
      waiting_.erase(waiting_.begin());
    }
  }

  void note(const StepPart& part) {
    const bool begins = part.cached_length == 0;
    const auto text = std::ranges::find_if(live_, [&](const Modelled& one) {
      return begins ? one.token == part.tokens[0] && one.read == 0 : one.slot == part.slot;
    });
    if (text == live_.end()) return wrong("a part of a text whose turn it is not");
    if (begins && std::ranges::any_of(live_, [&](const Modelled& one) {
          return one.slot == part.slot && one.token != text->token;
        })) {
      wrong("a slot is held twice");
    }
    text->slot = part.slot;
    if (part.cached_length != text->cached()) wrong("a slot has lost tokens");
    planned_.emplace_back(text->token, static_cast<int64_t>(part.tokens.size()));
  }

  void check() {
    int64_t decoding = 0, of_prompts = 0, pending = 0;
    bool streaming = false;
    for (Modelled& text : live_) {
      const auto part = std::ranges::find(planned_, text.token, &std::pair<int32_t, int64_t>::first);
      const int64_t tokens = part == planned_.end() ? 0 : part->second;
      if (text.decodes()) {
        ++decoding;
        streaming = streaming || text.call->streamed;
        if (tokens != 1) wrong("a text that is decoded is left out");
        continue;
      }
      pending += text.pending();
      of_prompts += tokens;
      text.left_out = tokens > 0 ? 0 : text.left_out + 1;
      if (text.left_out >= kSlots) wrong("a prompt starves");
    }
    const int64_t room = streaming && slowdown_ == 1 ? 1 : kStepTokens - decoding;
    if (of_prompts != std::min(room, pending)) wrong("prompts have too many or too few tokens");
  }

  void submit() {
    const bool streamed = one_in(3);
    CallOptions how;
    how.streamed = streamed;
    how.priority = static_cast<int32_t>(1000 * (below(4) / 2 - below(2)));
    Texts texts;
    std::vector<Modelled> modelled;
    for (int64_t count = 1 + below(3); count > 0; --count) {
      Modelled text;
      text.index = modelled.size();
      do {
        next_token_ = (next_token_ + 1) % static_cast<int32_t>(FakeModel::kVocabulary);
      } while (is_used(next_token_));
      text.token = next_token_;
      text.prompt = 1 + below(one_in(2) ? 4 : 30);
      text.wanted = 1 + below(12);
      const auto generation = length(text.wanted);
      generation->use_prefix_cache = false;
      texts.push_back(loop_.text(Tokens(static_cast<size_t>(text.prompt), text.token), generation, streamed));
      modelled.push_back(text);
    }
    const auto call = loop_.submit(std::move(texts), one_in(2), how);
    for (Modelled& text : modelled) {
      text.call = call;
      submitted_.push_back(text);
      const auto turn = [](const Modelled& other) { return other.call->turn; };
      waiting_.insert(std::ranges::upper_bound(waiting_, call->turn, {}, turn), text);
    }
  }

  void cancel() {
    const std::vector<Modelled>& among = one_in(2) ? waiting_ : live_;
    if (among.empty()) return;
    among[static_cast<size_t>(below(std::ssize(among)))].call->cancel();
    loop_.scheduler.wake();
  }

  int64_t unfinished() const { return std::ssize(live_) + std::ssize(waiting_); }
  bool is_used(int32_t token) const {
    return std::ranges::find(live_, token, &Modelled::token) != live_.end() ||
           std::ranges::find(waiting_, token, &Modelled::token) != waiting_.end();
  }

  std::mt19937 random_;
  const double slowdown_;
  std::mutex mutex_;
  std::vector<Modelled> live_;                        // those that hold slots, or are to get them now
  std::vector<Modelled> waiting_;                     // the others, in the order of their turns
  std::deque<Modelled> submitted_;                    // whose results are still to be looked at
  std::vector<std::pair<int32_t, int64_t>> planned_;  // tokens of each text in the step that began last
  int64_t completed_ = 0;
  int64_t steps_ = 0;
  int64_t more_ = 0;  // steps during which calls are made
  int32_t next_token_ = 0;
  std::string wrong_;  // the first thing that was
  Loop loop_;          // last: its threads use what is above
};

TEST(slots_order_and_room_are_as_promised) {
  const char* given = std::getenv("GPT2FAST_SCHEDULER_STEPS");
  const int64_t steps = given == nullptr ? 20'000 : std::atoll(given);
  Promises(1, 1.0).run(steps / 2);
  Promises(2, 1e9).run(steps / 2);
}

}  // namespace
}  // namespace gpt2fast
