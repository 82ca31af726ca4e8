// What goes wrong inside the loop, or is withdrawn from it: the calls concerned end, and no others.
#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>

#include "engine/scheduler.h"
#include "gpt2fast/errors.h"
#include "support/fake_loop.h"
#include "support/one_token.h"
#include "support/refused_memory.h"
#include "support/testing.h"

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define GPT2FAST_CAN_REFUSE_THREADS
#include <dlfcn.h>
#include <pthread.h>

#include <cerrno>
#endif

namespace gpt2fast {
namespace {

using namespace testing;

// Throws where the test wants it.
class Faulty final : public OneToken {
 public:
  enum class Place { kNowhere, kPending, kPlan, kUse, kReport };
  explicit Faulty(Place place) : place_(place) {}

  int64_t pending() override {
    throw_at(Place::kPending);
    return OneToken::pending();
  }
  void plan(StepPlan& plan) override {
    throw_at(Place::kPlan);
    OneToken::plan(plan);
  }
  void use(const StepResults& results) override {
    throw_at(Place::kUse);
    OneToken::use(results);
  }
  bool report(Mailbox&, int64_t) override {
    throw_at(Place::kReport);
    return false;
  }

 private:
  void throw_at(Place place) const {
    if (place == place_) throw std::out_of_range("a fault");
  }

  const Place place_;
};

// Has a hook, for which its mailbox gets no memory.
class WithoutHookMemory final : public OneToken, public HookWork {
 public:
  Readiness readiness() override { return away_ ? Readiness::kAway : Readiness::kReady; }
  void use(const StepResults&) override { away_ = true; }
  bool has_hooks() const override { return true; }
  HookWork* hook() override {
    if (!std::exchange(asked_, true)) granted_allocations = 0;
    return this;
  }
  void drop_hook() override { away_ = false; }
  void run_hook() override { away_ = false; }

 private:
  std::atomic<bool> away_ = false;
  bool asked_ = false;
};

// The next text is the one that it should be.
void check_it_goes_on(Loop& loop) {
  const auto next = loop.submit(loop.text(range(0, 3), 3), false);
  loop.finish(*next);
  CHECK(result_of(*next).tokens == FakeModel::greedy(range(0, 3), 3));
}

void check_it_is_driven(Loop& loop) {
  const auto next = loop.submit(loop.text(range(0, 3), 3));
  loop.finish(*next);
  CHECK(result_of(*next).tokens == FakeModel::greedy(range(0, 3), 3));
}

TEST(a_fault_of_one_participant_ends_its_call_alone) {
  for (const Faulty::Place place : {Faulty::Place::kPlan, Faulty::Place::kUse, Faulty::Place::kReport}) {
    Loop loop(2, 8);
    const auto other = loop.submit(loop.text(range(5, 3), 20), false);
    CallOptions streamed;
    streamed.streamed = true;
    const auto call = loop.submit(std::make_unique<Faulty>(place), false, streamed);
    loop.finish(*call);
    loop.finish(*other);
    CHECK_THROWS(call->mailbox.rethrow(), std::out_of_range);
    other->mailbox.rethrow();
    CHECK(result_of(*other).tokens == FakeModel::greedy(range(5, 3), 20));
    CHECK_EQ(loop.scheduler.stats().failed, 1);
    CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  }
}

TEST(a_text_whose_hook_cannot_be_handed_over_ends) {
  Loop loop(2, 8);
  auto participant = std::make_unique<WithoutHookMemory>();
  WithoutHookMemory& text = *participant;
  const auto call = loop.submit(std::move(participant), false);
  while (call->error() == nullptr) check_it_goes_on(loop);
  check_it_goes_on(loop);
  CHECK(call->mailbox.finished());
  text.drop_hook();  // lest the test wait for ever where it has failed
  loop.scheduler.wake();
  loop.finish(*call);
  CHECK_THROWS(call->mailbox.rethrow(), std::bad_alloc);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(a_fault_of_the_loop_itself_ends_all_calls_and_the_loop_goes_on) {
  Loop loop(2, 8);
  const auto other = loop.submit(loop.text(range(5, 3), endless()), false);
  const auto call = loop.submit(std::make_unique<Faulty>(Faulty::Place::kPending), false);
  for (Call* ended : {call.get(), other.get()}) {
    loop.finish(*ended);
    CHECK_THROWS(ended->mailbox.rethrow(), std::out_of_range);
  }
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  check_it_goes_on(loop);
}

TEST(a_fault_of_the_loop_reaches_the_caller_that_runs_it) {
  Loop loop(2, 8);
  const auto call = loop.submit(std::make_unique<Faulty>(Faulty::Place::kPending));
  CHECK_THROWS(loop.finish(*call), std::out_of_range);
  call->cancel();
  loop.scheduler.settle(*call);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(a_call_for_which_there_is_no_memory_ends_alone) {
  EngineOptions options = fake_options(2, 8);
  options.read_ahead = int64_t{1} << 60;  // for which no mailbox has room
  Loop loop(options);
  const auto other = loop.submit(loop.text(range(5, 3), 20), false);
  const auto call = loop.stream(range(0, 3), 5);
  loop.finish(*call);
  loop.finish(*other);
  CHECK_THROWS(call->mailbox.rethrow(), std::length_error);
  CHECK(result_of(*other).tokens == FakeModel::greedy(range(5, 3), 20));
  CHECK_EQ(loop.scheduler.stats().failed, 1);
  CHECK_EQ(loop.scheduler.stats().waiting, 0);
}

TEST(a_call_for_whose_thread_there_is_no_memory_is_refused) {
  Loop loop(2, 8);
  // The lists have grown, so the thread's is the first memory that is wanted.
  for (int i = 0; i < 2; ++i) check_it_is_driven(loop);
  Texts texts;
  texts.push_back(loop.text(range(0, 3), 3));
  const auto call = std::make_shared<Call>(std::move(texts), CallOptions{}, false);
  granted_allocations = 0;
  CHECK_THROWS(loop.scheduler.submit(call, true), std::bad_alloc);
  CHECK_EQ(call.use_count(), 1);  // what it points to may go
  CHECK_EQ(loop.scheduler.stats().calls, 2);
  CHECK_EQ(loop.scheduler.stats().waiting, 0);
  check_it_goes_on(loop);
}

TEST(closing_ends_all_calls_wherever_memory_is_refused) {
  bool closed = false;
  for (int64_t granted = 0; !closed; ++granted) {
    Loop loop(2, 8);
    const auto call = loop.submit(loop.text(range(0, 3), 3));  // which its own thread was to run
    granted_allocations = granted;
    try {
      loop.scheduler.close();
    } catch (const std::bad_alloc&) {
    }
    closed = granted_allocations >= 0;
    granted_allocations = -1;
    loop.scheduler.close();
    CHECK(call->mailbox.finished());
    CHECK_THROWS(call->mailbox.rethrow(), ClosedError);
    CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  }
}

TEST(an_interrupt_ends_the_wait_for_a_text_that_pauses) {
  Loop loop(1, 8);
  // Nobody reads: it pauses, and there is nothing to do but to ask.
  const auto call = loop.stream(range(0, 3), 30);
  CHECK_THROWS(loop.scheduler.wait(*call, false, [] { return true; }), Interrupted);
  call->cancel();
  loop.scheduler.settle(*call);
  CHECK(result_of(*call).finish_reason == FinishReason::kCancelled);
  CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 3), 5));
}

TEST(an_interrupt_abandons_the_step_that_runs_and_the_text_can_go_on) {
  Loop loop(1, 8);
  loop.model.on_step = [](auto) {
    const Clock::time_point begun = Clock::now();
    while (Clock::now() - begun <= kInterruptInterval) std::this_thread::yield();
  };
  const auto call = loop.submit(loop.text(range(0, 3), 5));
  CHECK_THROWS(loop.scheduler.wait(*call, false, [] { return true; }), Interrupted);
  CHECK_EQ(loop.scheduler.stats().steps, 0);
  loop.model.on_step = {};
  loop.finish(*call);
  CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 3), 5));
}

TEST(a_step_whose_texts_are_cancelled_is_abandoned) {
  Loop loop(1, 8);
  std::shared_ptr<Call> call;
  std::latch submitted(1);
  loop.model.on_step = [&](auto) {
    submitted.wait();
    call->cancel();
  };
  call = loop.submit(loop.text(range(0, 3), endless()), false);
  submitted.count_down();
  loop.finish(*call);
  CHECK(result_of(*call).finish_reason == FinishReason::kCancelled);
  CHECK(result_of(*call).tokens.empty());
  CHECK_EQ(loop.scheduler.stats().steps, 0);
}

// Allows every token; counts its calls, and does what the test wants first.
class Watched final : public ChoiceHook {
 public:
  explicit Watched(std::function<void()> action = {}) : action_(std::move(action)) {}
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override {
    ++calls;
    if (action_) action_();
    return nullptr;
  }
  void process_scores(const TokenHistory&, std::span<float>) override {}
  bool is_complete(const TokenHistory&) override { return false; }

  int calls = 0;

 private:
  std::function<void()> action_;
};

TEST(the_hook_of_a_cancelled_call_that_nobody_awaits_is_withdrawn) {
  Loop loop(2, 8);
  CallOptions streamed;
  streamed.streamed = true;
  const auto hook = std::make_shared<Watched>();
  const auto left = loop.submit(loop.text(range(0, 3), 6, true, hook), true, streamed);
  loop.scheduler.wait(*left, true, {});
  CHECK_EQ(hook->calls, 1);
  CHECK(left->mailbox.has_hooks());  // for the second token
  left->cancel();
  // The thread of the loop, which runs for the other call, ends the one that was left.
  const auto other = loop.submit(loop.text(range(7, 3), 5), false);
  loop.finish(*other);
  CHECK(left->mailbox.finished());
  CHECK(!left->mailbox.has_hooks());
  CHECK_EQ(hook->calls, 1);
  CHECK(result_of(*left).finish_reason == FinishReason::kCancelled);
  CHECK(result_of(*left).tokens == FakeModel::greedy(range(0, 3), 1));
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(a_deadline_that_passes_while_a_hook_runs_ends_the_text_when_it_returns) {
  Loop loop(2, 8);
  std::shared_ptr<Call> late;
  const auto hook = std::make_shared<Watched>([&] {
    while (Clock::now() < late->deadline) std::this_thread::yield();
    // Others go on meanwhile, and look for the next deadline.
    while (loop.scheduler.stats().finished < 1) std::this_thread::yield();
  });
  CallOptions options;
  options.max_seconds = 0.05;
  Texts texts;
  texts.push_back(loop.text(range(0, 3), 6, false, hook));
  late = std::make_shared<Call>(std::move(texts), options, false);
  loop.scheduler.submit(late, true);
  while (Clock::now() < late->deadline) std::this_thread::yield();
  const auto other = loop.submit(loop.text(range(7, 3), 5), false);
  loop.finish(*other);
  loop.finish(*late);
  CHECK(result_of(*other).tokens == FakeModel::greedy(range(7, 3), 5));
  CHECK(result_of(*late).finish_reason == FinishReason::kTime);
  CHECK(result_of(*late).tokens.size() <= 1);
}

TEST(more_texts_than_the_loop_considers_may_wait_for_one_prompt) {
  Loop loop(80, 8);
  Texts texts;
  for (int i = 0; i < 70; ++i) texts.push_back(loop.text(range(0, 20), 2));
  const auto call = loop.submit(std::move(texts));
  loop.finish(*call);
  const Tokens expected = FakeModel::greedy(range(0, 20), 2);
  for (size_t i = 0; i < 70; ++i) CHECK(result_of(*call, i).tokens == expected);
  // The prompt was read once: the others took its keys and values over, and read the last token alone.
  CHECK_EQ(loop.scheduler.stats().prompt_tokens, 20);
}

TEST(closing_during_a_step_lets_the_caller_that_makes_it_end_its_call) {
  Loop loop(1, 8);
  std::thread closer;
  std::shared_ptr<Call> call;
  loop.model.on_step = [&](auto) {
    if (!closer.joinable()) closer = std::thread([&] { loop.scheduler.close(); });
    while (!call->error()) std::this_thread::yield();
  };
  call = loop.submit(loop.text(range(0, 3), endless()));
  loop.finish(*call);
  closer.join();
  CHECK_THROWS(call->mailbox.rethrow(), ClosedError);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(closing_quietly_cancels) {
  Loop loop(1, 8);
  const auto call = loop.submit(loop.text(range(0, 3), endless()), false);
  loop.scheduler.close(true);
  call->mailbox.rethrow();
  CHECK(result_of(*call).finish_reason == FinishReason::kCancelled);
}

#ifdef GPT2FAST_CAN_REFUSE_THREADS

bool refuse_threads = false;

TEST(a_call_that_needs_a_thread_is_refused_where_the_system_grants_none) {
  Loop loop(2, 8);
  refuse_threads = true;
  CHECK_THROWS(loop.submit(loop.text(range(0, 3), 3), false), std::runtime_error);
  refuse_threads = false;
  CHECK_EQ(loop.scheduler.stats().calls, 0);
  CHECK_EQ(loop.scheduler.stats().waiting, 0);
  check_it_goes_on(loop);
}

TEST(closing_needs_no_thread_of_its_own) {
  Loop loop(2, 8);
  const auto call = loop.submit(loop.text(range(0, 3), 3));  // which its own thread was to run
  refuse_threads = true;
  loop.scheduler.close();
  refuse_threads = false;
  CHECK(call->mailbox.finished());
  CHECK_THROWS(call->mailbox.rethrow(), ClosedError);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

#endif

}  // namespace
}  // namespace gpt2fast

#ifdef GPT2FAST_CAN_REFUSE_THREADS

// In place of the system's, which it calls.
extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* attributes,
                                                                     void* (*run)(void*), void* argument) {
  if (gpt2fast::refuse_threads) return EAGAIN;
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto real = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, run, argument);
}

#endif
