// A call: its turn, its deadline, how it ends.
#include "engine/call.h"

#include <chrono>
#include <memory>
#include <stdexcept>

#include "support/testing.h"

namespace gpt2fast {
namespace {

using std::chrono::seconds;

CallOptions with_priority(int32_t priority) {
  CallOptions options;
  options.priority = priority;
  return options;
}

TEST(a_level_of_priority_is_worth_a_second_of_waiting) {
  const auto before = Clock::now();
  const Call ordinary({}, {}, true);
  const Call high({}, with_priority(5), true);
  const Call low({}, with_priority(-5), true);
  const auto after = Clock::now();
  CHECK(before <= ordinary.turn && ordinary.turn <= after);
  CHECK(before - seconds(5) <= high.turn && high.turn <= after - seconds(5));
  CHECK(before + seconds(5) <= low.turn && low.turn <= after + seconds(5));
}

TEST(calls_of_one_priority_have_their_turns_as_they_come) {
  const Call first({}, {}, true);
  const Call second({}, {}, true);
  CHECK(first.turn <= second.turn);
}

TEST(a_deadline_counts_from_the_call) {
  CallOptions options;
  options.max_seconds = 60;
  const Call call({}, options, true);
  CHECK(call.end_reason(Clock::now()) == FinishReason::kNone);
  CHECK(call.end_reason(Clock::now() + seconds(61)) == FinishReason::kTime);
  const Call unlimited({}, {}, true);
  CHECK(unlimited.deadline == kNever);
  CHECK(unlimited.end_reason(Clock::now() + seconds(1'000'000)) == FinishReason::kNone);
}

TEST(cancelling_comes_before_the_deadline) {
  CallOptions options;
  options.max_seconds = 1;
  Call call({}, options, true);
  call.cancel();
  CHECK(call.end_reason(Clock::now() + seconds(2)) == FinishReason::kCancelled);
}

TEST(a_call_can_be_cancelled_from_the_beginning) {
  CallOptions options;
  options.cancelled = true;
  const Call call({}, options, true);
  CHECK(call.end_reason(Clock::now()) == FinishReason::kCancelled);
}

TEST(the_first_error_ends_the_call) {
  Call call({}, {}, true);
  CHECK(call.error() == nullptr);
  call.fail(std::make_exception_ptr(std::out_of_range("first")));
  call.fail(std::make_exception_ptr(std::logic_error("second")));
  CHECK(call.end_reason(Clock::now()) == FinishReason::kCancelled);
  CHECK_THROWS(std::rethrow_exception(call.error()), std::out_of_range);
}

TEST(an_error_that_was_told_is_not_kept) {
  const auto token = std::make_shared<int>();
  Call call({}, {}, true);
  call.fail(std::make_exception_ptr(token));
  call.mailbox.finish(call.error());
  CHECK_THROWS(call.rethrow(), std::shared_ptr<int>);
  CHECK(token.use_count() == 1);
  CHECK_THROWS(call.rethrow(), std::runtime_error);
}

}  // namespace
}  // namespace gpt2fast
