// A text being generated: how it is read, decoded, paused, taken from its slot, reported and ended.
#include "engine/live_sequence.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

std::unique_ptr<LiveSequence> made(const ByHand& engine, Tokens prompt,
                                   std::shared_ptr<const GenerationOptions> options, bool streamed = false,
                                   std::shared_ptr<ChoiceHook> hook = nullptr) {
  return std::make_unique<LiveSequence>(Request{std::move(prompt), 0, std::move(hook)}, std::move(options),
                                        engine.options, streamed, std::make_shared<Waker>([] {}));
}

// What becomes of a text that runs alone.
TextResult generated(ByHand& engine, const Tokens& prompt, std::shared_ptr<const GenerationOptions> options) {
  const auto text = made(engine, prompt, std::move(options));
  CHECK(engine.admit(*text) == Admitted::kYes);
  engine.run(*text);
  engine.release(*text);
  return text->result();
}

TEST(log_probabilities_of_tokens_alone_or_with_the_likeliest) {
  ByHand engine;
  const Tokens tokens = FakeModel::greedy(range(0, 5), 4);
  for (const int32_t likeliest : {0, 2}) {
    const auto options = length(4);
    options->logprobs = likeliest;
    const auto text = made(engine, range(0, 5), options);
    text->prepare();  // as for the first text of a call, and again when it gets its slot
    engine.admit(*text);
    engine.run(*text);
    engine.release(*text);
    const Logprobs found = text->result().logprobs;
    CHECK(found.chosen == scores_of(joined(range(0, 5), tokens), 5));
    CHECK_EQ(found.top_ids.size(), static_cast<size_t>(4 * likeliest));
    for (size_t i = 0; i < 4 && likeliest > 0; ++i) CHECK_EQ(found.top_ids[2 * i], tokens[i]);
  }
}

TEST(a_prompt_is_read_in_parts_and_then_each_step_gives_a_token) {
  ByHand engine;
  const auto text = made(engine, range(0, 11), length(5));
  CHECK(!text->has_slot());
  CHECK(engine.admit(*text) == Admitted::kYes);
  CHECK_EQ(text->pending(), 11);
  CHECK(!text->decodes());
  CHECK_EQ(engine.step(*text, 8), 8);
  CHECK_EQ(text->pending(), 3);
  CHECK_EQ(text->contents().cached_length, 8);
  CHECK_EQ(engine.step(*text, 0), 0);
  CHECK_EQ(engine.step(*text, 8), 3);
  CHECK_EQ(text->take_gains().chosen, 1);
  CHECK(text->decodes());
  while (!text->done()) CHECK_EQ(engine.step(*text, 8), 1);
  CHECK_EQ(text->take_gains().chosen, 4);
  const TextResult result = text->result();
  CHECK(result.tokens == FakeModel::greedy(range(0, 11), 5));
  CHECK(result.finish_reason == FinishReason::kLength);
  CHECK_EQ(result.cached_tokens, 0);
  CHECK(!result.kept_bytes.has_value());
}

TEST(an_end_of_text_token_ends_it) {
  ByHand engine;
  const Tokens free = FakeModel::greedy(range(0, 5), 20);
  const auto options = length(20);
  options->stop.eos_token_ids = {free[7]};
  const TextResult result = generated(engine, range(0, 5), options);
  CHECK(result.finish_reason == FinishReason::kEos);
  CHECK(result.tokens == Tokens(free.begin(), std::ranges::find(free, free[7]) + 1));
}

TEST(a_stop_string_ends_it_and_is_not_kept) {
  ByHand engine;
  const Tokens free = FakeModel::greedy(range(0, 5), 20);
  std::string spelled;
  for (const int32_t token : free) spelled.push_back(static_cast<char>('a' + token));
  const auto options = length(20);
  options->stop.stop_strings = {spelled.substr(7, 3)};
  options->stop.token_bytes = letter_tokens();
  const TextResult result = generated(engine, range(0, 5), options);
  CHECK(result.finish_reason == FinishReason::kStop);
  CHECK_EQ(result.tokens.size(), spelled.find(spelled.substr(7, 3)) + 3);
  CHECK_EQ(result.kept_bytes.value(), static_cast<int64_t>(result.tokens.size()) - 3);
}

TEST(a_stop_string_may_begin_in_the_prompt) {
  ByHand engine;
  const Tokens prompt = range(0, 5);
  const Tokens free = FakeModel::greedy(prompt, 2);
  const auto options = length(2);
  options->stop.stop_strings = {letters_of({prompt[3], prompt[4], free[0]})};
  options->stop.token_bytes = letter_tokens();
  const TextResult result = generated(engine, prompt, options);
  CHECK(result.finish_reason == FinishReason::kStop);
  CHECK(result.tokens == Tokens{free[0]});
  CHECK_EQ(result.kept_bytes.value(), 0);
  const auto in_output = std::make_shared<GenerationOptions>(*options);
  in_output->stop.stop_begins_in_prompt = false;
  CHECK(generated(engine, prompt, in_output).tokens == free);
  options->stop.stop_strings = {letters_of(prompt)};  // which ends in the prompt, too
  CHECK(generated(engine, prompt, options).tokens == free);
}

TEST(no_tokens_wanted_is_done_at_once) {
  const ByHand engine;
  const auto text = made(engine, range(0, 5), length(0));
  CHECK(text->done());
  CHECK(text->result().finish_reason == FinishReason::kLength);
  CHECK(text->result().tokens.empty());
}

TEST(the_context_window_ends_a_text_or_slides) {
  ByHand engine(1);
  const Tokens prompt = range(0, 40);
  const TextResult full = generated(engine, prompt, length(30));
  CHECK(full.finish_reason == FinishReason::kLength);
  CHECK(full.tokens == FakeModel::greedy(prompt, 9));  // the last one is not read any more

  const auto options = length(30);
  options->slide = true;
  // When all 48 positions are taken, the newer 24 tokens are read again as a text of their own.
  Tokens text = joined(prompt, FakeModel::greedy(prompt, 9));
  text = joined(text, FakeModel::greedy({text.end() - 24, text.end()}, 21));
  const Tokens expected(text.begin() + 40, text.end());
  CHECK(generated(engine, prompt, options).tokens == expected);
}

TEST(a_sliding_text_may_begin_with_more_than_the_window) {
  ByHand engine;
  const auto options = length(5);
  options->slide = true;
  Tokens prompt = range(0, 60);
  CHECK(generated(engine, prompt, options).tokens == FakeModel::greedy({prompt.end() - 24, prompt.end()}, 5));
  CHECK_THROWS(made(engine, prompt, length(5)), std::invalid_argument);
}

TEST(drafts_save_steps_and_change_nothing) {
  // One forced token after another, which the text's own past foretells.
  const auto options = length(20);
  options->sampling.forced_prefix = range(0, 20);
  ByHand plain;
  const TextResult expected = generated(plain, range(0, 24), options);
  const auto drafting = std::make_shared<GenerationOptions>(*options);
  drafting->prompt_lookup_num_tokens = 4;
  ByHand engine;
  const auto text = made(engine, range(0, 24), drafting);
  engine.admit(*text);
  engine.run(*text);
  CHECK(text->result().tokens == expected.tokens);
  const TokenGains gains = text->take_gains();
  CHECK_EQ(gains.chosen, 20);
  CHECK(gains.accepted > 0 && gains.accepted <= gains.drafted);
  CHECK_EQ(engine.model.steps(), plain.model.steps() - gains.accepted);
}

TEST(drafts_leave_room_for_others_and_end_with_the_text) {
  const auto options = length(20);
  options->sampling.forced_prefix = range(0, 20);
  options->prompt_lookup_num_tokens = 8;
  ByHand engine;
  const auto text = made(engine, range(0, 24), options);
  engine.admit(*text);
  for (int i = 0; i < 3; ++i) engine.step(*text, 8);  // the prompt
  while (!text->done()) CHECK(engine.step(*text, 3) <= 3);
  CHECK(text->result().tokens == range(0, 20));
}

TEST(a_lost_slot_changes_nothing) {
  const Tokens expected = FakeModel::greedy(range(0, 11), 12);
  for (const bool remembered : {true, false}) {
    ByHand engine(1);
    const auto text = made(engine, range(0, 11), length(12));
    engine.admit(*text);
    for (int i = 0; i < 6; ++i) engine.step(*text);
    engine.release(*text);
    CHECK(!text->has_slot());
    CHECK_EQ(text->contents().slot, -1);
    if (!remembered) engine.slots.clear_idle();
    CHECK(engine.admit(*text) == Admitted::kYes);
    CHECK_EQ(text->pending(), remembered ? 1 : 16);
    engine.run(*text);
    CHECK(text->result().tokens == expected);
    CHECK_EQ(text->result().cached_tokens, 0);  // as it was at first
  }
}

TEST(a_known_beginning_is_not_read) {
  ByHand engine(1);
  CHECK_EQ(generated(engine, range(0, 20), length(4)).cached_tokens, 0);
  const TextResult again = generated(engine, range(0, 20), length(4));
  CHECK_EQ(again.cached_tokens, 19);
  CHECK(again.tokens == FakeModel::greedy(range(0, 20), 4));
  const auto unshared = length(4);
  unshared->use_prefix_cache = false;
  CHECK_EQ(generated(engine, range(0, 20), unshared).cached_tokens, 0);
}

TEST(a_stream_pauses_when_its_reader_is_behind) {
  ByHand engine;  // read_ahead is 4
  Mailbox mailbox(nullptr, 0);
  const auto text = made(engine, range(0, 3), length(20), true);
  engine.admit(*text);
  for (int i = 1; i <= 5; ++i) {
    CHECK(text->readiness() == Readiness::kReady);
    engine.step(*text);
    CHECK(text->report(mailbox, 7));
    CHECK(!text->report(mailbox, 7));  // nothing is new
  }
  CHECK(text->readiness() == Readiness::kPaused);
  // It goes on when half has been read.
  CHECK(text->mark_read(2));
  CHECK(text->readiness() == Readiness::kPaused);
  CHECK(text->mark_read(1));
  CHECK(text->readiness() == Readiness::kReady);
  CHECK(!text->mark_read(1));
  const std::vector<Progress> progress = mailbox.take();
  CHECK_EQ(progress.size(), size_t{5});
  const Tokens expected = FakeModel::greedy(range(0, 3), 5);
  for (size_t i = 0; i < 5; ++i) {
    CHECK_EQ(progress[i].index, 7);
    CHECK(progress[i].new_tokens == Tokens{expected[i]});
    CHECK(progress[i].finish_reason == FinishReason::kNone);
  }
}

TEST(the_end_is_reported_once) {
  ByHand engine;
  Mailbox mailbox(nullptr, 0);
  const auto text = made(engine, range(0, 3), length(20), true);
  engine.admit(*text);
  engine.step(*text);
  text->report(mailbox, 0);
  text->end(FinishReason::kTime);
  CHECK(text->report(mailbox, 0));
  CHECK(!text->report(mailbox, 0));
  const std::vector<Progress> progress = mailbox.take();
  CHECK_EQ(progress.size(), size_t{2});
  CHECK(progress[1].new_tokens.empty());
  CHECK(progress[1].finish_reason == FinishReason::kTime);
  const auto unstreamed = made(engine, range(0, 3), length(1));
  engine.admit(*unstreamed);
  engine.run(*unstreamed);
  CHECK(!unstreamed->report(mailbox, 0));
}

TEST(log_probabilities_are_kept_and_reported_with_their_tokens) {
  ByHand engine;
  Mailbox mailbox(nullptr, 0);
  const auto options = length(3);
  options->logprobs = 2;
  const auto text = made(engine, range(0, 3), options, true);
  engine.admit(*text);
  engine.run(*text);
  text->report(mailbox, 0);
  const Logprobs& kept = text->result().logprobs;
  const Tokens all = joined(range(0, 3), text->result().tokens);
  CHECK(kept.chosen == scores_of(all, 3));
  CHECK_EQ(kept.top_ids.size(), size_t{6});
  for (size_t i = 0; i < 3; ++i) {
    CHECK_EQ(kept.top_ids[2 * i], all[3 + i]);  // greedy: the likeliest is the chosen one
    CHECK_EQ(kept.top_values[2 * i], kept.chosen[i]);
  }
  const Logprobs reported = mailbox.take()[0].logprobs;
  CHECK(reported.chosen == kept.chosen);
  CHECK(reported.top_ids == kept.top_ids);
  CHECK(reported.top_values == kept.top_values);
}

// Allows odd tokens, ends the text after the third, and has the largest score doubled.
class OddTokens final : public ChoiceHook {
 public:
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override { return &mask_; }
  void process_scores(const TokenHistory& history, std::span<float>) override {
    outputs.push_back(static_cast<int64_t>(history.output.size()));
  }
  bool is_complete(const TokenHistory& history) override { return history.output.size() == 3; }

  std::vector<int64_t> outputs;

 private:
  uint32_t mask_ = 0xAAAAAAAA;
};

Tokens odd_tokens(Tokens text, int count) {
  const size_t prompt = text.size();
  for (int i = 0; i < count; ++i) {
    std::vector<float> scores = FakeModel::scores_after(text);
    for (size_t token = 0; token < scores.size(); token += 2) scores[token] = -1.0f;
    text.push_back(static_cast<int32_t>(std::ranges::max_element(scores) - scores.begin()));
  }
  return {text.begin() + static_cast<std::ptrdiff_t>(prompt), text.end()};
}

TEST(a_hook_is_run_between_steps) {
  ByHand engine;
  const auto hook = std::make_shared<OddTokens>();
  const auto text = made(engine, range(0, 3), length(9), false, hook);
  engine.admit(*text);
  CHECK(text->hook() == nullptr);
  while (!text->done()) {
    engine.step(*text);
    CHECK(text->readiness() == Readiness::kAway);
    CHECK(text->hook() != nullptr);
    text->hook()->run_hook();
    CHECK(text->readiness() == Readiness::kReady);
  }
  CHECK(text->result().tokens == odd_tokens(range(0, 3), 3));
  CHECK(text->result().finish_reason == FinishReason::kStop);
  CHECK(hook->outputs == (std::vector<int64_t>{0, 1, 2}));
}

TEST(a_hook_that_is_dropped_sees_the_same_scores_later) {
  ByHand engine;
  const auto hook = std::make_shared<OddTokens>();
  const auto text = made(engine, range(0, 3), length(9), false, hook);
  engine.admit(*text);
  engine.step(*text);
  text->drop_hook();
  CHECK(text->readiness() == Readiness::kReady);
  CHECK(hook->outputs.empty());
  engine.release(*text);
  engine.admit(*text);
  while (!text->done()) {
    CHECK_EQ(engine.step(*text), 1);
    text->hook()->run_hook();
  }
  CHECK(text->result().tokens == odd_tokens(range(0, 3), 3));
}

TEST(a_text_ends_where_no_token_is_allowed) {
  ByHand engine;
  const auto options = length(9);
  for (int32_t token = 0; token < FakeModel::kVocabulary; ++token) {
    options->sampling.suppress_tokens.push_back(token);
  }
  const TextResult result = generated(engine, range(0, 3), options);
  CHECK(result.finish_reason == FinishReason::kConstraint);
  CHECK(result.tokens.empty());
}

TEST(bad_requests_are_refused) {
  const ByHand engine;
  CHECK_THROWS(made(engine, {}, length(1)), std::invalid_argument);
  CHECK_THROWS(made(engine, {24}, length(1)), std::invalid_argument);
  CHECK_THROWS(made(engine, {-1}, length(1)), std::invalid_argument);
  CHECK_THROWS(made(engine, {1}, length(-1)), std::invalid_argument);
  CHECK_THROWS(made(engine, Tokens(49, 1), length(1)), std::invalid_argument);
  const auto without_bytes = length(1);
  without_bytes->stop.stop_strings = {"a"};
  CHECK_THROWS(made(engine, {1}, without_bytes), std::invalid_argument);
  const auto cold = length(1);
  cold->sampling.temperature = 0;
  const auto text = made(engine, {1}, cold);
  CHECK_THROWS(text->prepare(), std::invalid_argument);
}

TEST(the_distribution_of_the_next_token_can_be_asked_for) {
  const Request request{range(0, 3), 0, nullptr};
  GenerationOptions options;
  options.sampling.do_sample = true;
  options.sampling.top_k = 1;
  const std::vector<float> logits = FakeModel::scores_after(range(0, 3));
  const std::vector<float> probabilities = next_token_distribution(request, options, {}, logits);
  CHECK_EQ(probabilities[static_cast<size_t>(FakeModel::greedy(range(0, 3), 1)[0])], 1.0f);
  CHECK_EQ(std::ranges::count(probabilities, 0.0f), FakeModel::kVocabulary - 1);
  CHECK_THROWS(next_token_distribution(request, options, Tokens{24}, logits), std::invalid_argument);
}

}  // namespace
}  // namespace gpt2fast
