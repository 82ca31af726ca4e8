// Beam search: equal to the transformers library's, to exhaustive search, and sound when little is allowed.
#include "decoding/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoding/log_probabilities.h"
#include "decoding/logits_processors.h"
#include "support/testing.h"

using namespace gpt2fast;

namespace {

using Tokens = std::vector<int32_t>;
using Floats = std::vector<float>;
constexpr float kForbidden = -std::numeric_limits<float>::infinity();

struct GoldenHypothesis {
  Tokens tokens;
  double score;
};
struct Golden {
  uint64_t seed;
  Tokens eos;
  int32_t num_beams;
  int32_t num_return_sequences;
  double length_penalty;
  int32_t early_stopping;
  int64_t max_new_tokens;
  float repetition_penalty;
  std::vector<std::string> stop_strings;
  std::vector<GoldenHypothesis> hypotheses;
};

const std::vector<Golden> kGoldens = {
#include "../../goldens/beam_search.inc"
};

// The model of make_beam_search.py.
uint64_t hashed(uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
  value = (value ^ value >> 27) * 0x94D049BB133111EB;
  return value ^ value >> 31;
}

void logits_after(const TokenHistory& history, uint64_t seed, const Tokens& favored,
                  std::span<float> logits) {
  uint64_t state = seed;
  for (int64_t i = 0; i < history.size(); ++i) state = hashed(state ^ static_cast<uint64_t>(history[i]));
  for (size_t token = 0; token < logits.size(); ++token) {
    logits[token] = static_cast<float>(hashed(state ^ (token + 1) << 32) >> 41) * 0x1p-20f - 4;
  }
  for (int32_t token : favored) logits[static_cast<size_t>(token)] += static_cast<float>(seed % 3);
}

// Its tokens: a, ..., g, aa, ab, ...
std::shared_ptr<const TokenBytes> letters(int32_t vocab_size) {
  std::string data;
  std::vector<int32_t> offsets = {0};
  for (int32_t token = 0; token < vocab_size; ++token) {
    if (token >= 7) data += static_cast<char>('a' + (token - 7) / 7);
    data += static_cast<char>('a' + token % 7);
    offsets.push_back(static_cast<int32_t>(data.size()));
  }
  return std::make_shared<TokenBytes>(std::move(data), std::move(offsets), std::span<const int32_t>{});
}

std::string text_of(const Tokens& tokens) {
  const auto bytes = letters(50);
  std::string text;
  for (const int32_t token : tokens) text += (*bytes)[token];
  return text;
}

StopOptions until(int64_t max_new_tokens, const Tokens& eos = {}) {
  StopOptions stop;
  stop.max_new_tokens = max_new_tokens;
  stop.eos_token_ids = eos;
  return stop;
}

StopOptions until(const std::string& stop_string, std::shared_ptr<const TokenBytes> token_bytes) {
  StopOptions stop;
  stop.stop_strings = {stop_string};
  stop.token_bytes = std::move(token_bytes);
  return stop;
}

// Runs a search; model(output, row) fills a row with log-probabilities.
template <typename Model>
std::vector<BeamSearch::Hypothesis> searched(const BeamSearchOptions& options, const StopOptions& stop,
                                             size_t vocab_size, Model model) {
  BeamSearch search(options, stop, static_cast<int64_t>(vocab_size));
  Floats rows;
  while (!search.done()) {
    rows.resize(static_cast<size_t>(search.live_beams()) * vocab_size);
    for (int32_t beam = 0; beam < search.live_beams(); ++beam) {
      model(search.tokens(beam), std::span(rows).subspan(static_cast<size_t>(beam) * vocab_size, vocab_size));
    }
    search.advance(rows);
  }
  return search.results();
}

}  // namespace

TEST(equals_transformers) {
  constexpr size_t kVocabulary = 50;
  CHECK(kGoldens.size() >= 48);
  for (const Golden& golden : kGoldens) {
    const Tokens prompt = {1, 2, static_cast<int32_t>(golden.seed)};
    SamplingOptions sampling;
    sampling.repetition_penalty = golden.repetition_penalty;
    LogitsProcessors processors(sampling, golden.eos, kVocabulary, 100);
    StopOptions stop = until(golden.max_new_tokens, golden.eos);
    stop.stop_strings = golden.stop_strings;
    stop.token_bytes = letters(kVocabulary);
    const auto results =
        searched({golden.num_beams, golden.num_return_sequences, golden.length_penalty,
                  static_cast<EarlyStopping>(golden.early_stopping)},
                 stop, kVocabulary, [&](std::span<const int32_t> output, std::span<float> row) {
                   const TokenHistory history{prompt, output};
                   logits_after(history, golden.seed, golden.eos, row);
                   log_softmax(row, row);
                   processors.apply(row, history, nullptr);
                 });
    CHECK_EQ(results.size(), golden.hypotheses.size());
    for (size_t i = 0; i < results.size(); ++i) {
      CHECK(results[i].tokens == golden.hypotheses[i].tokens);
      CHECK_NEAR(results[i].score, golden.hypotheses[i].score, 1e-5 * std::fabs(golden.hypotheses[i].score));
      const bool eos = std::ranges::find(golden.eos, results[i].tokens.back()) != golden.eos.end();
      const std::string text = text_of(results[i].tokens);
      size_t kept = text.size();
      for (const std::string& one : golden.stop_strings) kept = std::min(kept, text.find(one));
      CHECK(results[i].ended == (eos                  ? FinishReason::kEos
                                 : kept < text.size() ? FinishReason::kStop
                                                      : FinishReason::kNone));
      CHECK_EQ(results[i].stop_matcher.has_value(), !golden.stop_strings.empty());
      if (!golden.stop_strings.empty()) {
        CHECK_EQ(results[i].stop_matcher->kept_bytes(), static_cast<int64_t>(kept));
      }
    }
  }
}

TEST(a_beam_as_wide_as_the_tree_finds_the_best_of_all) {
  constexpr size_t kVocabulary = 3;
  constexpr int32_t kLength = 4, kLeaves = 81;
  const auto model = [](std::span<const int32_t> output, std::span<float> row) {
    logits_after({output, {}}, 5, {}, row);
    log_softmax(row, row);
  };
  const auto results =
      searched({kLeaves, kLeaves, 1.0, EarlyStopping::kNever}, until(kLength), kVocabulary, model);
  CHECK_EQ(results.size(), size_t{kLeaves});
  std::vector<double> expected;
  for (int leaf = 0; leaf < kLeaves; ++leaf) {
    Tokens tokens;
    double sum = 0;
    for (int rest = leaf; tokens.size() < kLength; rest /= 3) {
      Floats row(kVocabulary);
      model(tokens, row);
      tokens.push_back(rest % 3);
      sum += static_cast<double>(row[static_cast<size_t>(rest % 3)]);
    }
    expected.push_back(sum / kLength);
  }
  std::sort(expected.rbegin(), expected.rend());
  for (size_t i = 0; i < results.size(); ++i) CHECK_NEAR(results[i].score, expected[i], 1e-5);
}

TEST(extensions_name_the_beams_that_they_continue) {
  BeamSearch search({.num_beams = 2}, until(3), 4);
  CHECK_EQ(search.live_beams(), 1);
  const auto first = search.advance(Floats{-9, -1, -8, -2});
  CHECK_EQ(first.size(), size_t{2});
  CHECK(first[0].parent == 0 && first[0].token == 1 && first[1].token == 3);
  const auto second =
      search.advance(Floats{-9, -9, -9, -9, -1, -2, -9, -9});  // both best follow the second beam
  CHECK(second[0].parent == 1 && second[0].token == 0);
  CHECK(second[1].parent == 1 && second[1].token == 1);
  CHECK(search.tokens(1)[0] == 3 && search.tokens(1)[1] == 1);
  CHECK(search.advance(Floats{-1, -9, -9, -9, -9, -9, -9, -9}).empty());
  CHECK(search.done());
  CHECK(search.results()[0].tokens == (Tokens{3, 0, 0}));
  CHECK_NEAR(search.results()[0].score, -4.0 / 3, 1e-6);
  CHECK(search.advance(Floats{}).empty());
}

TEST(an_end_of_text_beam_finishes_and_another_takes_its_place) {
  BeamSearch search({.num_beams = 2, .num_return_sequences = 2, .early_stopping = EarlyStopping::kTrue},
                    until(9, {0}), 4);
  const auto first = search.advance(Floats{-1, -2, -3, -4});
  CHECK_EQ(first.size(), size_t{2});
  CHECK(first[0].token == 1 && first[1].token == 2);
  CHECK_EQ(search.results().size(), size_t{1});
  CHECK(search.advance(Floats{-1, -5, -5, -5, -1, -5, -5, -5}).empty());
  CHECK(search.done());
  CHECK(search.results()[0].tokens == (Tokens{0}));
  CHECK(search.results()[1].tokens == (Tokens{1, 0}));
  CHECK(search.results()[1].ended == FinishReason::kEos);
}

TEST(fewer_beams_live_on_where_little_is_allowed) {
  BeamSearch search({.num_beams = 3}, until(5), 4);
  const auto one = search.advance(Floats{kForbidden, kForbidden, -1, kForbidden});
  CHECK_EQ(one.size(), size_t{1});
  CHECK_EQ(search.live_beams(), 1);
  search.advance(Floats(4, kForbidden));
  CHECK(search.done());
  CHECK_EQ(search.results().size(), size_t{1});
  CHECK(search.results()[0].tokens == (Tokens{2}));
  CHECK(search.results()[0].ended == FinishReason::kNone);
}

TEST(nothing_allowed_at_all_gives_the_empty_output) {
  BeamSearch search({.num_beams = 2}, until(5), 2);
  search.advance(Floats(2, kForbidden));
  CHECK(search.done());
  CHECK(search.results()[0].tokens.empty());
}

TEST(an_ended_search_gives_its_live_beams) {
  BeamSearch search({.num_beams = 2, .num_return_sequences = 2}, until(9), 3);
  search.advance(Floats{-1.0f, -0.5f, -4.0f});
  search.advance(Floats{-3.0f, -2.0f, -1.0f, -9.0f, -9.0f, -0.25f});
  CHECK(!search.done());
  search.end();
  CHECK(search.done());
  const std::vector<BeamSearch::Hypothesis> results = search.results();
  CHECK_EQ(results.size(), 2u);
  CHECK(results[0].tokens == (Tokens{0, 2}));
  CHECK(results[1].tokens == (Tokens{1, 2}));
  CHECK_NEAR(results[0].score, -1.25f / 2, 1e-6);
  CHECK_NEAR(results[1].score, -1.5f / 2, 1e-6);
  CHECK(results[0].ended == FinishReason::kNone);
}

TEST(equal_scores_come_in_the_order_of_beams_and_tokens) {
  BeamSearch search({.num_beams = 3, .num_return_sequences = 3}, until(2), 4);
  const auto first = search.advance(Floats(4, -1));
  CHECK_EQ(first.size(), 3u);
  for (int32_t i = 0; i < 3; ++i) CHECK_EQ(first[static_cast<size_t>(i)].token, i);
  search.advance(Floats(12, -1));
  CHECK(search.results()[0].tokens == (Tokens{0, 0}));
  CHECK(search.results()[1].tokens == (Tokens{0, 1}));
  CHECK(search.results()[2].tokens == (Tokens{0, 2}));
}

TEST(live_beams_of_an_ended_search_do_not_displace_better_ones) {
  BeamSearch search({.num_beams = 1, .early_stopping = EarlyStopping::kNever}, until(9, {0}), 3);
  search.advance(Floats{-1, -2, -3});
  CHECK(!search.done());  // with more tokens, the live beam may become better
  search.end();
  search.end();  // it stays as it is
  CHECK_EQ(search.results().size(), 1u);
  CHECK(search.results()[0].tokens == (Tokens{0}));
}

TEST(a_round_may_end_all_beams_with_stop_strings) {
  // The likeliest two of nine tokens are kept for one beam; they are a and aa.
  BeamSearch search({.num_beams = 1}, until("a", letters(9)), 9);
  CHECK(search.advance(Floats{-2, -3, -3, -3, -3, -3, -3, -1, -3}).empty());
  CHECK(search.done());
  CHECK(search.results()[0].tokens == (Tokens{7}));
  CHECK(search.results()[0].ended == FinishReason::kStop);
}

TEST(tokens_are_reported_with_the_log_probabilities_before_processors) {
  BeamSearch search({.num_beams = 2, .num_return_sequences = 2}, until(2), 3);
  search.advance(Floats{-1, -2, -9}, Floats{-1.5, -2.5, -9.5});
  // The second beam, token 1, has both best continuations.
  search.advance(Floats{-9, -9, -9, -0.5, -9, -0.25}, Floats{-6, -6, -6, -7, -6, -8});
  const std::vector<BeamSearch::Hypothesis> results = search.results();
  CHECK(results[0].tokens == (Tokens{1, 2}));
  CHECK(results[0].reported == (Floats{-2.5, -8}));
  CHECK(results[0].rows == (std::vector<int64_t>{0, 2}));
  CHECK(results[1].tokens == (Tokens{1, 0}));
  CHECK(results[1].reported == (Floats{-2.5, -7}));
  CHECK(results[1].rows == (std::vector<int64_t>{0, 2}));
}

TEST(bad_options_are_refused) {
  const auto refused = [](const BeamSearchOptions& options, const StopOptions& stop = {}) {
    bool threw = false;
    try {
      BeamSearch(options, stop, 10);
    } catch (const std::invalid_argument&) {
      threw = true;
    }
    return threw;
  };
  CHECK(refused({.num_beams = 0}));
  CHECK(refused({.num_beams = 2, .num_return_sequences = 3}));
  CHECK(refused({.num_beams = 2, .num_return_sequences = 0}));
  CHECK(refused({.num_beams = 2, .length_penalty = std::numeric_limits<double>::quiet_NaN()}));
  CHECK(refused({.num_beams = 2}, until(0)));
  CHECK(!refused({.num_beams = 2}, until(1)));
  CHECK(refused({.num_beams = 2}, until("a", nullptr)));
  CHECK(refused({.num_beams = 2}, until("", letters(4))));
}
