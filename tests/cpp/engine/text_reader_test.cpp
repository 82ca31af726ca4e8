// Texts that are read once: hidden states, logits and log-probabilities, however they are cut.
#include "engine/text_reader.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;
using Floats = std::vector<float>;

Floats hidden_of(const Tokens& text, size_t first) {
  Floats hidden;
  for (size_t i = first; i < text.size(); ++i)
    hidden.push_back(FakeModel::hidden_after(std::span(text).first(i + 1)));
  return hidden;
}

// Reads with at most so many tokens a step.
void read(ByHand& engine, TextReader& reader, int64_t room) {
  CHECK(engine.admit(reader) == Admitted::kYes);
  while (!reader.done()) CHECK(engine.step(reader, room) > 0);
  engine.release(reader);
  CHECK(!reader.has_slot());
}

TEST(texts_that_do_not_fit_are_refused) {
  const EngineOptions options = fake_options();
  check_text(range(0, 48), 0, options);
  CHECK_THROWS(check_text(range(0, 48), 1, options), std::invalid_argument);
  CHECK_THROWS(check_text(Tokens{}, 0, options), std::invalid_argument);
  CHECK_THROWS(check_text(Tokens{24}, 0, options), std::invalid_argument);
  CHECK_THROWS(check_text(Tokens{-1}, 0, options), std::invalid_argument);
}

TEST(hidden_states_keys_and_values_continue_a_past) {
  const Tokens text = range(3, 14);
  const Tokens other = range(7, 14);
  for (const int64_t room : {8, 3}) {
    ByHand engine;
    // Two texts of which 4 tokens are past: [keys or values, text, position].
    Floats past(16);
    for (size_t i = 0; i < 16; ++i) past[i] = static_cast<float>((i / 4 % 2 == 0 ? text : other)[i % 4]);
    Floats hidden(20);
    Floats new_past(56, -1.0f);
    auto request = std::make_shared<ForwardRequest>();
    const Tokens rest(text.begin() + 4, text.end());
    const Tokens other_rest(other.begin() + 4, other.end());
    request->sequences = {rest, other_rest};
    request->past = Past{.batch = 2, .tokens = 4, .layers = {past.data()}};
    request->hidden = {hidden.data(), hidden.data() + 10};
    request->new_past = {new_past.data()};
    for (int64_t i = 0; i < 2; ++i) {
      HiddenReader reader(request, i, 1);
      CHECK_EQ(reader.pending(), 10);
      read(engine, reader, room);
    }
    CHECK(Floats(hidden.begin(), hidden.begin() + 10) == hidden_of(text, 4));
    CHECK(Floats(hidden.begin() + 10, hidden.end()) == hidden_of(other, 4));
    const Tokens both = joined(text, other);
    CHECK(std::ranges::equal(std::span(new_past).first(28), both, {}, {},
                             [](int32_t token) { return static_cast<float>(token); }));
    CHECK(std::ranges::equal(std::span(new_past).first(28), std::span(new_past).last(28)));
  }
}

TEST(hidden_states_before_layers_come_with_the_last_ones) {
  const Tokens text = range(3, 14);
  const Tokens rest(text.begin() + 4, text.end());
  Floats inputs;
  for (int64_t i = 4; i < 14; ++i) {
    inputs.push_back(FakeModel::layer_input_of(text[static_cast<size_t>(i)], i));
  }
  const Floats past(text.begin(), text.begin() + 4);
  const Floats keys_and_values = joined(past, past);
  for (const int64_t room : {8, 3}) {
    ByHand engine;
    Floats hidden(10);
    Floats layer_inputs(20);
    auto request = std::make_shared<ForwardRequest>();
    request->sequences = {rest};
    request->past = Past{.batch = 1, .tokens = 4, .layers = {keys_and_values.data()}};
    request->layers = {0, 0};
    request->hidden = {hidden.data()};
    request->layer_inputs = {layer_inputs.data()};
    HiddenReader reader(request, 0, 1);
    read(engine, reader, room);
    CHECK(hidden == hidden_of(text, 4));
    CHECK(layer_inputs == joined(inputs, inputs));
  }
}

TEST(rows_that_do_not_ascend_within_the_text_are_refused) {
  const Tokens text = range(1, 5);
  Floats logits(3 * FakeModel::kVocabulary);
  for (const std::vector<int64_t>& rows : {std::vector<int64_t>{1, 1}, {2, 1}, {0, 5}, {-1}}) {
    CHECK_THROWS(LogitsReader(text, std::span(rows), logits.data()), std::invalid_argument);
  }
}

TEST(logits_of_every_token_or_of_the_rows_that_are_asked_for) {
  const Tokens text = range(1, 13);
  const std::vector<int64_t> some{0, 4, 5, 12};
  std::vector<int64_t> all(13);
  std::iota(all.begin(), all.end(), 0);
  for (const int64_t room : {8, 5, 1}) {
    for (const auto& rows : {some, all}) {
      ByHand engine;
      Floats logits(rows.size() * FakeModel::kVocabulary);
      std::optional<std::span<const int64_t>> wanted;
      if (rows.size() < all.size()) wanted = rows;
      LogitsReader reader(text, wanted, logits.data());
      read(engine, reader, room);
      Floats expected;
      for (const int64_t row : rows) {
        const Floats scores = FakeModel::scores_after(std::span(text).first(static_cast<size_t>(row) + 1));
        expected.insert(expected.end(), scores.begin(), scores.end());
      }
      CHECK(logits == expected);
    }
  }
}

TEST(a_text_is_cut_where_there_are_no_more_rows) {
  ByHand engine;
  const Tokens text = range(1, 8);
  Floats logits(8 * FakeModel::kVocabulary);
  LogitsReader reader(text, std::nullopt, logits.data());
  CHECK(engine.admit(reader) == Admitted::kYes);
  StepPlan plan(8, 3, 1);
  plan.open(8, 0);
  reader.plan(plan);
  CHECK_EQ(plan.tokens(), 3);
  plan.clear();
  plan.open(8, 3);
  reader.plan(plan);
  CHECK(plan.empty());
}

TEST(scores_are_those_of_the_texts_own_tokens) {
  const Tokens text = range(5, 17);
  for (const int64_t room : {8, 1}) {
    for (const int64_t first : {1, 6, 16}) {
      ByHand engine;
      ScoreReader reader(text, first, 0, FakeModel::kVocabulary);
      CHECK_EQ(reader.pending(), 16);
      read(engine, reader, room);
      CHECK(reader.scores().chosen == scores_of(text, static_cast<size_t>(first)));
      CHECK(reader.scores().top_ids.empty());
    }
  }
}

TEST(the_likeliest_tokens_come_with_the_scores) {
  ByHand engine;
  const Tokens text = range(5, 6);
  ScoreReader reader(text, 1, 2, FakeModel::kVocabulary);
  read(engine, reader, 8);
  const Logprobs& scores = reader.scores();
  CHECK_EQ(scores.top_ids.size(), size_t{10});
  CHECK_EQ(scores.top_values.size(), size_t{10});
  for (size_t i = 1; i < text.size(); ++i) {
    const Floats after = FakeModel::scores_after(std::span(text).first(i));
    const auto best = static_cast<int32_t>(std::ranges::max_element(after) - after.begin());
    CHECK_EQ(scores.top_ids[2 * (i - 1)], best);
    CHECK_EQ(scores.top_values[2 * (i - 1)], log_probability(after, best));
    CHECK(scores.top_values[2 * i - 1] <= scores.top_values[2 * (i - 1)]);
  }
}

TEST(a_single_token_has_nothing_to_score) {
  ScoreReader reader({7}, 1, 0, FakeModel::kVocabulary);
  CHECK(reader.done());
  CHECK(reader.scores().chosen.empty());
  CHECK_THROWS(ScoreReader({7, 8}, 0, 0, FakeModel::kVocabulary), std::invalid_argument);
}

TEST(a_reader_that_is_ended_is_done) {
  ByHand engine;
  ScoreReader reader(range(5, 17), 1, 0, FakeModel::kVocabulary);
  engine.admit(reader);
  engine.step(reader);
  CHECK(!reader.done());
  reader.end(FinishReason::kCancelled);
  CHECK(reader.done());
  CHECK_EQ(reader.scores().chosen.size(), size_t{8});
}

TEST(there_may_be_no_slot) {
  ByHand engine(1);
  ScoreReader first(range(5, 17), 1, 0, FakeModel::kVocabulary);
  ScoreReader second(range(5, 17), 1, 0, FakeModel::kVocabulary);
  CHECK(engine.admit(first) == Admitted::kYes);
  CHECK(engine.admit(second) == Admitted::kNoSlot);
  CHECK(!second.has_slot());
}

}  // namespace
}  // namespace gpt2fast
