// What the steps gave a caller: reports, hooks, the end, and how the reader is woken.
#include "engine/mailbox.h"

#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/ready_queue.h"
#include "support/counted_allocations.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using std::chrono::milliseconds;
using Tokens = std::vector<int32_t>;
using Floats = std::vector<float>;

struct NoWork final : HookWork {
  void run_hook() override {}
};

Mailbox::Report report(int64_t index, const Tokens& tokens, FinishReason reason = FinishReason::kNone) {
  Mailbox::Report made;
  made.index = index;
  made.tokens = tokens;
  made.reason = reason;
  return made;
}

TEST(reports_are_taken_once_and_in_order) {
  Mailbox mailbox(nullptr, 0);
  mailbox.reserve(2, 4);
  CHECK(!mailbox.has_progress());
  mailbox.put(report(1, {5, 6}));
  mailbox.put(report(0, {7}, FinishReason::kEos));
  CHECK(mailbox.has_progress());
  const std::vector<Progress> progress = mailbox.take();
  CHECK_EQ(progress.size(), size_t{2});
  CHECK_EQ(progress[0].index, 1);
  CHECK(progress[0].new_tokens == (Tokens{5, 6}));
  CHECK(progress[0].finish_reason == FinishReason::kNone);
  CHECK(!progress[0].safe_bytes.has_value());
  CHECK(progress[0].logprobs.chosen.empty());
  CHECK_EQ(progress[1].index, 0);
  CHECK(progress[1].new_tokens == (Tokens{7}));
  CHECK(progress[1].finish_reason == FinishReason::kEos);
  CHECK(!mailbox.has_progress());
  CHECK(mailbox.take().empty());
}

TEST(each_report_keeps_its_own_log_probabilities) {
  Mailbox mailbox(nullptr, 0);
  const Tokens tokens{5, 6};
  const Floats chosen{-1.0f, -2.0f};
  const Tokens ids{1, 2, 3, 4};
  const Floats values{-0.1f, -0.2f, -0.3f, -0.4f};
  Mailbox::Report first = report(0, tokens);
  first.safe_bytes = 9;
  first.chosen = chosen;
  first.top_ids = ids;
  first.top_values = values;
  Mailbox::Report second = report(1, tokens);
  second.chosen = std::span(chosen).last(1);
  mailbox.put(first);
  mailbox.put(second);
  mailbox.put(first);
  const std::vector<Progress> progress = mailbox.take();
  CHECK_EQ(progress[0].safe_bytes.value(), 9);
  CHECK(progress[0].logprobs.chosen == chosen);
  CHECK(progress[0].logprobs.top_ids == ids);
  CHECK(progress[0].logprobs.top_values == values);
  CHECK(progress[1].logprobs.chosen == (Floats{-2.0f}));
  CHECK(progress[1].logprobs.top_ids.empty());
  CHECK(progress[2].logprobs.top_ids == ids);
  CHECK(progress[2].logprobs.top_values == values);
}

TEST(the_end_brings_the_error) {
  Mailbox well(nullptr, 0);
  CHECK(!well.finished());
  well.finish(nullptr);
  CHECK(well.finished());
  well.rethrow();
  Mailbox failed(nullptr, 0);
  failed.rethrow();
  failed.finish(std::make_exception_ptr(std::out_of_range("far")));
  CHECK_THROWS(failed.rethrow(), std::out_of_range);
  CHECK_THROWS(failed.rethrow(), std::runtime_error);  // the error itself is not kept
  CHECK_THROWS(failed.rethrow(), std::runtime_error);
}

TEST(a_hook_that_nobody_has_taken_is_withdrawn) {
  Mailbox mailbox(nullptr, 0);
  NoWork one;
  NoWork other;
  mailbox.put_hook(&one);
  mailbox.put_hook(&other);
  CHECK(mailbox.has_hooks());
  CHECK(mailbox.withdraw_hook(&one));
  CHECK(!mailbox.withdraw_hook(&one));
  CHECK(mailbox.take_hooks() == std::vector<HookWork*>{&other});
  CHECK(!mailbox.has_hooks());
  CHECK(!mailbox.withdraw_hook(&other));
}

TEST(a_queue_is_told_once_of_what_is_new) {
  const auto queue = std::make_shared<PipeQueue>();
  Mailbox mailbox(queue, 42);
  mailbox.notify();
  CHECK(queue->take().empty());
  mailbox.put(report(0, {1}));
  CHECK(queue->take().empty());
  mailbox.notify();
  CHECK(queue->take() == std::vector<uint64_t>{42});
  mailbox.notify();
  CHECK(queue->take().empty());
  mailbox.finish(nullptr);
  mailbox.notify();
  CHECK(queue->take() == std::vector<uint64_t>{42});
}

TEST(telling_a_queue_allocates_nothing) {
  const auto queue = std::make_shared<PipeQueue>();
  Mailbox first(queue, 1);
  Mailbox second(queue, 2);
  for (int round = 0; round < 3; ++round) {
    first.put(report(0, {1}));
    second.put(report(0, {1}));
    const int64_t before = allocations();
    first.notify();
    second.notify();
    CHECK_EQ(allocations(), before);
    CHECK(queue->take() == (std::vector<uint64_t>{1, 2}));
  }
}

TEST(a_reader_is_woken_by_everything_that_concerns_it) {
  NoWork work;
  const std::vector<std::function<void(Mailbox&)>> events = {
      [](Mailbox& mailbox) { mailbox.put(report(0, {1})); },
      [&](Mailbox& mailbox) { mailbox.put_hook(&work); },
      [](Mailbox& mailbox) { mailbox.finish(nullptr); },
  };
  for (const auto& event : events) {
    Mailbox mailbox(nullptr, 0);
    std::thread writer([&] {
      event(mailbox);
      mailbox.notify();
    });
    mailbox.wait_until(kNever, true, mailbox.nudges());
    CHECK(mailbox.has_progress() || mailbox.has_hooks() || mailbox.finished());
    writer.join();
  }
}

TEST(a_nudge_since_the_decision_to_wait_is_not_lost) {
  Mailbox mailbox(nullptr, 0);
  const uint64_t seen = mailbox.nudges();
  mailbox.nudge();
  mailbox.wait_until(kNever, true, seen);
  CHECK(mailbox.nudges() != seen);
  const uint64_t before = mailbox.nudges();
  std::thread other([&] { mailbox.nudge(); });
  mailbox.wait_until(kNever, true, before);
  CHECK(mailbox.nudges() != before);
  other.join();
}

TEST(waiting_ends_in_time) {
  Mailbox mailbox(nullptr, 0);
  const auto end = Clock::now() + milliseconds(1);
  mailbox.wait_until(end, true, mailbox.nudges());
  CHECK(Clock::now() >= end);
}

}  // namespace
}  // namespace gpt2fast
