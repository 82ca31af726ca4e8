// The loop: every text gets its own tokens whatever shares its steps, no slot is lost, promises of order
// hold.
#include "engine/scheduler.h"

#include <atomic>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/beam_generation.h"
#include "engine/continuation_reader.h"
#include "engine/live_sequence.h"
#include "engine/text_reader.h"
#include "gpt2fast/errors.h"
#include "support/fake_model.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using testing::FakeModel;
using Texts = std::vector<std::unique_ptr<Participant>>;

constexpr int64_t kPositions = 48;

struct Loop {
  explicit Loop(int64_t slots = 4, int64_t max_tokens = 8, int64_t max_waiting = -1)
      : options{.model_path = "",
                .n_layer = 1,
                .n_head = 1,
                .head_dim = 1,
                .n_positions = kPositions,
                .vocab_size = FakeModel::kVocabulary,
                .cache_format = CacheFormat::kFloat32,
                .threads = 1,
                .max_sequences = slots,
                .max_step_tokens = max_tokens,
                .prefix_cache_bytes = 1 << 20,
                .max_waiting = max_waiting,
                .read_ahead = 4,
                .decode_slowdown = 2.0,
                .with_host_lock = {}},
        model(slots, kPositions, max_tokens, std::max(max_tokens, slots)),
        scheduler(model, options) {}

  std::unique_ptr<Participant> text(std::vector<int32_t> prompt, int64_t count, bool streamed = false,
                                    std::shared_ptr<ChoiceHook> hook = nullptr, int64_t lookup = 0) {
    auto generation = std::make_shared<GenerationOptions>();
    generation->stop.max_new_tokens = count;
    generation->prompt_lookup_num_tokens = static_cast<int32_t>(lookup);
    return std::make_unique<LiveSequence>(Request{std::move(prompt), 0, std::move(hook)}, generation, options,
                                          streamed, scheduler.waker());
  }

  std::shared_ptr<Call> submit(Texts texts, bool attended = true, CallOptions call = {}) {
    auto submitted = std::make_shared<Call>(std::move(texts), call, attended);
    scheduler.submit(submitted, true);
    return submitted;
  }

  std::shared_ptr<Call> submit_one(std::unique_ptr<Participant> text, bool attended = true,
                                   CallOptions call = {}) {
    Texts texts;
    texts.push_back(std::move(text));
    return submit(std::move(texts), attended, call);
  }

  EngineOptions options;
  FakeModel model;
  Scheduler scheduler;
};

TextResult result_of(const Call& call, size_t index = 0) {
  return static_cast<const LiveSequence&>(*call.participants[index]).result();
}

std::vector<int32_t> range(int32_t first, int32_t count) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i)
    tokens.push_back((first + i) % static_cast<int32_t>(FakeModel::kVocabulary));
  return tokens;
}

TEST(one_call_is_driven_by_its_own_thread) {
  Loop loop;
  const auto call = loop.submit_one(loop.text(range(0, 20), 6));
  loop.scheduler.wait(*call, false, {});
  CHECK(result_of(*call).tokens == FakeModel::greedy(range(0, 20), 6));
  CHECK_EQ(loop.model.largest_step(), 8);
  const EngineStats stats = loop.scheduler.stats();
  CHECK_EQ(stats.slots_used, 0);
  CHECK_EQ(stats.running, 0);
  CHECK_EQ(stats.waiting, 0);
  CHECK_EQ(stats.generated_tokens, 6);
  CHECK_EQ(stats.prompt_tokens + 5, stats.steps + 20 - 3);  // 3 steps read the prompt, 5 decode
}

TEST(an_empty_call_is_done_at_once) {
  Loop loop;
  const auto call = loop.submit({});
  loop.scheduler.wait(*call, false, {});
  CHECK(call->mailbox.finished());
}

TEST(calls_share_steps) {
  Loop loop(4, 16);
  const auto first = loop.submit_one(loop.text(range(0, 3), 20), false);
  const auto second = loop.submit_one(loop.text(range(5, 3), 20), false);
  loop.scheduler.wait(*first, false, {});
  loop.scheduler.wait(*second, false, {});
  CHECK(result_of(*first).tokens == FakeModel::greedy(range(0, 3), 20));
  CHECK(result_of(*second).tokens == FakeModel::greedy(range(5, 3), 20));
}

TEST(higher_priority_gets_the_slot_first) {
  Loop loop(1, 8);
  CallOptions high;
  high.priority = 5;
  CallOptions low;
  low.priority = -5;
  // Nothing runs before the loop's thread is started by the third call: the first two are attended.
  std::vector<std::shared_ptr<Call>> calls;
  Texts all;
  const auto now = Clock::now();
  const Call early({}, low, true);
  const Call late({}, high, true);
  CHECK(late.turn < early.turn);
  CHECK(early.turn >= now + std::chrono::seconds(5) - std::chrono::seconds(1));
  const Call ordinary({}, {}, true);
  CHECK(late.turn < ordinary.turn && ordinary.turn < early.turn);
}

TEST(too_many_waiting_texts_are_refused) {
  Loop loop(1, 8, 1);
  const auto running = loop.submit_one(loop.text(range(0, 3), 30, true));  // attended: nobody drives it
  const auto waiting = loop.submit_one(loop.text(range(1, 3), 3, true));
  CHECK_THROWS(loop.submit_one(loop.text(range(2, 3), 3)), BusyError);
  CHECK_EQ(loop.scheduler.stats().refused, 1);
  loop.scheduler.wait(*waiting, false, {});
  running->cancel();
  loop.scheduler.settle(*running);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(a_paused_text_leaves_its_slot_and_goes_on_later) {
  Loop loop(1, 8);
  CallOptions streamed;
  streamed.streamed = true;
  const auto paused = loop.submit_one(loop.text(range(0, 10), 30, true), false, streamed);
  // The only slot is the paused text's until it is more than read_ahead tokens ahead.
  const auto other = loop.submit_one(loop.text(range(7, 5), 9), false);
  loop.scheduler.wait(*other, false, {});
  CHECK(result_of(*other).tokens == FakeModel::greedy(range(7, 5), 9));
  std::vector<int32_t> read;
  while (read.size() < 30) {
    loop.scheduler.wait(*paused, true, {});
    for (const Progress& progress : paused->mailbox.take()) {
      read.insert(read.end(), progress.new_tokens.begin(), progress.new_tokens.end());
      auto& sequence = static_cast<LiveSequence&>(*paused->participants[0]);
      if (sequence.took(static_cast<int64_t>(progress.new_tokens.size()))) loop.scheduler.wake();
    }
  }
  CHECK(read == FakeModel::greedy(range(0, 10), 30));
  CHECK(loop.scheduler.stats().recomputed >= 1);
}

TEST(a_failed_step_ends_its_calls_and_no_others) {
  Loop loop(2, 8);
  loop.model.fail_next_step();
  const auto call = loop.submit_one(loop.text(range(0, 3), 3));
  loop.scheduler.wait(*call, false, {});
  CHECK_THROWS(call->mailbox.rethrow(), std::bad_alloc);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  const auto next = loop.submit_one(loop.text(range(0, 3), 3));
  loop.scheduler.wait(*next, false, {});
  CHECK(result_of(*next).tokens == FakeModel::greedy(range(0, 3), 3));
}

TEST(close_ends_everything) {
  Loop loop(1, 8);
  const auto first = loop.submit_one(loop.text(range(0, 3), 30, true));
  const auto second = loop.submit_one(loop.text(range(1, 3), 30, true));
  loop.scheduler.close();
  CHECK(first->mailbox.finished() && second->mailbox.finished());
  CHECK_THROWS(first->mailbox.rethrow(), ClosedError);
  CHECK_THROWS(loop.submit_one(loop.text(range(0, 3), 3)), ClosedError);
  CHECK_EQ(loop.scheduler.stats().slots_used, 0);
}

TEST(late_texts_end_with_what_they_have) {
  Loop loop(1, 8);
  CallOptions options;
  options.max_seconds = 1e-9;
  const auto call = loop.submit_one(loop.text(range(0, 3), 30), true, options);
  loop.scheduler.wait(*call, false, {});
  CHECK_EQ(result_of(*call).finish_reason, FinishReason::kTime);
  CHECK_EQ(loop.scheduler.stats().timed_out, 1);
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
    const auto call = loop.submit_one(loop.text(range(0, 3), 4, false, hook), attended);
    loop.scheduler.wait(*call, false, {});
    CHECK(result_of(*call).tokens == std::vector<int32_t>({5, 5, 5, 5}));
    CHECK_EQ(hook->calls.load(), 4);
  }
}

// What a text of the driver below must have become.
struct Expected {
  std::shared_ptr<Call> call;
  std::vector<int32_t> prompt;
  int64_t count = 0;
  bool cancelled = false;
};

// Random calls of all kinds from several threads, some cancelled, some read slowly.
void drive(uint32_t seed, int64_t calls_each) {
  Loop loop(3, 8);
  std::atomic<int> wrong = 0;
  const auto work = [&](uint32_t own_seed) {
    std::mt19937 random(own_seed);
    const auto below = [&](int64_t limit) {
      return static_cast<int64_t>(random() % static_cast<uint32_t>(limit));
    };
    for (int64_t i = 0; i < calls_each; ++i) {
      // Few beginnings, so that texts share them.
      std::vector<int32_t> prompt =
          range(static_cast<int32_t>(below(2)), static_cast<int32_t>(1 + below(24)));
      const int64_t count = 1 + below(kPositions - static_cast<int64_t>(prompt.size()) - 1);
      const bool streamed = below(3) == 0;
      CallOptions options;
      options.streamed = streamed;
      options.priority = static_cast<int32_t>(below(3));
      std::shared_ptr<ReadyQueue> queue;
      const bool attended = below(2) == 0;
      const int64_t kind = below(10);
      if (kind == 0) {  // scores
        Texts readers;
        readers.push_back(std::make_unique<ScoreReader>(prompt, 1, 0, FakeModel::kVocabulary));
        if (prompt.size() < 2) continue;
        const auto call = loop.submit(std::move(readers), attended);
        loop.scheduler.wait(*call, false, {});
        const Logprobs& scores = static_cast<ScoreReader&>(*call->participants[0]).scores();
        for (size_t k = 1; k < prompt.size(); ++k) {
          const auto expected =
              log_probability(FakeModel::scores_after(std::span(prompt).first(k)), prompt[k]);
          if (scores.chosen[k - 1] != expected) ++wrong;
        }
        continue;
      }
      const int64_t lookup = below(4) == 0 ? 3 : 0;
      std::shared_ptr<ChoiceHook> hook;
      if (below(6) == 0) hook = std::make_shared<OnlyToken>(3);
      const auto call = loop.submit_one(loop.text(prompt, count, streamed, hook, lookup), attended, options);
      const bool cancelled = below(5) == 0;
      if (cancelled) {
        call->cancel();
        loop.scheduler.wake();
      }
      auto& sequence = static_cast<LiveSequence&>(*call->participants[0]);
      while (streamed && !call->mailbox.finished()) {
        loop.scheduler.wait(*call, true, {});
        for (const Progress& progress : call->mailbox.take()) {
          if (sequence.took(static_cast<int64_t>(progress.new_tokens.size()))) loop.scheduler.wake();
        }
        if (below(8) == 0) std::this_thread::yield();
      }
      loop.scheduler.wait(*call, false, {});
      std::vector<int32_t> expected =
          hook ? std::vector<int32_t>(static_cast<size_t>(count), 3) : FakeModel::greedy(prompt, count);
      const std::vector<int32_t> tokens = sequence.result().tokens;
      if (cancelled) expected.resize(std::min(expected.size(), tokens.size()));
      if (tokens != expected) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < 4; ++thread) threads.emplace_back(work, seed * 4 + thread);
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0);
  const EngineStats stats = loop.scheduler.stats();
  CHECK_EQ(stats.slots_used, 0);
  CHECK_EQ(stats.running, 0);
  CHECK_EQ(stats.waiting, 0);
  CHECK_EQ(stats.finished, stats.calls);
}

// GPT2FAST_SCHEDULER_CALLS: how many calls each of the four threads makes, for a longer run.
TEST(every_text_is_the_one_that_it_would_be_alone) {
  const char* wanted = std::getenv("GPT2FAST_SCHEDULER_CALLS");
  const int64_t calls = wanted == nullptr ? 300 : std::atoll(wanted);
  drive(1, calls);
  drive(2, calls);
}

TEST(continuations_share_their_prompt) {
  for (const int64_t slots : {1, 3}) {
    Loop loop(slots, 8);
    ContinuationsRequest request{
        .prompt = range(0, 11),
        .continuations = {range(3, 1), range(4, 7), range(5, 2), range(9, 12), range(1, 1)},
        .prefix = nullptr};
    auto work = std::make_shared<ContinuationWork>(request);
    Texts readers;
    for (int64_t i = 0; i < slots; ++i) readers.push_back(std::make_unique<ContinuationReader>(work, i == 0));
    const auto call = loop.submit(std::move(readers));
    loop.scheduler.wait(*call, false, {});
    for (size_t i = 0; i < request.continuations.size(); ++i) {
      std::vector<int32_t> text = request.prompt;
      for (size_t k = 0; k < request.continuations[i].size(); ++k) {
        const int32_t next = request.continuations[i][k];
        CHECK_EQ(work->scores[i].chosen[k], log_probability(FakeModel::scores_after(text), next));
        text.push_back(next);
      }
    }
    CHECK_EQ(loop.scheduler.stats().slots_used, 0);
  }
}

}  // namespace
}  // namespace gpt2fast
