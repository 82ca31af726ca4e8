// The engine over a small random model: results, reports, ends, cancelling, drafts, prefixes, errors.
#include "gpt2fast/engine.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/ort_testing.h"
#include "support/small_model.h"

namespace gpt2fast {
namespace {

using namespace testing::small_model;

using Tokens = std::vector<int32_t>;

class LoadedEngine {
 public:
  explicit LoadedEngine(int64_t max_sequences = 4, int64_t max_step_tokens = 16)
      : engine_(Engine::create(options_of(max_sequences, max_step_tokens))) {}
  Engine* operator->() const { return engine_.get(); }
  std::shared_ptr<Engine> get() const { return engine_; }

  std::unique_ptr<GenerationCall> start(const std::vector<Tokens>& prompts, const GenerationOptions& options,
                                        bool streamed = false, uint64_t seed = 0) const {
    std::vector<Request> requests;
    for (const Tokens& prompt : prompts)
      requests.push_back({.prompt = prompt, .seed = seed, .hook = nullptr});
    CallOptions call;
    call.streamed = streamed;
    return engine_->generate(std::move(requests), std::make_shared<const GenerationOptions>(options), call);
  }

  TextResult result(const Tokens& prompt, const GenerationOptions& options,
                    const InterruptCheck& interrupted = {}, uint64_t seed = 0) const {
    const auto call = start({prompt}, options, false, seed);
    call->wait(interrupted);
    return call->results()[0][0];
  }
  Tokens generate(const Tokens& prompt, const GenerationOptions& options, uint64_t seed = 0) const {
    return result(prompt, options, {}, seed).tokens;
  }
  // Log-probabilities of the tokens from `first` on.
  std::vector<float> scores(const Tokens& text, int64_t first) const {
    const auto call = engine_->score({.sequences = {text}, .first = {first}, .top = 0}, {});
    call->wait({});
    return call->results()[0].chosen;
  }

 private:
  std::shared_ptr<Engine> engine_;
};

GenerationOptions length(int64_t max_new_tokens) {
  GenerationOptions options;
  options.stop.max_new_tokens = max_new_tokens;
  return options;
}

GenerationOptions endless() {
  GenerationOptions options = length(1'000'000'000);
  options.slide = true;
  return options;
}

std::string spelled(const Tokens& tokens) {
  std::string text;
  for (const int32_t token : tokens) text.push_back(static_cast<char>('A' + token));
  return text;
}

Tokens long_prompt() {
  Tokens prompt;
  for (int32_t i = 0; i < 30; ++i) prompt.push_back((i * 7) % kVocabulary);
  return prompt;
}

ORT_TEST(next_reports_each_token_once_and_how_it_ended) {
  const LoadedEngine engine(4, 7);  // the long prompt takes several steps
  const std::vector<Tokens> prompts{long_prompt(), {5, 6}, {1, 2, 3}};
  GenerationOptions options = length(25);
  options.stop.eos_token_ids = {engine.generate({5, 6}, length(10))[3]};
  options.prompt_lookup_num_tokens = 6;  // several tokens in a step
  std::vector<TextResult> expected;
  for (const Tokens& prompt : prompts) expected.push_back(engine.result(prompt, options));
  CHECK(expected[1].finish_reason == FinishReason::kEos);

  const auto call = engine.start(prompts, options, true);
  std::vector<Tokens> reported(prompts.size());
  std::vector<FinishReason> reasons(prompts.size(), FinishReason::kNone);
  for (auto progress = call->next({}); !progress.empty(); progress = call->next({})) {
    for (const Progress& one : progress) {
      const auto i = static_cast<size_t>(one.index);
      CHECK(!one.new_tokens.empty());
      CHECK(reasons[i] == FinishReason::kNone);
      reported[i].insert(reported[i].end(), one.new_tokens.begin(), one.new_tokens.end());
      reasons[i] = one.finish_reason;
    }
  }
  const auto results = call->results();
  for (size_t i = 0; i < prompts.size(); ++i) {
    CHECK(reported[i] == expected[i].tokens);
    CHECK(results[i][0].tokens == expected[i].tokens);
    CHECK(reasons[i] == expected[i].finish_reason);
  }
}

ORT_TEST(a_prompt_of_several_steps_is_read_before_next_returns) {
  const LoadedEngine engine(4, 7);
  const auto call = engine.start({long_prompt()}, length(5), true);
  const std::vector<Progress> progress = call->next({});
  CHECK_EQ(progress.size(), size_t{1});
  CHECK_EQ(progress[0].new_tokens.size(), size_t{1});
  CHECK_EQ(progress[0].new_tokens[0], engine.generate(long_prompt(), length(1))[0]);
}

ORT_TEST(cutting_the_prompt_does_not_change_the_output) {
  const LoadedEngine whole(4, 64);
  const LoadedEngine cut(4, 7);
  const Tokens expected = whole.generate(long_prompt(), length(20));
  CHECK_EQ(expected.size(), size_t{20});
  CHECK(cut.generate(long_prompt(), length(20)) == expected);
}

ORT_TEST(drafts_and_prefixes_do_not_change_the_output) {
  const LoadedEngine engine;
  const LoadedEngine assistant(2, 5);
  const Tokens prompt = long_prompt();
  const Tokens expected = engine.generate(prompt, length(25));
  GenerationOptions looked_up = length(25);
  looked_up.prompt_lookup_num_tokens = 6;
  CHECK(engine.generate(prompt, looked_up) == expected);
  GenerationOptions assisted = length(25);
  assisted.assistant = assistant.get();
  assisted.num_assistant_tokens = 5;
  CHECK(engine.generate(prompt, assisted) == expected);
  CHECK(engine->stats().accepted_tokens > 0);
  assisted.num_assistant_tokens = 0;
  const int64_t drafted = engine->stats().drafted_tokens;
  CHECK(engine.generate(prompt, assisted) == expected);
  CHECK_EQ(engine->stats().drafted_tokens, drafted);

  auto prefix = std::make_shared<Prefix>();
  prefix->tokens.assign(prompt.begin(), prompt.begin() + 12);
  prefix->layers.assign(kLayers, std::vector<float>(2 * 12 * kWidth));
  std::vector<float> hidden(12 * kWidth);
  ForwardRequest forward{.sequences = {prefix->tokens},
                         .past = {},
                         .layers = {},
                         .hidden = {hidden.data()},
                         .layer_inputs = {},
                         .new_past = {}};
  for (auto& layer : prefix->layers) forward.new_past.push_back(layer.data());
  engine->forward(forward, {})->wait({});
  GenerationOptions continued = length(25);
  continued.prefix = prefix;
  continued.use_prefix_cache = false;
  const TextResult result = engine.result(prompt, continued);
  CHECK(result.tokens == expected);
  CHECK_EQ(result.cached_tokens, int64_t{12});
}

ORT_TEST(eos_stop_strings_and_length_end_a_sequence) {
  const LoadedEngine engine;
  const TextResult free = engine.result({5, 6}, length(10));
  CHECK(free.finish_reason == FinishReason::kLength);
  GenerationOptions at_eos = length(10);
  at_eos.stop.eos_token_ids = {free.tokens[3]};
  const TextResult ended = engine.result({5, 6}, at_eos);
  CHECK(ended.finish_reason == FinishReason::kEos);
  const auto first = std::ranges::find(free.tokens, free.tokens[3]);
  CHECK(ended.tokens == Tokens(free.tokens.begin(), first + 1));
  GenerationOptions at_string = length(10);
  const std::string stop = spelled({free.tokens[2], free.tokens[3]});
  at_string.stop.stop_strings = {stop};
  at_string.stop.token_bytes = letters();
  const TextResult stopped = engine.result({5, 6}, at_string);
  CHECK(stopped.finish_reason == FinishReason::kStop);
  CHECK_EQ(stopped.kept_bytes.value(), static_cast<int64_t>(spelled(free.tokens).find(stop)));
}

ORT_TEST(safe_bytes_are_counted_where_a_stop_string_could_take_some_back) {
  const LoadedEngine engine;
  const Tokens free = engine.generate({5, 6}, length(4));
  GenerationOptions watched = length(4);
  // Begins with the second token, and goes on with what is not in the vocabulary.
  watched.stop.stop_strings = {spelled({free[1]}) + "!"};
  watched.stop.token_bytes = letters();
  const auto call = engine.start({{5, 6}}, watched, true);
  call->next({});
  CHECK_EQ(call->next({})[0].safe_bytes.value(), int64_t{1});
  call->wait({});
  CHECK_EQ(call->results()[0][0].kept_bytes.value(), int64_t{4});
  const auto unwatched = engine.start({{5, 6}}, length(4), true);
  CHECK(!unwatched->next({})[0].safe_bytes.has_value());
  unwatched->wait({});
  CHECK(!unwatched->results()[0][0].kept_bytes.has_value());
}

ORT_TEST(cancelling_ends_what_runs) {
  const LoadedEngine engine;
  const auto call = engine.start({{1}, {2}}, length(60), true);
  CHECK_EQ(call->next({}).size(), size_t{2});
  call->cancel();
  const std::vector<Progress> progress = call->next({});
  CHECK_EQ(progress.size(), size_t{2});
  CHECK(progress[0].new_tokens.empty());
  CHECK(progress[0].finish_reason == FinishReason::kCancelled);
  CHECK(call->next({}).empty());
  const auto results = call->results();
  CHECK(results[0][0].finish_reason == FinishReason::kCancelled);
  CHECK_EQ(results[0][0].tokens.size(), size_t{1});
  CHECK_EQ(engine->stats().cancelled, int64_t{2});
}

ORT_TEST(a_call_that_nobody_holds_any_more_gives_its_slot_back) {
  const LoadedEngine engine;
  {
    const auto call = engine.start({{1}, {2}}, endless(), true);
    CHECK(!call->next({}).empty());
    CHECK_EQ(engine->stats().running, int64_t{2});
  }
  CHECK_EQ(engine->stats().running, int64_t{0});
  CHECK_EQ(engine->stats().slots_used, int64_t{0});
}

// Closes the engine before the choice of a token.
class Closing final : public ChoiceHook {
 public:
  explicit Closing(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override {
    engine_->close();
    return nullptr;
  }
  void process_scores(const TokenHistory&, std::span<float>) override {}
  bool is_complete(const TokenHistory&) override { return false; }

 private:
  std::shared_ptr<Engine> engine_;
};

ORT_TEST(host_code_that_the_engine_runs_cannot_close_it) {
  const LoadedEngine engine;
  std::vector<Request> requests{
      {.prompt = {1, 2}, .seed = 0, .hook = std::make_shared<Closing>(engine.get())}};
  const auto call =
      engine->generate(std::move(requests), std::make_shared<const GenerationOptions>(length(5)), {});
  CHECK_THROWS(call->wait({}), std::runtime_error);
  const InterruptCheck closing = [&] {
    engine->close();
    return false;
  };
  CHECK_THROWS(engine.result({1, 2}, endless(), closing), std::runtime_error);
  CHECK_EQ(engine.generate({1, 2}, length(5)).size(), size_t{5});
}

ORT_TEST(a_closed_engine_says_so) {
  const LoadedEngine engine;
  const auto call = engine.start({{1}}, endless(), true);
  call->next({});
  engine->close();
  CHECK_THROWS(call->wait({}), ClosedError);
  CHECK_THROWS(engine.generate({1}, length(5)), ClosedError);
  CHECK_THROWS(engine->stats(), ClosedError);
  engine->close();
}

ORT_TEST(an_interrupt_goes_up_and_the_engine_lives_on) {
  const LoadedEngine engine;
  const Tokens expected = engine.generate({1, 2}, length(30));
  // Asked every few milliseconds only, over steps that take microseconds.
  int asked = 0;
  const InterruptCheck at_the_third = [&asked] { return ++asked == 3; };
  CHECK_THROWS(engine.result({1, 2}, endless(), at_the_third), Interrupted);
  CHECK(engine.generate({1, 2}, length(30)) == expected);
}

ORT_TEST(bad_requests_are_refused) {
  const LoadedEngine engine;
  CHECK_THROWS(engine.start({Tokens{}}, length(1)), std::invalid_argument);
  CHECK_THROWS(engine.start({Tokens{kVocabulary}}, length(1)), std::invalid_argument);
  CHECK_THROWS(engine.start({Tokens{-1}}, length(1)), std::invalid_argument);
  CHECK_THROWS(engine.start({Tokens{1}}, length(-1)), std::invalid_argument);
  CHECK_THROWS(engine.start({Tokens(kPositions + 1, 1)}, length(1)), std::invalid_argument);
  GenerationOptions without_bytes = length(3);
  without_bytes.stop.stop_strings = {"A"};
  CHECK_THROWS(engine.start({{1, 2}}, without_bytes), std::invalid_argument);
  GenerationOptions cold = length(3);
  cold.sampling.temperature = 0;
  CHECK_THROWS(engine.start({{1, 2}}, cold), std::invalid_argument);
  GenerationOptions strange = length(3);
  auto prefix = std::make_shared<Prefix>();
  prefix->tokens = {1};
  prefix->layers.assign(kLayers, std::vector<float>(3));
  strange.prefix = prefix;
  CHECK_THROWS(engine.start({{1, 2}}, strange), std::invalid_argument);
  CHECK_EQ(engine->stats().calls, int64_t{0});
}

ORT_TEST(a_beams_score_is_that_of_its_tokens) {
  const LoadedEngine engine;
  GenerationOptions beams = length(10);
  beams.num_beams = 3;
  beams.num_return_sequences = 2;
  const auto call = engine.start({{3, 1, 4}}, beams);
  call->wait({});
  const std::vector<TextResult> best = call->results()[0];
  CHECK_EQ(best.size(), size_t{2});
  CHECK(best[0].score >= best[1].score);
  for (const TextResult& one : best) {
    Tokens text{3, 1, 4};
    text.insert(text.end(), one.tokens.begin(), one.tokens.end());
    double total = 0;
    for (const float chosen : engine.scores(text, 3)) total += static_cast<double>(chosen);
    CHECK_NEAR(one.score, total / 10, 1e-5);
  }
}

// One of four kinds of work, as integers to compare.
Tokens work(const LoadedEngine& engine, int kind) {
  Tokens prompt = long_prompt();
  prompt.resize(static_cast<size_t>(9 + kind));
  GenerationOptions options = length(20);
  switch (kind % 4) {
    case 0:
      return engine.generate(prompt, options);
    case 1:
      options.sampling.do_sample = true;
      return engine.generate(prompt, options, static_cast<uint64_t>(kind));
    case 2:
      options.num_beams = 2;
      return engine.generate(prompt, options);
    default: {
      Tokens bits;
      for (const float score : engine.scores(prompt, 1)) bits.push_back(std::bit_cast<int32_t>(score));
      return bits;
    }
  }
}

ORT_TEST(threads_that_share_an_engine_get_what_each_gets_alone) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 3;
  const LoadedEngine alone;
  std::vector<Tokens> expected;
  for (int i = 0; i < kThreads; ++i) expected.push_back(work(alone, i));

  const LoadedEngine shared(3, 7);  // fewer slots than threads, which wait for one another
  std::vector<Tokens> found(kThreads * kRounds);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round)
        found[static_cast<size_t>(i * kRounds + round)] = work(shared, i);
    });
  }
  threads.emplace_back([&] {
    for (int round = 0; round < 20; ++round) shared->clear_prefix_cache();
  });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == expected[i / kRounds]);
}

ORT_TEST(another_thread_cancels) {
  const LoadedEngine engine;
  const auto call = engine.start({{1, 2}, {3}}, endless(), true);
  CHECK(!call->next({}).empty());
  std::thread other([&] { call->cancel(); });
  call->wait({});
  other.join();
  const auto results = call->results();
  CHECK(results[1][0].finish_reason == FinishReason::kCancelled);
  CHECK(!results[0][0].tokens.empty());
}

}  // namespace
}  // namespace gpt2fast
