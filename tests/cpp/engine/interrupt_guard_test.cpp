// How often a caller's interrupt check is called, and what is remembered of it.
#include "engine/interrupt_guard.h"

#include "support/testing.h"

namespace gpt2fast {
namespace {

// Asks until the check has been called once more, or a minute has passed.
bool ask_until_called(InterruptGuard& guard, const int& calls) {
  const int before = calls;
  const auto limit = Clock::now() + std::chrono::minutes(1);
  bool fired = false;
  while (calls == before && Clock::now() < limit) fired = guard();
  CHECK_EQ(calls, before + 1);
  return fired;
}

// Whether the engine refuses to be used here, since it waits for the caller's code.
bool is_refused(const void* engine) {
  try {
    HostCode::refuse(engine);
    return false;
  } catch (const std::runtime_error&) {
    return true;
  }
}

TEST(without_a_check_nothing_interrupts) {
  const InterruptCheck none;
  InterruptGuard guard(none, nullptr);
  CHECK(!guard());
  CHECK(!guard.fired());
}

TEST(the_check_is_called_once_an_interval_at_most) {
  int calls = 0;
  const InterruptCheck check = [&] {
    ++calls;
    return false;
  };
  const auto began = Clock::now();
  InterruptGuard guard(check, nullptr);
  CHECK(!ask_until_called(guard, calls));
  CHECK(!ask_until_called(guard, calls));
  CHECK(Clock::now() - began >= 2 * kInterruptInterval);
  CHECK(!guard.fired());
}

TEST(an_interrupt_is_remembered) {
  int calls = 0;
  const InterruptCheck check = [&] { return ++calls == 2; };
  InterruptGuard guard(check, nullptr);
  CHECK(!ask_until_called(guard, calls));
  CHECK(ask_until_called(guard, calls));
  CHECK(guard.fired());
}

TEST(the_check_counts_as_the_callers_code) {
  const int engine = 0;
  int calls = 0;
  bool inside = false;
  const InterruptCheck check = [&] {
    ++calls;
    inside = is_refused(&engine);
    return false;
  };
  InterruptGuard guard(check, &engine);
  ask_until_called(guard, calls);
  CHECK(inside);
  CHECK(!is_refused(&engine));
}

}  // namespace
}  // namespace gpt2fast
