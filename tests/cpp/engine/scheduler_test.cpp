// The loop: what becomes of calls that share steps, pause, fail, end early or run hooks.
#include "engine/scheduler.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/continuation_reader.h"
#include "support/fake_loop.h"
#include "support/one_token.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

TEST(calls_share_steps) {
  Loop loop(4, 16);
  // Attended, so that the second finds the first not yet begun.
  const auto first = loop.submit(loop.text(range(0, 3), 20));
  const auto second = loop.submit(loop.text(range(5, 3), 20), false);
  loop.finish(*first);
  loop.finish(*second);
  CHECK(result_of(*first).tokens == FakeModel::greedy(range(0, 3), 20));
  CHECK(result_of(*second).tokens == FakeModel::greedy(range(5, 3), 20));
  CHECK_EQ(loop.model.steps(), 20);
}

TEST(a_paused_text_leaves_its_slot_and_goes_on_later) {
  Loop loop(1, 8);
  const auto paused = loop.stream(range(0, 10), 30, false);
  // The only slot is the paused text's until it is more than read_ahead tokens ahead.
  const auto other = loop.submit(loop.text(range(7, 5), 9), false);
  loop.finish(*other);
  CHECK(result_of(*other).tokens == FakeModel::greedy(range(7, 5), 9));
  CHECK(loop.read(*paused) == FakeModel::greedy(range(0, 10), 30));
  CHECK(loop.scheduler.stats().recomputed >= 1);
}

TEST(a_failed_step_ends_its_calls_and_no_others) {
  Loop loop(2, 8);
  loop.model.fail_next_step();
  const auto call = loop.submit(loop.text(range(0, 3), 3));
  loop.finish(*call);
  CHECK_THROWS(call->mailbox.rethrow(), std::bad_alloc);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  CHECK_EQ(loop.scheduler.stats().failed, 1);
  const auto next = loop.submit(loop.text(range(0, 3), 3));
  loop.finish(*next);
  CHECK(result_of(*next).tokens == FakeModel::greedy(range(0, 3), 3));
}

TEST(late_texts_end_with_what_they_have) {
  Loop loop(1, 8);
  CallOptions options;
  options.max_seconds = 1e-9;
  const auto call = loop.submit(loop.text(range(0, 3), 30), true, options);
  loop.finish(*call);
  CHECK(result_of(*call).finish_reason == FinishReason::kTime);
  CHECK_EQ(loop.scheduler.stats().timed_out, 1);
}

TEST(a_call_that_comes_cancelled_gets_no_step) {
  Loop loop(1, 8);
  CallOptions options;
  options.cancelled = true;
  const auto call = loop.submit(loop.text(range(0, 3), 30), true, options);
  loop.finish(*call);
  CHECK(result_of(*call).finish_reason == FinishReason::kCancelled);
  CHECK(result_of(*call).tokens.empty());
  CHECK_EQ(loop.scheduler.stats().steps, 0);
  CHECK_EQ(loop.scheduler.stats().cancelled, 1);
}

TEST(a_text_that_cannot_be_admitted_ends_its_call) {
  Loop loop(2, 8);
  const auto cold = length(3);
  cold->sampling.temperature = 0;  // which is found out when it gets its slot
  for (int i = 0; i < 3; ++i) {
    const auto call = loop.submit(loop.text(range(0, 3), cold));
    loop.finish(*call);
    CHECK_THROWS(call->mailbox.rethrow(), std::invalid_argument);
    CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  }
}

// Forbids every token but one, and counts its calls.
class OnlyToken final : public ChoiceHook {
 public:
  explicit OnlyToken(uint32_t token) : mask_(1U << token) {}
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override { return &mask_; }
  void process_scores(const TokenHistory&, std::span<float>) override { ++calls; }
  bool is_complete(const TokenHistory&) override { return false; }

  std::atomic<int> calls = 0;

 private:
  uint32_t mask_;
};

TEST(hooks_run_on_the_waiting_thread_or_on_their_own) {
  for (const bool attended : {true, false}) {
    Loop loop(2, 8);
    const auto hook = std::make_shared<OnlyToken>(5);
    const auto call = loop.submit(loop.text(range(0, 3), 4, false, hook), attended);
    loop.finish(*call);
    CHECK(result_of(*call).tokens == std::vector<int32_t>({5, 5, 5, 5}));
    CHECK_EQ(hook->calls.load(), 4);
  }
}

TEST(texts_whose_reader_has_left_hold_up_nobody) {
  Loop loop(1, 8);
  CallOptions streamed;
  streamed.streamed = true;
  const auto hook = std::make_shared<OnlyToken>(5);
  Texts texts;
  for (int i = 0; i < 2; ++i) texts.push_back(loop.text(range(i, 3), 6, true, hook));
  const auto left = loop.submit(std::move(texts), true, streamed);
  loop.scheduler.wait(*left, true, {});
  // Both need their reader for their hooks: neither may take the slot from the other for ever.
  const auto other = loop.submit(loop.text(range(7, 3), 5), false);
  loop.finish(*other);
  CHECK(result_of(*other).tokens == FakeModel::greedy(range(7, 3), 5));
  CHECK(loop.read(*left) == Tokens(12, 5));
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

// Does something of the test's before the choice of each token.
class Doing final : public ChoiceHook {
 public:
  explicit Doing(std::function<void()> action) : action_(std::move(action)) {}
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override {
    action_();
    return nullptr;
  }
  void process_scores(const TokenHistory&, std::span<float>) override {}
  bool is_complete(const TokenHistory&) override { return false; }

 private:
  std::function<void()> action_;
};

TEST(a_slow_hook_holds_up_no_other_text) {
  for (const bool attended : {true, false}) {
    Loop loop(2, 8);
    std::shared_ptr<Call> other;
    // Returns when the other text is complete.
    const auto hook = std::make_shared<Doing>([&] {
      while (!other->mailbox.finished()) other->mailbox.wait_until(kNever, false, other->mailbox.nudges());
    });
    auto slow = loop.text(range(0, 3), 4, false, hook);
    other = loop.submit(loop.text(range(5, 3), 20), true);
    const auto call = loop.submit(std::move(slow), attended);
    loop.finish(*call);
    CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 3), 4));
    CHECK(result_of(*other).tokens == FakeModel::greedy(range(5, 3), 20));
  }
}

TEST(an_error_of_a_hook_ends_its_call_alone) {
  for (const bool attended : {true, false}) {
    Loop loop(2, 8);
    const auto hook = std::make_shared<Doing>([] { throw std::out_of_range("a hook's"); });
    const auto other = loop.submit(loop.text(range(5, 3), 20));
    const auto call = loop.submit(loop.text(range(0, 3), 4, false, hook), attended);
    loop.finish(*call);
    loop.finish(*other);
    CHECK_THROWS(call->mailbox.rethrow(), std::out_of_range);
    other->mailbox.rethrow();
    CHECK(result_of(*other).tokens == FakeModel::greedy(range(5, 3), 20));
    CHECK_EQ(loop.scheduler.stats().failed, 1);
    CHECK_EQ(loop.scheduler.stats().cancelled, 0);
  }
}

TEST(a_hook_that_uses_its_own_model_gets_an_error) {
  for (const bool attended : {true, false}) {
    Loop loop(2, 8);
    const auto hook = std::make_shared<Doing>([&] { loop.submit(loop.text(range(0, 3), 4)); });
    const auto call = loop.submit(loop.text(range(0, 3), 4, false, hook), attended);
    loop.finish(*call);
    CHECK_THROWS(call->mailbox.rethrow(), std::runtime_error);
    const auto clearing = std::make_shared<Doing>([&] { loop.scheduler.clear_prefix_cache(); });
    const auto another = loop.submit(loop.text(range(0, 3), 4, false, clearing), attended);
    loop.finish(*another);
    CHECK_THROWS(another->mailbox.rethrow(), std::runtime_error);
  }
}

TEST(continuations_share_their_prompt) {
  for (const int64_t slots : {1, 3}) {
    Loop loop(slots, 8);
    const auto work = std::make_shared<ContinuationWork>(ContinuationsRequest{
        .prompt = range(0, 11),
        .continuations = {range(3, 1), range(4, 7), range(5, 2), range(9, 12), range(1, 1)},
        .prefix = nullptr});
    Texts readers;
    for (int64_t i = 0; i < slots; ++i) readers.push_back(std::make_unique<ContinuationReader>(work, i == 0));
    const auto call = loop.submit(std::move(readers));
    loop.finish(*call);
    for (size_t i = 0; i < work->scores.size(); ++i) {
      CHECK(work->scores[i].chosen == scores_of(joined(range(0, 11), work->request.continuations[i]), 11));
    }
    CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  }
}

// Uses results until one of its uses was on another thread than the one that makes the steps.
class Elsewhere final : public OneToken {
 public:
  explicit Elsewhere(std::atomic<bool>& reached) : reached_(reached) {}
  void use(const StepResults& results) override {
    if (std::this_thread::get_id() != own_) reached_ = true;
    if (!reached_ && ++uses_ < 20'000) return std::this_thread::yield();
    OneToken::use(results);
  }

 private:
  const std::thread::id own_ = std::this_thread::get_id();
  std::atomic<bool>& reached_;
  int uses_ = 0;
};

TEST(the_threads_of_a_step_use_its_results) {
  Loop loop(2, 8);
  std::atomic<bool> reached = false;
  Texts texts;
  for (int i = 0; i < 2; ++i) texts.push_back(std::make_unique<Elsewhere>(reached));
  loop.finish(*loop.submit(std::move(texts)));
  CHECK(reached);
}

}  // namespace
}  // namespace gpt2fast
