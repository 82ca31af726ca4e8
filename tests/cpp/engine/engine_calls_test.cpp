// The engine's calls that read texts, and what callers may not do: over a small random model.
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "gpt2fast/engine.h"
#include "gpt2fast/errors.h"
#include "support/small_model.h"

namespace gpt2fast {
namespace {

using namespace testing::small_model;

using Tokens = std::vector<int32_t>;
using Floats = std::vector<float>;

const Tokens kText = {3, 1, 4, 1, 5, 9};

// What forward() gives for tokens behind a past: hidden states, the layer's input, keys and values.
struct Forwarded {
  Floats hidden, layer_input;
  std::vector<Floats> keys_and_values;
};

Forwarded forwarded(Engine& engine, std::span<const int32_t> tokens, const Forwarded* past = nullptr,
                    int64_t past_tokens = 0) {
  const size_t values = tokens.size() * kWidth;
  const size_t cached = 2 * (static_cast<size_t>(past_tokens) + tokens.size()) * kWidth;
  Forwarded result{Floats(values), Floats(values), std::vector<Floats>(kLayers, Floats(cached))};
  ForwardRequest request{.sequences = {tokens},
                         .past = {},
                         .layers = {1},
                         .hidden = {result.hidden.data()},
                         .layer_inputs = {result.layer_input.data()},
                         .new_past = {}};
  for (Floats& layer : result.keys_and_values) request.new_past.push_back(layer.data());
  if (past != nullptr) {
    request.past = Past{.batch = 1, .tokens = past_tokens, .layers = {}};
    for (const Floats& layer : past->keys_and_values) request.past->layers.push_back(layer.data());
  }
  engine.forward(request, {})->wait({});
  return result;
}

ORT_TEST(tokens_behind_a_past_have_the_hidden_states_that_they_have_in_the_whole) {
  const auto engine = Engine::create(options_of());
  const Forwarded whole = forwarded(*engine, kText);
  const Forwarded first = forwarded(*engine, std::span(kText).first(4));
  const Forwarded rest = forwarded(*engine, std::span(kText).subspan(4), &first, 4);
  const auto behind = [](const Floats& values) { return Floats(values.begin() + 4 * kWidth, values.end()); };
  CHECK(rest.hidden == behind(whole.hidden));
  CHECK(rest.layer_input == behind(whole.layer_input));
  CHECK(rest.keys_and_values == whole.keys_and_values);
}

Floats logits_of(Engine& engine, const std::optional<std::vector<int64_t>>& rows, size_t count) {
  Floats logits(count * kVocabulary);
  LogitsRequest request{.sequences = {kText}, .rows = {}, .logits = {logits.data()}};
  if (rows) request.rows.push_back(*rows);
  engine.logits(request, {})->wait({});
  return logits;
}

float log_probability(std::span<const float> logits, int32_t token) {
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) - std::log(total));
}

ORT_TEST(logits_of_some_rows_and_scores_are_those_of_all_rows) {
  const auto engine = Engine::create(options_of());
  const Floats all = logits_of(*engine, std::nullopt, kText.size());
  const auto row = [&](size_t i) { return std::span(all).subspan(i * kVocabulary, kVocabulary); };
  const Floats some = logits_of(*engine, std::vector<int64_t>{1, 4}, 2);
  CHECK(std::ranges::equal(std::span(some).first(kVocabulary), row(1)));
  CHECK(std::ranges::equal(std::span(some).last(kVocabulary), row(4)));

  const auto score = engine->score({.sequences = {kText}, .first = {2}, .top = 0}, {});
  CHECK_THROWS(score->results(), std::logic_error);
  score->wait({});
  CHECK(score->done());
  const Floats chosen = score->results()[0].chosen;
  CHECK_EQ(chosen.size(), size_t{4});
  for (size_t i = 0; i < chosen.size(); ++i) {
    CHECK_NEAR(chosen[i], log_probability(row(i + 1), kText[i + 2]), 1e-5);
  }

  const auto continued = engine->score_continuations(
      {.prompt = {3, 1}, .continuations = {{4, 1, 5, 9}, {4}}, .prefix = nullptr}, {});
  CHECK_THROWS(continued->results(), std::logic_error);
  continued->wait({});
  const std::vector<Logprobs> found = continued->results();
  for (size_t i = 0; i < chosen.size(); ++i) CHECK_NEAR(found[0].chosen[i], chosen[i], 1e-5);
  CHECK_EQ(found[1].chosen.size(), size_t{1});
  CHECK_NEAR(found[1].chosen[0], chosen[0], 1e-5);
}

ORT_TEST(wrong_calls_are_refused) {
  const auto engine = Engine::create(options_of());
  Floats hidden(kText.size() * kWidth);
  for (const int64_t layer : {int64_t{-1}, kLayers}) {
    const ForwardRequest request{.sequences = {kText},
                                 .past = {},
                                 .layers = {layer},
                                 .hidden = {hidden.data()},
                                 .layer_inputs = {hidden.data()},
                                 .new_past = {}};
    CHECK_THROWS(engine->forward(request, {}), std::invalid_argument);
  }
  CHECK_THROWS(engine->score({.sequences = {kText}, .first = {1, 1}, .top = 0}, {}), std::invalid_argument);
  CHECK_THROWS(engine->score({.sequences = {kText}, .first = {0}, .top = 0}, {}), std::invalid_argument);
  CHECK_THROWS(engine->score({.sequences = {Tokens(kPositions + 1, 1)}, .first = {1}, .top = 0}, {}),
               std::invalid_argument);
  const auto continuations = [&](Tokens prompt, Tokens continuation, std::shared_ptr<const Prefix> prefix) {
    return engine->score_continuations({.prompt = std::move(prompt),
                                        .continuations = {std::move(continuation)},
                                        .prefix = std::move(prefix)},
                                       {});
  };
  CHECK_THROWS(continuations({}, {1}, nullptr), std::invalid_argument);
  CHECK_THROWS(continuations({1}, Tokens(kPositions + 1, 1), nullptr), std::invalid_argument);
  const auto prefix_of = [](size_t tokens, size_t layers, size_t values) {
    return std::make_shared<Prefix>(
        Prefix{.tokens = Tokens(tokens, 1), .layers = std::vector<Floats>(layers, Floats(values))});
  };
  const auto layers = static_cast<size_t>(kLayers);
  const auto two = static_cast<size_t>(2 * 2 * kWidth);
  CHECK_THROWS(continuations({1, 2}, {1}, prefix_of(2, layers + 1, two)), std::invalid_argument);
  CHECK_THROWS(continuations({1, 2}, {1}, prefix_of(2, layers, two - 1)), std::invalid_argument);
  const auto beyond = static_cast<size_t>(kPositions + 1);
  CHECK_THROWS(continuations({1, 2}, {1}, prefix_of(beyond, layers, 2 * beyond * kWidth)),
               std::invalid_argument);
  CHECK_EQ(engine->stats().calls, int64_t{0});
}

std::unique_ptr<GenerationCall> started(Engine& engine, int64_t count, bool streamed) {
  const auto options = std::make_shared<GenerationOptions>();
  options->stop.max_new_tokens = count;
  CallOptions call;
  call.streamed = streamed;
  return engine.generate({{.prompt = {3, 1}, .seed = 0, .hook = nullptr}}, options, call);
}

ORT_TEST(what_is_taken_is_not_given_again) {
  const auto engine = Engine::create(options_of());
  const auto call = started(*engine, 3, true);
  CHECK(call->take().empty());
  CHECK(!call->done());
  CHECK_THROWS(call->results(), std::logic_error);
  call->wait({});
  CHECK(call->done());
  const Tokens all = call->results()[0][0].tokens;
  CHECK_EQ(all.size(), size_t{3});
  Tokens taken;
  for (const Progress& one : call->next({})) {
    taken.insert(taken.end(), one.new_tokens.begin(), one.new_tokens.end());
  }
  CHECK(taken == all);
  CHECK(call->take().empty());
  CHECK(call->next({}).empty());
  call->close();
  call->close();
}

ORT_TEST(a_reader_that_comes_late_wakes_the_text_that_paused_for_it) {
  EngineOptions options = options_of(1);
  options.read_ahead = 4;
  const auto engine = Engine::create(options);
  const auto stream = started(*engine, 30, true);
  // There is one slot: the other call has it when the stream has paused.
  started(*engine, 5, false)->wait({});
  CHECK_EQ(engine->stats().recomputed, int64_t{1});
  Tokens taken;
  for (auto progress = stream->take(); !progress.empty(); progress = stream->next({})) {
    for (const Progress& one : progress) {
      taken.insert(taken.end(), one.new_tokens.begin(), one.new_tokens.end());
    }
  }
  CHECK_EQ(taken.size(), size_t{30});
  CHECK(taken == stream->results()[0][0].tokens);
}

// The last test: no engine can be made after it.
ORT_TEST(when_the_program_ends_calls_are_cancelled_and_no_engine_is_made) {
  const auto engine = Engine::create(options_of());
  const auto call = started(*engine, 1'000, false);
  Engine::create(options_of()).reset();  // which is gone by then
  close_all_engines();
  call->wait({});
  CHECK(call->results()[0][0].finish_reason == FinishReason::kCancelled);
  CHECK_THROWS(Engine::create(options_of()), ClosedError);
}

}  // namespace
}  // namespace gpt2fast
