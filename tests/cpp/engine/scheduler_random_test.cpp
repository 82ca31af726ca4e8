// Random calls of all kinds from several threads: every text is the one that it would be alone, and no slot
// is lost, whatever shares its steps, is cancelled, read slowly, late, or fails.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/beam_generation.h"
#include "engine/continuation_reader.h"
#include "engine/draft_writer.h"
#include "engine/scheduler.h"
#include "engine/text_reader.h"
#include "support/fake_loop.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

// Allows one token only; throws at the n-th choice.
class Hook final : public ChoiceHook {
 public:
  Hook(uint32_t token, int64_t fails_at) : mask_(1U << token), fails_at_(fails_at) {}
  const uint32_t* allowed_tokens(const TokenHistory& history, int64_t) override {
    if (static_cast<int64_t>(history.output.size()) == fails_at_) throw std::out_of_range("a hook's");
    return &mask_;
  }
  void process_scores(const TokenHistory&, std::span<float>) override {}
  bool is_complete(const TokenHistory&) override { return false; }

 private:
  const uint32_t mask_;
  const int64_t fails_at_;
};

// One thread's calls. Each function makes one, and returns whether it became what it had to.
class Caller {
 public:
  Caller(Loop& loop, uint32_t seed) : loop_(loop), random_(seed) {}

  // The kind of the call that did not become what it had to; null: it did.
  const char* one() {
    switch (below(16)) {
      case 0:
        return score() ? nullptr : "score";
      case 1:
        return continuations() ? nullptr : "continuations";
      case 2:
        return forward() ? nullptr : "forward";
      case 3:
        return beams() ? nullptr : "beams";
      case 4:
        return draft() ? nullptr : "draft";
      case 5:
        return constrained() ? nullptr : "constrained";
      case 6:
        loop_.scheduler.clear_prefix_cache();
        return nullptr;
      default:
        return generate() ? nullptr : "generate";
    }
  }

  // Now and then there is one call only, or none.
  void rest() {
    const Clock::time_point end = Clock::now() + std::chrono::microseconds(one_in(4) ? below(400) : 0);
    while (Clock::now() < end) std::this_thread::yield();
  }

 private:
  int64_t below(int64_t limit) { return static_cast<int64_t>(random_() % static_cast<uint32_t>(limit)); }
  bool one_in(int64_t count) { return below(count) == 0; }

  // Few beginnings, so that texts share them.
  Tokens prompt(int64_t longest = 24) {
    return range(static_cast<int32_t>(below(2)), static_cast<int32_t>(1 + below(longest)));
  }
  CallOptions call_options() {
    CallOptions options;
    options.priority = static_cast<int32_t>(below(3));
    if (one_in(20)) options.max_seconds = 1e-5 * static_cast<double>(below(100));
    return options;
  }
  // Some calls end early.
  std::shared_ptr<Call> submit(Texts texts, const CallOptions& options) {
    auto call = loop_.submit(std::move(texts), one_in(2), options);
    if (one_in(8)) {
      if (one_in(2)) std::this_thread::yield();
      call->cancel();
      loop_.scheduler.wake();
    }
    return call;
  }
  std::shared_ptr<Call> submit(std::unique_ptr<Participant> text, const CallOptions& options) {
    Texts texts;
    texts.push_back(std::move(text));
    return submit(std::move(texts), options);
  }
  // Whether the call was ended before its time: by a failed step, itself, or its deadline.
  static bool ended(const Call& call) { return call.end_reason(Clock::now()) != FinishReason::kNone; }
  static bool equal_or_begins(const Tokens& tokens, const Tokens& expected, bool ended) {
    if (tokens == expected) return true;
    return ended && tokens.size() < expected.size() &&
           std::equal(tokens.begin(), tokens.end(), expected.begin());
  }

  bool generate() {
    const Tokens beginning = prompt();
    const int64_t count = 1 + below(kPositions - static_cast<int64_t>(beginning.size()) - 1);
    const auto options = length(count);
    options->prompt_lookup_num_tokens = one_in(4) ? 3 : 0;
    options->use_prefix_cache = !one_in(4);
    CallOptions how = call_options();
    how.streamed = one_in(3);
    const auto call = submit(loop_.text(beginning, options, how.streamed), how);
    Tokens reported;
    while (how.streamed && !call->mailbox.finished()) {
      loop_.scheduler.wait(*call, true, {});
      if (one_in(8)) std::this_thread::yield();
      reported = joined(std::move(reported), loop_.take(*call));
    }
    loop_.finish(*call);
    reported = joined(std::move(reported), loop_.take(*call));
    const Tokens tokens = result_of(*call).tokens;
    if (how.streamed && reported != tokens) return false;
    return equal_or_begins(tokens, FakeModel::greedy(beginning, count), ended(*call));
  }

  bool constrained() {
    const int64_t count = 1 + below(12);
    const int64_t fails_at = one_in(3) ? below(count) : -1;
    const auto call =
        submit(loop_.text(prompt(), count, false, std::make_shared<Hook>(3, fails_at)), call_options());
    loop_.finish(*call);
    const Tokens tokens = result_of(*call).tokens;
    const int64_t most = fails_at < 0 ? count : fails_at;
    if (fails_at >= 0 && !ended(*call)) return false;
    return equal_or_begins(tokens, Tokens(static_cast<size_t>(most), 3), ended(*call));
  }

  bool score() {
    const Tokens text = joined({0}, prompt());
    const auto first = static_cast<size_t>(1 + below(static_cast<int64_t>(text.size()) - 1));
    const auto call =
        submit(std::make_unique<ScoreReader>(text, static_cast<int64_t>(first), 0, FakeModel::kVocabulary),
               call_options());
    loop_.finish(*call);
    return ended(*call) ||
           static_cast<ScoreReader&>(*call->participants[0]).scores().chosen == scores_of(text, first);
  }

  bool continuations() {
    const Tokens beginning = prompt();
    std::vector<Tokens> followers;
    for (int64_t i = 1 + below(5); i > 0; --i) followers.push_back(prompt(12));
    const auto work = std::make_shared<ContinuationWork>(
        ContinuationsRequest{.prompt = beginning, .continuations = followers, .prefix = nullptr});
    Texts readers;
    const auto most = std::min<int64_t>(static_cast<int64_t>(followers.size()), loop_.options.max_sequences);
    for (int64_t i = 0; i < most; ++i) readers.push_back(std::make_unique<ContinuationReader>(work, i == 0));
    const auto call = submit(std::move(readers), call_options());
    loop_.finish(*call);
    if (ended(*call)) return true;
    for (size_t i = 0; i < followers.size(); ++i) {
      if (work->scores[i].chosen != scores_of(joined(beginning, followers[i]), beginning.size()))
        return false;
    }
    return true;
  }

  bool forward() {
    const Tokens text = prompt();
    std::vector<float> hidden(text.size());
    auto request = std::make_shared<ForwardRequest>();
    request->sequences = {text};
    request->hidden = {hidden.data()};
    const auto call = submit(std::make_unique<HiddenReader>(request, 0, 1), call_options());
    loop_.finish(*call);
    for (size_t i = 0; i < text.size() && !ended(*call); ++i) {
      if (hidden[i] != FakeModel::hidden_after(std::span(text).first(i + 1))) return false;
    }
    return true;
  }

  bool beams() {
    const Tokens beginning = prompt(8);
    const auto options = length(1 + below(8));
    options->num_beams = static_cast<int32_t>(2 + below(loop_.options.max_sequences - 1));
    options->stop.eos_token_ids = {5};
    const auto call =
        submit(std::make_unique<BeamGeneration>(Request{beginning, 0, nullptr}, options, loop_.options),
               call_options());
    loop_.finish(*call);
    if (ended(*call)) return true;
    const auto results = static_cast<const BeamGeneration&>(*call->participants[0]).results();
    const auto expected = expected_beams(beginning, *options);
    return results.size() == expected.size() && results[0].tokens == expected[0].tokens &&
           results[0].score == expected[0].score;
  }

  // As another engine's text requests drafts, several times.
  bool draft() {
    std::mutex mutex;
    std::condition_variable changed;
    const auto exchange = std::make_shared<DraftExchange>(std::make_shared<Waker>([&] {
      const std::lock_guard lock(mutex);
      changed.notify_all();
    }));
    const auto call = loop_.submit(
        std::make_unique<DraftWriter>(exchange, *length(40), 0, loop_.options, kPositions + 8), false);
    Tokens text = prompt();
    bool right = true;
    for (int64_t rounds = 1 + below(4); rounds > 0; --rounds) {
      exchange->request({text, {}}, 1 + below(5));
      loop_.scheduler.wake();
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !exchange->is_drafting(); });
      }
      Tokens said;
      exchange->take(said);
      right = right && said == FakeModel::greedy(text, static_cast<int64_t>(said.size()));
      text = joined(std::move(text), {static_cast<int32_t>(below(FakeModel::kVocabulary))});
    }
    call->cancel();
    loop_.scheduler.wake();
    loop_.scheduler.settle(*call);
    return right;
  }

  Loop& loop_;
  std::mt19937 random_;
};

void drive(uint32_t seed, int64_t slots, int64_t calls_each, int64_t failing_step) {
  Loop loop(slots, 8);
  int64_t steps = 0;
  loop.model.on_step = [&](auto) {
    if (failing_step > 0 && ++steps % failing_step == 0) throw std::bad_alloc();
  };
  std::mutex mutex;
  std::string wrong;
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      Caller caller(loop, seed * 4 + thread);
      for (int64_t i = 0; i < calls_each; ++i) {
        caller.rest();
        const char* kind = caller.one();
        const std::lock_guard lock(mutex);
        if (kind != nullptr) wrong += kind + std::string(" of thread ") + std::to_string(thread) + "; ";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong, std::string());
  const EngineStats stats = loop.scheduler.stats();
  CHECK_EQ(stats.slots_used, 0);
  CHECK_EQ(stats.running, 0);
  CHECK_EQ(stats.waiting, 0);
  CHECK(stats.finished >= stats.calls);
  std::printf("     %lld calls in %lld steps\n", static_cast<long long>(stats.calls),
              static_cast<long long>(stats.steps));
}

// GPT2FAST_SCHEDULER_CALLS: how many calls each of the four threads makes, for a longer run.
TEST(every_text_is_the_one_that_it_would_be_alone) {
  const char* wanted = std::getenv("GPT2FAST_SCHEDULER_CALLS");
  const int64_t calls = wanted == nullptr ? 300 : std::atoll(wanted);
  drive(1, 3, calls, 0);
  drive(2, 2, calls, 211);
}

}  // namespace
}  // namespace gpt2fast
