// A search with beams over slots: the hypotheses are those of the same search without slots.
#include "engine/beam_generation.h"

#include <stdexcept>
#include <vector>

#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

std::shared_ptr<GenerationOptions> beams(int32_t num_beams, int64_t max_new_tokens) {
  auto options = length(max_new_tokens);
  options->num_beams = num_beams;
  options->num_return_sequences = num_beams;
  return options;
}

BeamGeneration made(const ByHand& engine, Tokens prompt, std::shared_ptr<const GenerationOptions> options) {
  return {Request{std::move(prompt), 0, nullptr}, std::move(options), engine.options};
}

TEST(beams_in_slots_find_what_the_search_alone_finds) {
  const Tokens prompt = range(2, 11);
  for (const int64_t room : {8, 4}) {
    for (const int32_t width : {1, 2, 4}) {
      const auto options = beams(width, 9);
      options->length_penalty = 0.5;
      options->sampling.repetition_penalty = 1.5f;
      options->stop.eos_token_ids = {3, 4};
      ByHand engine;
      BeamGeneration search = made(engine, prompt, options);
      CHECK_EQ(search.slots_needed(), width);
      CHECK(engine.admit(search) == Admitted::kYes);
      CHECK_EQ(engine.slots.free(), 4 - width);
      while (!search.done()) CHECK(engine.step(search, room) > 0);
      engine.release(search);
      CHECK_EQ(engine.slots.free(), 4);
      const auto hypotheses = expected_beams(prompt, *options);
      const std::vector<TextResult> results = search.results();
      CHECK_EQ(results.size(), hypotheses.size());
      for (size_t i = 0; i < results.size(); ++i) {
        CHECK(results[i].tokens == hypotheses[i].tokens);
        CHECK_EQ(results[i].score, hypotheses[i].score);
        const bool at_limit = hypotheses[i].ended == FinishReason::kNone;
        CHECK(results[i].finish_reason == (at_limit ? FinishReason::kLength : hypotheses[i].ended));
        CHECK(results[i].logprobs.chosen.empty());
        CHECK(!results[i].kept_bytes);
      }
    }
  }
}

TEST(beams_copy_only_what_a_slot_does_not_hold_already) {
  ByHand engine;
  const Tokens prompt = range(2, 20);  // more than the part of 16 positions that is copied at once
  BeamGeneration search = made(engine, prompt, beams(4, 9));
  engine.admit(search);
  while (search.pending() > 1) engine.step(search);
  // The fake model reads keys alone: the first value of each slot marks it from here on.
  KvCache& cache = engine.model.cache();
  const auto key = static_cast<float>(prompt[0]);
  for (int64_t slot = 0; slot < 4; ++slot) {
    const auto mark = static_cast<float>(100 + slot);
    cache.write(0, slot, 0, 1, &key, &mark);
  }
  engine.run(search);
  for (int64_t slot = 0; slot < 4; ++slot) {
    float found_key = 0, mark = 0;
    cache.read(0, slot, 0, 1, &found_key, &mark);
    CHECK_EQ(mark, static_cast<float>(100 + slot));
  }
  const auto hypotheses = expected_beams(prompt, *beams(4, 9));
  const std::vector<TextResult> results = search.results();
  CHECK_EQ(results.size(), hypotheses.size());
  for (size_t i = 0; i < results.size(); ++i) CHECK(results[i].tokens == hypotheses[i].tokens);
}

TEST(log_probabilities_are_those_that_scoring_the_text_gives) {
  const Tokens prompt = range(2, 11);
  for (const int32_t k : {0, 3}) {
    const auto options = beams(4, 9);
    options->sampling.repetition_penalty = 1.5f;
    options->stop.eos_token_ids = {3, 4};
    options->logprobs = k;
    ByHand engine;
    BeamGeneration search = made(engine, prompt, options);
    engine.admit(search);
    engine.run(search);
    engine.release(search);
    const auto hypotheses = expected_beams(prompt, *options);
    const std::vector<TextResult> results = search.results();
    CHECK_EQ(results.size(), hypotheses.size());
    for (size_t i = 0; i < results.size(); ++i) {
      CHECK(results[i].tokens == hypotheses[i].tokens);
      const Tokens text = joined(prompt, results[i].tokens);
      CHECK(results[i].logprobs.chosen == scores_of(text, prompt.size()));
      std::vector<int32_t> ids;
      std::vector<float> values;
      TopLogprobs likeliest(FakeModel::kVocabulary, k);
      for (size_t place = prompt.size(); k > 0 && place < text.size(); ++place) {
        for (const auto& [token, value] :
             likeliest.find(FakeModel::scores_after(std::span(text).first(place)))) {
          ids.push_back(token);
          values.push_back(value);
        }
      }
      CHECK(results[i].logprobs.top_ids == ids);
      CHECK(results[i].logprobs.top_values == values);
    }
  }
}

TEST(stop_strings_end_beams_and_are_cut_off) {
  const Tokens prompt = range(2, 11);
  const auto options = beams(3, 9);
  options->length_penalty = -1;  // short texts win
  const Tokens greedy = FakeModel::greedy(prompt, 3);
  options->stop.token_bytes = letter_tokens();
  options->stop.stop_strings = {letters_of({greedy[1], greedy[2]})};
  ByHand engine;
  BeamGeneration search = made(engine, prompt, options);
  engine.admit(search);
  engine.run(search);
  const auto hypotheses = expected_beams(prompt, *options);
  bool stopped = false;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    const TextResult result = search.results()[i];
    CHECK(result.tokens == hypotheses[i].tokens);
    const auto length = static_cast<int64_t>(result.tokens.size());
    const bool stops = result.finish_reason == FinishReason::kStop;
    CHECK_EQ(stops, letters_of(result.tokens).ends_with(options->stop.stop_strings[0]));
    CHECK_EQ(*result.kept_bytes, stops ? length - 2 : length);
    stopped |= stops;
  }
  CHECK(stopped);
}

TEST(a_stop_string_of_beams_may_begin_in_the_prompt) {
  const Tokens prompt = range(2, 11);
  const auto options = beams(3, 9);
  options->length_penalty = -9;  // the shortest text wins
  const Tokens greedy = FakeModel::greedy(prompt, 1);
  options->stop.token_bytes = letter_tokens();
  options->stop.stop_strings = {letters_of({prompt.back(), greedy[0]})};
  const auto best = [&] {
    ByHand engine;
    BeamGeneration search = made(engine, prompt, options);
    engine.admit(search);
    engine.run(search);
    return search.results()[0];
  };
  CHECK(best().tokens == greedy);
  CHECK(best().finish_reason == FinishReason::kStop);
  CHECK_EQ(*best().kept_bytes, 0);
  options->stop.stop_begins_in_prompt = false;
  CHECK(best().finish_reason == FinishReason::kLength);
}

TEST(one_beam_is_greedy) {
  ByHand engine;
  BeamGeneration search = made(engine, range(2, 3), beams(1, 20));
  engine.admit(search);
  engine.run(search);
  CHECK(search.results()[0].tokens == FakeModel::greedy(range(2, 3), 20));
}

TEST(the_prompt_is_read_once_and_cut_to_the_room) {
  ByHand engine;
  BeamGeneration search = made(engine, range(0, 10), beams(3, 5));
  engine.admit(search);
  CHECK(!search.decodes());
  CHECK_EQ(search.pending(), 10);
  CHECK_EQ(engine.step(search, 6), 6);
  CHECK_EQ(search.pending(), 4);
  CHECK_EQ(engine.step(search, 6), 4);
  CHECK(search.decodes());
  CHECK_EQ(search.pending(), 1);
  CHECK_EQ(engine.step(search, 2), 0);  // all beams or none
  CHECK_EQ(engine.step(search, 3), 3);
}

TEST(all_slots_are_had_at_once) {
  ByHand engine;
  const int64_t taken = engine.slots.acquire({}, {.reuses = false}, 0).slot;
  BeamGeneration search = made(engine, range(0, 3), beams(4, 5));
  CHECK(engine.admit(search) == Admitted::kNoSlot);
  CHECK(!search.has_slot());
  CHECK_EQ(engine.slots.free(), 3);
  engine.slots.release(taken, {});
  CHECK(engine.admit(search) == Admitted::kYes);
  CHECK(search.has_slot());
}

TEST(an_ended_search_gives_its_live_beams) {
  ByHand engine;
  BeamGeneration search = made(engine, range(0, 3), beams(2, 9));
  engine.admit(search);
  engine.step(search);
  engine.step(search);
  search.end(FinishReason::kCancelled);
  CHECK(search.done());
  for (const TextResult& one : search.results()) {
    CHECK_EQ(one.tokens.size(), size_t{2});
    CHECK(one.finish_reason == FinishReason::kCancelled);
  }
}

TEST(the_last_token_needs_no_position) {
  ByHand engine;
  BeamGeneration search = made(engine, range(0, 40), beams(1, 9));  // of 48 positions
  engine.admit(search);
  engine.run(search);
  CHECK(search.results()[0].tokens == FakeModel::greedy(range(0, 40), 9));
}

TEST(bad_requests_are_refused) {
  const ByHand engine;
  CHECK_THROWS(made(engine, {}, beams(2, 5)), std::invalid_argument);
  CHECK_THROWS(made(engine, {24}, beams(2, 5)), std::invalid_argument);
  CHECK_THROWS(made(engine, {1}, beams(2, 0)), std::invalid_argument);
  CHECK_THROWS(made(engine, range(0, 40), beams(2, 10)), std::invalid_argument);
  CHECK_THROWS(made(engine, {1}, beams(5, 5)), std::invalid_argument);
  const auto many = beams(2, 5);
  many->num_return_sequences = 3;
  CHECK_THROWS(made(engine, {1}, many), std::invalid_argument);
}

}  // namespace
}  // namespace gpt2fast
