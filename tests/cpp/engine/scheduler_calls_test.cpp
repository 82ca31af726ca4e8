// How calls come into the loop and leave it: in order, without looks at all that waits, and without waiting
// for what they refer to.
#include <atomic>
#include <latch>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "support/fake_loop.h"
#include "support/one_token.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

// Reads one token, and counts how often the loop asks whether it is done.
class Asked final : public OneToken {
 public:
  explicit Asked(int64_t& times) : times_(times) {}
  bool done() const override {
    ++times_;
    return OneToken::done();
  }

 private:
  int64_t& times_;
};

TEST(texts_that_wait_are_not_asked_whenever_another_ends) {
  Loop loop(1, 8);
  constexpr int64_t kTexts = 500;
  int64_t times = 0;
  Texts texts;
  for (int64_t i = 0; i < kTexts; ++i) texts.push_back(std::make_unique<Asked>(times));
  loop.finish(*loop.submit(std::move(texts)));
  CHECK(times < 10 * kTexts);
}

TEST(texts_of_a_call_begin_in_their_order) {
  Loop loop(1, 8);
  std::vector<int32_t> read;
  loop.model.on_step = [&](std::span<const StepPart> parts) {
    if (parts[0].cached_length == 0) read.push_back(parts[0].tokens[0]);
  };
  Texts texts;
  for (int32_t i = 0; i < 5; ++i) texts.push_back(loop.text(range(i, 2), 1));
  CallOptions options;
  options.held = true;
  const auto first = loop.submit(std::move(texts), false, options);
  const auto second = loop.submit(loop.text(range(7, 2), 1), false, options);
  CallOptions urgent = options;
  urgent.priority = 1;
  const auto third = loop.submit(loop.text(range(9, 2), 1), false, urgent);
  loop.finish(*second);
  loop.finish(*first);
  CHECK(read == std::vector<int32_t>({9, 0, 1, 2, 3, 4, 7}));
}

// Takes long to destroy: until another call has ended, at most.
struct Lingering final : ChoiceHook {
  explicit Lingering(std::atomic<bool>& other_ended) : other_ended(other_ended) {}
  ~Lingering() override {
    for (int i = 0; i < 100'000 && !other_ended; ++i) std::this_thread::yield();
    *in_time = other_ended.load();
    gone->count_down();
  }
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override { return nullptr; }
  void process_scores(const TokenHistory&, std::span<float>) override {}
  bool is_complete(const TokenHistory&) override { return false; }

  std::atomic<bool>& other_ended;
  std::atomic<bool>* in_time = nullptr;
  std::latch* gone = nullptr;
};

TEST(the_loop_does_not_wait_for_a_call_to_be_destroyed_whose_caller_has_gone) {
  Loop loop(2, 8);
  std::atomic<bool> other_ended = false, in_time = false;
  std::latch gone(1);
  auto hook = std::make_shared<Lingering>(other_ended);
  hook->in_time = &in_time;
  hook->gone = &gone;
  auto call = loop.submit(loop.text(range(0, 3), endless(), false, std::move(hook)), false);
  call->cancel();
  call.reset();
  loop.scheduler.wake();
  const auto other = loop.submit(loop.text(range(1, 3), 4), false);
  loop.finish(*other);
  other_ended = true;
  gone.wait();
  CHECK(in_time);
}

}  // namespace
}  // namespace gpt2fast
