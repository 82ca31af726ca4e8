// Who makes the steps, who is refused, and how the loop is woken, cleared and closed.
#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "engine/admission.h"
#include "engine/scheduler.h"
#include "gpt2fast/errors.h"
#include "support/fake_loop.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

TEST(one_call_is_driven_by_its_own_thread) {
  Loop loop;
  std::vector<std::thread::id> threads;
  loop.model.on_step = [&](auto) { threads.push_back(std::this_thread::get_id()); };
  const auto call = loop.submit(loop.text(range(0, 20), 6));
  loop.finish(*call);
  CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 20), 6));
  CHECK(threads == std::vector(8, std::this_thread::get_id()));  // 3 steps read the prompt, 5 decode
  CHECK_EQ(loop.model.largest_step(), 8);
  const EngineStats stats = loop.scheduler.stats();
  CHECK_EQ(stats.slots_used, 0);
  CHECK_EQ(stats.running, 0);
  CHECK_EQ(stats.waiting, 0);
  CHECK_EQ(stats.steps, 8);
  CHECK_EQ(stats.step_rows, 8);
  CHECK_EQ(stats.prompt_tokens, 20);
  CHECK_EQ(stats.generated_tokens, 6);
}

TEST(a_call_that_comes_during_the_last_step_of_another_runs_its_own_steps) {
  Loop loop;
  // The loop's thread has left a call to its own thread, and is not going to begin again for another that is
  // alone.
  const auto beside = loop.submit(loop.text(range(5, 3), 2), false);
  const auto left = loop.submit(loop.text(range(0, 3), 40));
  loop.finish(*beside);
  loop.finish(*left);
  for (int round = 0; round < 50; ++round) {
    std::shared_ptr<Call> next;
    std::thread waiting;
    loop.model.on_step = [&](auto) {
      if (next) return;
      next = loop.submit(loop.text(range(1, 3), 4));
      waiting = std::thread([&] { loop.finish(*next); });
      // It may find the loop taken, and wait for its end.
      while (!next->awaited) std::this_thread::yield();
      for (int i = 0; i < 100; ++i) std::this_thread::yield();
    };
    loop.finish(*loop.submit(loop.text(range(2, 3), 1)));
    waiting.join();
    CHECK(result_of(*next).tokens == FakeModel::greedy(range(1, 3), 4));
  }
}

TEST(held_calls_share_their_first_step) {
  for (int round = 0; round < 20; ++round) {
    Loop loop;
    std::vector<size_t> parts;
    loop.model.on_step = [&](std::span<const StepPart> step) { parts.push_back(step.size()); };
    CallOptions options;
    options.held = true;
    std::vector<std::shared_ptr<Call>> calls;
    for (int32_t i = 0; i < 4; ++i) calls.push_back(loop.submit(loop.text(range(i, 2), 3), false, options));
    loop.scheduler.wake();
    for (const auto& call : calls) loop.finish(*call);
    CHECK(parts == std::vector<size_t>(3, 4));
  }
}

TEST(who_waits_for_a_held_call_begins_it) {
  Loop loop;
  CallOptions options;
  options.held = true;
  const auto call = loop.submit(loop.text(range(0, 3), 4), false, options);
  loop.finish(*call);
  CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 3), 4));
}

TEST(a_loop_at_work_takes_held_calls) {
  Loop loop;
  std::shared_ptr<Call> held;
  loop.model.on_step = [&](auto) {
    CallOptions options;
    options.held = true;
    if (!held) held = loop.submit(loop.text(range(0, 3), 4), false, options);
  };
  const auto other = loop.submit(loop.text(range(1, 3), 40), false);
  loop.finish(*other);
  CHECK(held->mailbox.finished());
}

TEST(an_empty_call_is_done_at_once) {
  Loop loop;
  const auto call = loop.submit(Texts{});
  loop.finish(*call);
  CHECK(call->mailbox.finished());
}

// Holds a slot until it is ended, and does something whenever the loop asks whether that is so.
class Holding final : public Participant {
 public:
  explicit Holding(std::function<void()> asked) : asked_(std::move(asked)) {}
  Admitted admit(Admission& admission) override {
    slot_ = admission.acquire_empty(0);
    return has_slot() ? Admitted::kYes : Admitted::kNoSlot;
  }
  bool has_slot() const override { return slot_ >= 0; }
  void release(SlotPool& slots) override {
    if (has_slot()) slots.release(std::exchange(slot_, -1), {});
  }
  bool decodes() override { return false; }
  int64_t pending() override { return 0; }
  void plan(StepPlan&) override {}
  void use(const StepResults&) override {}
  bool done() const override {
    asked_();
    return ended_;
  }
  void end(FinishReason) override { ended_ = true; }

 private:
  const std::function<void()> asked_;
  int64_t slot_ = -1;
  bool ended_ = false;
};

TEST(a_call_that_is_found_finished_counts_no_more) {
  Loop loop(2, 8);
  const auto call = loop.submit(loop.text(range(0, 3), 3));
  int found = 0;
  // The loop asks for the first time in the middle of the turn that finishes the other call.
  const auto holding = loop.submit(std::make_unique<Holding>([&] {
                                     if (!call->mailbox.finished()) return;
                                     ++found;
                                     CHECK_EQ(loop.scheduler.stats().running, 1);
                                     CHECK_EQ(loop.scheduler.stats().slots_used, 1);
                                   }),
                                   false);
  loop.finish(*call);
  holding->cancel();
  loop.scheduler.wake();
  loop.finish(*holding);
  CHECK(found > 0);
}

TEST(too_many_waiting_texts_are_refused) {
  EngineOptions options = fake_options(1, 8);
  options.max_waiting = 1;
  Loop loop(options);
  // The first step lasts until the third text has been refused.
  std::latch begun(1);
  std::latch refused(1);
  loop.model.on_step = [&](std::span<const StepPart>) {
    if (!begun.try_wait()) begun.count_down();
    refused.wait();
  };
  const auto running = loop.submit(loop.text(range(0, 3), 30, true));
  const auto waiting = loop.submit(loop.text(range(1, 3), 3, true));
  begun.wait();
  CHECK_THROWS(loop.submit(loop.text(range(2, 3), 3)), BusyError);
  refused.count_down();
  CHECK_EQ(loop.scheduler.stats().refused, 1);
  CHECK_EQ(loop.scheduler.stats().calls, 2);
  loop.finish(*waiting);
  running->cancel();
  loop.scheduler.settle(*running);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(close_ends_everything) {
  Loop loop(1, 8);
  const auto first = loop.submit(loop.text(range(0, 3), endless()));
  const auto second = loop.submit(loop.text(range(1, 3), endless()));
  loop.scheduler.close();
  CHECK(first->mailbox.finished() && second->mailbox.finished());
  CHECK_THROWS(first->mailbox.rethrow(), ClosedError);
  CHECK_THROWS(loop.submit(loop.text(range(0, 3), 3)), ClosedError);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(a_deadline_wakes_a_loop_that_has_nothing_else_to_do) {
  for (const bool attended : {true, false}) {
    Loop loop(1, 8);
    CallOptions options;
    options.streamed = true;
    options.max_seconds = 0.02;
    // Nobody reads: it pauses, and has a deadline.
    const auto call = loop.submit(loop.text(range(0, 3), 30, true), attended, options);
    loop.finish(*call);
    CHECK(result_of(*call).finish_reason == FinishReason::kTime);
    CHECK(result_of(*call).tokens.size() <= 5);
  }
}

TEST(an_interrupt_leaves_the_call_to_be_settled) {
  Loop loop(1, 8);
  const auto call = loop.submit(loop.text(range(0, 3), endless()));
  CHECK_THROWS(loop.scheduler.wait(*call, false, [] { return true; }), Interrupted);
  CHECK(!call->mailbox.finished());
  call->cancel();
  loop.scheduler.settle(*call);
  CHECK(call->mailbox.finished());
  CHECK(result_of(*call).finish_reason == FinishReason::kCancelled);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(clearing_the_cache_does_not_wait_for_texts_that_run) {
  Loop loop(2, 8);
  std::shared_ptr<Call> first;
  std::shared_ptr<Call> second;
  std::atomic<int64_t> steps = 0;
  loop.model.on_step = [&](auto) {
    if (++steps < 1'000'000) return;
    first->cancel();
    second->cancel();
  };
  first = loop.submit(loop.text(range(0, 3), endless()));
  second = loop.submit(loop.text(range(5, 3), endless()), false);
  loop.scheduler.clear_prefix_cache();
  CHECK(steps < 1'000'000);
  first->cancel();
  second->cancel();
  loop.scheduler.wake();
  loop.finish(*first);
  loop.finish(*second);
}

TEST(clearing_the_cache_holds_up_no_call) {
  Loop loop(2, 8);
  std::atomic<bool> cleared = false;
  std::thread clearer([&] {
    for (int i = 0; i < 1000; ++i) loop.scheduler.clear_prefix_cache();
    cleared = true;
  });
  while (!cleared) {
    const auto call = loop.submit(loop.text(range(0, 3), 40));
    loop.finish(*call);
    CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 3), 40));
  }
  clearer.join();
}

}  // namespace
}  // namespace gpt2fast
