// The loop's promises: who gets a slot first, how much of a prompt a step takes, that prompts rotate and
// nobody starves.
#include <algorithm>
#include <chrono>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "engine/beam_generation.h"
#include "engine/draft_writer.h"
#include "engine/scheduler.h"
#include "support/fake_loop.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

// A text's part of a step. Texts are known by the first token of their prompts, which differ.
struct Part {
  int32_t text = 0;
  int64_t tokens = 0;
  bool has_result = false;
};

// What the steps were made of. Used by the loop, and read when it is idle.
class StepLog {
 public:
  // `then` is called when the step has been noted, with its number from 0 on.
  explicit StepLog(Loop& loop, std::function<void(size_t step)> then = {}) {
    loop.model.on_step = [this, then = std::move(then)](std::span<const StepPart> parts) {
      std::vector<Part> step;
      for (const StepPart& part : parts) {
        if (part.cached_length == 0) texts_[part.slot] = part.tokens[0];
        step.push_back({texts_[part.slot], static_cast<int64_t>(part.tokens.size()), !part.wanted.empty()});
      }
      steps_.push_back(std::move(step));
      if (then) then(steps_.size() - 1);
    };
  }

  size_t size() const { return steps_.size(); }
  const std::vector<Part>& operator[](size_t step) const { return steps_[step]; }
  // A text's tokens in a step.
  int64_t tokens(size_t step, int32_t text) const {
    const auto part = std::ranges::find(steps_[step], text, &Part::text);
    return part == steps_[step].end() ? 0 : part->tokens;
  }
  // In all steps that it has a part in.
  std::vector<int64_t> tokens(int32_t text) const {
    std::vector<int64_t> all;
    for (size_t step = 0; step < steps_.size(); ++step) {
      if (tokens(step, text) > 0) all.push_back(tokens(step, text));
    }
    return all;
  }
  // The step with its first result.
  size_t first_result(int32_t text) const {
    for (size_t step = 0; step < steps_.size(); ++step) {
      const auto part = std::ranges::find(steps_[step], text, &Part::text);
      if (part != steps_[step].end() && part->has_result) return step;
    }
    return steps_.size();
  }
  // Texts in the order of their first parts.
  std::vector<int32_t> order() const {
    std::vector<int32_t> order;
    for (const std::vector<Part>& step : steps_) {
      for (const Part& part : step) {
        if (std::ranges::find(order, part.text) == order.end()) order.push_back(part.text);
      }
    }
    return order;
  }

 private:
  std::map<int64_t, int32_t> texts_;  // of each slot
  std::vector<std::vector<Part>> steps_;
};

// A prompt of one token, over and over.
Tokens prompt(int32_t token, size_t count) { return Tokens(count, token); }

std::shared_ptr<GenerationOptions> unshared(int64_t max_new_tokens) {
  auto options = length(max_new_tokens);
  options->use_prefix_cache = false;
  return options;
}

TEST(slots_go_by_priority_and_then_first_come_first_served) {
  Loop loop(1, 8);
  std::vector<std::shared_ptr<Call>> calls;
  const auto submit = [&](int32_t text, int32_t priority) {
    CallOptions options;
    options.priority = priority;
    calls.push_back(loop.submit(loop.text(prompt(text, 3), unshared(2)), false, options));
  };
  // While the first one is in its first step, the others come.
  const StepLog log(loop, [&](size_t step) {
    if (step > 0) return;
    for (const auto& [text, priority] : {std::pair(1, 0), {2, 0}, {3, 500}, {4, -500}, {5, 500}, {6, 0}}) {
      submit(text, priority);
    }
  });
  const auto first = loop.submit(loop.text(prompt(0, 3), unshared(2)));
  loop.finish(*first);
  for (const auto& call : calls) loop.finish(*call);
  CHECK(log.order() == (std::vector<int32_t>{0, 3, 5, 1, 2, 6, 4}));
}

TEST(a_call_of_many_texts_gets_slots_in_their_order) {
  Loop loop(1, 8);
  const StepLog log(loop);
  Texts texts;
  for (const int32_t token : {4, 2, 7}) texts.push_back(loop.text(prompt(token, 3), unshared(2)));
  const auto call = loop.submit(std::move(texts));
  loop.finish(*call);
  CHECK(log.order() == (std::vector<int32_t>{4, 2, 7}));
}

// The tokens of a 10-token prompt in the steps that have a decoding text besides.
std::vector<int64_t> prompt_beside_decoding(double slowdown, bool streamed) {
  EngineOptions options = fake_options(2, 8);
  options.decode_slowdown = slowdown;
  options.read_ahead = 100;
  Loop loop(options);
  // So that it is known how long steps take.
  loop.finish(*loop.submit(loop.text(prompt(0, 20), unshared(5))));
  std::shared_ptr<Call> reading;
  const StepLog log(loop, [&](size_t step) {
    if (step == 5) reading = loop.submit(loop.text(prompt(2, 10), unshared(1)), false);
  });
  CallOptions call;
  call.streamed = streamed;
  const auto decoding = loop.submit(loop.text(prompt(1, 3), unshared(40), streamed), true, call);
  loop.finish(*decoding);
  loop.finish(*reading);
  for (size_t step = 6; step < log.size(); ++step) {
    if (log.tokens(step, 2) > 0) CHECK_EQ(log.tokens(step, 1), 1);
  }
  return log.tokens(2);
}

TEST(prompts_lengthen_the_steps_of_streams_by_the_slowdown_only) {
  CHECK(prompt_beside_decoding(1.0, true) == std::vector<int64_t>(10, 1));
  CHECK(prompt_beside_decoding(1e9, true) == (std::vector<int64_t>{7, 3}));
  // With nobody reading along, the step is full.
  CHECK(prompt_beside_decoding(1.0, false) == (std::vector<int64_t>{7, 3}));
}

TEST(a_short_prompt_is_not_behind_a_long_one) {
  Loop loop(2, 8);
  std::shared_ptr<Call> brief;
  const StepLog log(loop, [&](size_t step) {
    if (step == 0) brief = loop.submit(loop.text(prompt(2, 4), unshared(1)), false);
  });
  const auto reading = loop.submit(loop.text(prompt(1, 40), unshared(1)));
  loop.finish(*reading);
  loop.finish(*brief);
  CHECK_EQ(log.first_result(2), size_t{1});
  // The first step has given way.
  CHECK(log.tokens(1) == (std::vector<int64_t>{8, 4, 8, 8, 8, 8, 4}));
  CHECK_EQ(loop.model.steps(), static_cast<int64_t>(log.size()) - 1);
}

TEST(a_step_that_is_mostly_done_does_not_give_way) {
  Loop loop(2, 8);
  std::shared_ptr<Call> brief;
  const Clock::time_point begun = Clock::now();
  const StepLog log(loop, [&](size_t step) {
    if (step != 1) return;
    // Longer than the first step, which had as many tokens: the second should have ended by then.
    const Clock::time_point second = Clock::now();
    while (Clock::now() - second < second - begun) std::this_thread::yield();
    brief = loop.submit(loop.text(prompt(2, 4), unshared(1)), false);
  });
  const auto reading = loop.submit(loop.text(prompt(1, 40), unshared(1)));
  loop.finish(*reading);
  loop.finish(*brief);
  CHECK(log.tokens(1) == (std::vector<int64_t>{8, 8, 4, 8, 8, 4}));
  CHECK_EQ(loop.model.steps(), static_cast<int64_t>(log.size()));
}

// How many of its steps a text of 40 tokens has to begin again. The n-th of `arrivals`, prompts by their
// lengths, comes during the n-th step.
int64_t abandoned_steps(int64_t slots, const std::vector<size_t>& arrivals) {
  Loop loop(slots, 8);
  std::vector<std::shared_ptr<Call>> others;
  const auto text = [&](size_t i) { return prompt(static_cast<int32_t>(2 + i), arrivals[i]); };
  const StepLog log(loop, [&](size_t step) {
    if (step < arrivals.size()) others.push_back(loop.submit(loop.text(text(step), unshared(3)), false));
  });
  const auto reading = loop.submit(loop.text(prompt(1, 40), unshared(3)));
  loop.finish(*reading);
  CHECK(result_of(*reading).tokens == FakeModel::greedy(prompt(1, 40), 3));
  for (size_t i = 0; i < others.size(); ++i) {
    loop.finish(*others[i]);
    CHECK(result_of(*others[i]).tokens == FakeModel::greedy(text(i), 3));
  }
  return static_cast<int64_t>(log.size()) - loop.model.steps();
}

TEST(a_step_of_long_prompts_gives_way_to_a_much_shorter_one_but_never_twice_on_end) {
  CHECK_EQ(abandoned_steps(3, {4, 1}), int64_t{1});
  // Not much shorter, or without a slot.
  CHECK_EQ(abandoned_steps(3, {5}), int64_t{0});
  CHECK_EQ(abandoned_steps(1, {4}), int64_t{0});
}

// The tokens of a 44-token prompt in each step, when another is read at the same time.
std::vector<int64_t> long_prompt_beside(size_t shorter) {
  Loop loop(2, 44);
  const StepLog log(loop);
  Texts texts;
  texts.push_back(loop.text(prompt(1, 44), unshared(1)));
  texts.push_back(loop.text(prompt(2, shorter), unshared(1)));
  loop.finish(*loop.submit(std::move(texts)));
  CHECK_EQ(log.first_result(2), size_t{0});
  return log.tokens(1);
}

TEST(a_long_prompt_takes_as_much_of_a_step_as_the_short_ones_in_it) {
  CHECK(long_prompt_beside(18) == (std::vector<int64_t>{18, 26}));
  // Of steps that are short in any case it takes more.
  CHECK(long_prompt_beside(2) == (std::vector<int64_t>{30, 14}));
  CHECK(long_prompt_beside(22) == (std::vector<int64_t>{22, 22}));
}

TEST(prompts_of_one_length_take_turns) {
  Loop loop(3, 8);
  std::vector<std::shared_ptr<Call>> others;
  const StepLog log(loop, [&](size_t step) {
    if (step > 0) return;
    for (const int32_t text : {2, 3}) {
      others.push_back(loop.submit(loop.text(prompt(text, 40), unshared(1)), false));
    }
  });
  const auto first = loop.submit(loop.text(prompt(1, 40), unshared(1)));
  loop.finish(*first);
  for (const auto& call : others) loop.finish(*call);
  // None is without a part for more than two steps.
  for (const int32_t text : {1, 2, 3}) {
    for (size_t step = 1; step + 3 < log.first_result(text); ++step) {
      CHECK(log.tokens(step, text) + log.tokens(step + 1, text) + log.tokens(step + 2, text) > 0);
    }
  }
}

TEST(short_prompts_that_keep_coming_do_not_starve_a_long_one) {
  Loop loop(3, 8);
  std::shared_ptr<Call> reading;
  std::vector<std::shared_ptr<Call>> shorts;
  const StepLog log(loop, [&](size_t step) {
    if (step > 200 || reading->mailbox.finished()) return;
    for (int i = 0; i < 2; ++i) {
      const auto text = static_cast<int32_t>(2 + shorts.size() % 20);
      shorts.push_back(loop.submit(loop.text(prompt(text, 4), unshared(1)), false));
    }
  });
  reading = loop.submit(loop.text(prompt(1, 40), unshared(1)));
  loop.finish(*reading);
  for (const auto& call : shorts) loop.finish(*call);
  CHECK(log.first_result(1) <= 20);
}

// Greedily nothing but `token`, which the text's own past foretells.
std::shared_ptr<GenerationOptions> drafting(int32_t token, int64_t max_new_tokens) {
  auto options = unshared(max_new_tokens);
  options->sampling.forced_prefix = Tokens(static_cast<size_t>(max_new_tokens), token);
  options->prompt_lookup_num_tokens = 8;
  return options;
}

TEST(drafts_leave_a_token_to_everyone_who_decodes_and_to_prompts) {
  Loop loop(8, 8);
  std::vector<std::shared_ptr<Call>> others;
  const StepLog log(loop, [&](size_t step) {
    if (step == 0) {
      for (int32_t text = 2; text <= 6; ++text) {
        others.push_back(loop.submit(loop.text(prompt(text, 1), unshared(47)), false));
      }
    } else if (step == 3) {
      others.push_back(loop.submit(loop.text(prompt(7, 20), unshared(1)), false));
    }
  });
  const auto drafted = loop.submit(loop.text(prompt(1, 4), drafting(1, 43)));
  loop.finish(*drafted);
  for (const auto& call : others) loop.finish(*call);
  CHECK(std::ranges::max(log.tokens(1)) > 1);
  for (size_t step = 4; step <= log.first_result(7); ++step) {
    CHECK(log.tokens(step, 7) > 0);
    for (int32_t text = 2; text <= 6; ++text) CHECK_EQ(log.tokens(step, text), 1);
  }
}

TEST(a_search_with_beams_gets_its_slots_while_single_texts_keep_coming) {
  // It waits until all are free at once: those that come later wait behind it.
  Loop loop(2, 8);
  std::shared_ptr<Call> blocked;
  std::vector<std::shared_ptr<Call>> singles;
  const StepLog log(loop, [&](size_t step) {
    if (step == 0) {
      const auto beams = length(3);
      beams->num_beams = 2;
      const Request request{prompt(1, 5), 0, nullptr};
      blocked = loop.submit(std::make_unique<BeamGeneration>(request, beams, loop.options), false);
    }
    if (step > 300 || (blocked && blocked->mailbox.finished())) return;
    const auto text = static_cast<int32_t>(2 + singles.size() % 20);
    singles.push_back(loop.submit(loop.text(prompt(text, 2), unshared(2)), false));
  });
  singles.push_back(loop.submit(loop.text(prompt(0, 2), unshared(2))));
  loop.finish(*singles[0]);
  loop.finish(*blocked);
  for (const auto& call : singles) loop.finish(*call);
  CHECK(log.first_result(1) <= 10);
}

TEST(a_level_of_priority_is_worth_one_second) {
  // Calls of the next higher priority keep coming, one after another, until the low one has been served.
  Loop loop(1, 8);
  CallOptions high;
  high.priority = 1;
  std::shared_ptr<Call> low;
  std::shared_ptr<Call> next;
  int64_t rounds = 0;
  const StepLog log(loop, [&](size_t) {
    if (low && low->mailbox.finished()) return;
    if (!low) low = loop.submit(loop.text(prompt(1, 3), unshared(1)), false);
    next = loop.submit(loop.text(prompt(2, 3), unshared(1)), false, high);
    ++rounds;
  });
  const auto first = loop.submit(loop.text(prompt(2, 3), unshared(1)), true, high);
  loop.finish(*first);
  loop.finish(*low);
  const auto waited = Clock::now() - low->turn;
  loop.finish(*next);
  CHECK(waited >= std::chrono::seconds(1));
  CHECK(rounds > 1);
}

// Blocks until the test lets it go on.
class Blocking final : public ChoiceHook {
 public:
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override {
    entered.count_down();
    left.wait();
    return nullptr;
  }
  void process_scores(const TokenHistory&, std::span<float>) override {}
  bool is_complete(const TokenHistory&) override { return false; }

  std::latch entered{1};
  std::latch left{1};
};

// Without a slot there is no draft, for anyone: who gets none and asks again at once is not refused alone.
TEST(every_writer_of_drafts_hears_that_there_is_no_slot) {
  constexpr int kMostRequests = 1000;
  Loop loop(1, 8);
  const auto hook = std::make_shared<Blocking>();
  const auto holder = loop.submit(loop.text(prompt(1, 3), length(1), false, hook), false);
  hook->entered.wait();
  const Tokens text = range(0, 5);
  int asked = 0;
  int asked_before = 0;  // by the first writer's text, when the second one heard
  std::latch heard(1);
  std::shared_ptr<DraftExchange> first, second;
  first = std::make_shared<DraftExchange>(std::make_shared<Waker>([&] {
    if (++asked < kMostRequests) first->request({text, {}}, 3);
    loop.scheduler.wake();
  }));
  second = std::make_shared<DraftExchange>(std::make_shared<Waker>([&] {
    if (asked_before == 0) {
      asked_before = asked;
      heard.count_down();
    }
  }));
  Texts writers;
  for (const auto& exchange : {first, second}) {
    exchange->request({text, {}}, 3);
    writers.push_back(std::make_unique<DraftWriter>(exchange, *length(20), 0, loop.options, 100));
  }
  const auto drafting = loop.submit(std::move(writers), false);
  heard.wait();
  hook->left.count_down();
  loop.finish(*holder);
  drafting->cancel();
  loop.scheduler.wake();
  loop.scheduler.settle(*drafting);
  CHECK_EQ(asked_before, 1);
  CHECK(result_of(*holder).tokens == FakeModel::greedy(prompt(1, 3), 1));
}

}  // namespace
}  // namespace gpt2fast
