// Penalties, biases and bans: values worked out by hand.
#include "decoding/logits_processors.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "support/testing.h"

using namespace gpt2fast;

namespace {

using Tokens = std::vector<int32_t>;
using Floats = std::vector<float>;
constexpr float kForbidden = -std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Floats processed(const SamplingOptions& options, Floats scores, const Tokens& prompt, const Tokens& output,
                 const Tokens& eos = {}, const uint32_t* allowed = nullptr) {
  LogitsProcessors processors(options, eos, static_cast<int64_t>(scores.size()), 100);
  processors.apply(scores, {prompt, output}, allowed);
  return scores;
}

template <typename Change>
SamplingOptions with(Change change) {
  SamplingOptions options;
  change(options);
  return options;
}

// Constructs processors for a vocabulary of 4.
LogitsProcessors made(const SamplingOptions& options, const Tokens& eos = {}) {
  return {options, eos, 4, 10};
}

}  // namespace

TEST(defaults_change_nothing) {
  CHECK(made({}).empty());
  CHECK(made({}, {1}).empty());
  CHECK(processed({}, {1, -2, 3}, {0}, {1}) == (Floats{1, -2, 3}));
}

TEST(repetition_penalty_divides_positive_and_multiplies_negative_scores) {
  const auto options = with([](auto& o) { o.repetition_penalty = 2; });
  CHECK(processed(options, {4, -4, 4, -4}, {0, 0, 1}, {1}) == (Floats{2, -8, 4, -4}));
  CHECK(processed(options, {4, kForbidden, 4, 0}, {1}, {3}) == (Floats{4, kForbidden, 4, 0}));
}

TEST(presence_and_frequency_count_the_output_alone) {
  const auto options = with([](auto& o) { o.presence_penalty = 0.5f, o.frequency_penalty = 0.25f; });
  CHECK(processed(options, {1, 1, 1, 1}, {3, 3}, {0, 2, 2, 2}) == (Floats{0.25f, 1, -0.25f, 1}));
}

TEST(no_repeat_ngram_forbids_completions) {
  const auto options = with([](auto& o) { o.no_repeat_ngram_size = 2; });
  CHECK(processed(options, {0, 0, 0, 0}, {1, 2, 1}, {3, 1}) == (Floats{0, 0, kForbidden, kForbidden}));
  const auto three = with([](auto& o) { o.no_repeat_ngram_size = 3; });
  CHECK(processed(three, {0, 0, 0, 0}, {0, 1, 2}, {0, 1}) == (Floats{0, 0, kForbidden, 0}));
  CHECK(processed(three, {0, 0, 0, 0}, {0, 1}, {}) == (Floats{0, 0, 0, 0}));
  const auto one = with([](auto& o) { o.no_repeat_ngram_size = 1; });
  CHECK(processed(one, {0, 0, 0, 0}, {3}, {1}) == (Floats{0, kForbidden, 0, kForbidden}));
}

TEST(bad_words_forbid_the_last_token_after_the_others) {
  const auto options = with([](auto& o) { o.bad_words = {{0}, {1, 2}, {3, 1, 3}, {2, 2, 2, 2, 2}}; });
  CHECK(processed(options, {0, 0, 0, 0}, {3}, {1}) == (Floats{kForbidden, 0, kForbidden, kForbidden}));
  CHECK(processed(options, {0, 0, 0, 0}, {2}, {}) == (Floats{kForbidden, 0, 0, 0}));
  CHECK(processed(options, {0, 0, 0, 0}, {2}, {}, {0}) ==
        (Floats{0, 0, 0, 0}));  // end of text alone is ignored
}

TEST(min_new_tokens_forbids_every_end_of_text) {
  const auto options = with([](auto& o) { o.min_new_tokens = 2; });
  CHECK(processed(options, {0, 0, 0, 0}, {1, 1, 1}, {0}, {1, 3}) == (Floats{0, kForbidden, 0, kForbidden}));
  CHECK(processed(options, {0, 0, 0, 0}, {1}, {0, 0}, {1, 3}) == (Floats{0, 0, 0, 0}));
  CHECK(made(options).empty());  // nothing ends the text
}

TEST(bias_comes_before_penalties_and_bans_last) {
  const auto options = with([](auto& o) {
    o.logit_bias = {{0, 3.0f}, {1, kForbidden}, {2, 100.0f}};
    o.repetition_penalty = 2;
    o.suppress_tokens = {2};
  });
  CHECK(processed(options, {1, 5, 5, 5}, {0}, {}) == (Floats{2, kForbidden, kForbidden, 5}));
}

TEST(a_mask_forbids_what_it_does_not_name) {
  Floats scores(70, 1.0f);
  const uint32_t allowed[3] = {0x80000001, 0, 0x20};
  const Floats masked = processed({}, scores, {}, {}, {}, allowed);
  for (size_t i = 0; i < masked.size(); ++i) {
    CHECK_EQ(masked[i], i == 0 || i == 31 || i == 69 ? 1.0f : kForbidden);
  }
}

TEST(a_forced_prefix_beats_every_ban) {
  const auto options = with([](auto& o) { o.forced_prefix = {2, 0}, o.suppress_tokens = {2}; });
  CHECK(processed(options, {1, 1, 1}, {0}, {}) == (Floats{kForbidden, kForbidden, 0}));
  CHECK(processed(options, {1, 1, 1}, {0}, {2}) == (Floats{0, kForbidden, kForbidden}));
  CHECK(processed(options, {1, 1, 1}, {0}, {2, 0}) == (Floats{1, 1, kForbidden}));
}

TEST(counts_follow_a_sequence_that_grows_rewinds_or_is_exchanged) {
  const auto options = with([](auto& o) { o.repetition_penalty = 2, o.frequency_penalty = 1; });
  LogitsProcessors kept(options, {}, 6, 100);
  const std::vector<std::pair<Tokens, Tokens>> histories = {
      {{0, 1}, {}},        {{0, 1}, {2}},    {{0, 1}, {2, 2, 3}},
      {{0, 1}, {2}},       {{0, 1}, {4, 4}}, {{5}, {1, 1}},
      {{5, 1, 1}, {0, 3}}, {{}, {}},         {{}, {3}}};
  for (const auto& [prompt, output] : histories) {
    Floats scores(6, 8.0f);
    kept.apply(scores, {prompt, output}, nullptr);
    CHECK(scores == processed(options, Floats(6, 8.0f), prompt, output));
  }
}

TEST(tokens_outside_the_vocabulary_are_refused_in_options_and_ignored_in_the_history) {
  CHECK_THROWS(made(with([](auto& o) { o.suppress_tokens = {4}; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.logit_bias = {{-1, 1.0f}}; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.bad_words = {{1, 4}}; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.bad_words = {{}}; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.forced_prefix = {9}; })), std::invalid_argument);
  CHECK_THROWS(made({}, {7}), std::invalid_argument);
  const auto options = with([](auto& o) { o.repetition_penalty = 2, o.no_repeat_ngram_size = 1; });
  CHECK(processed(options, {4, 4}, {50000}, {0}) == (Floats{kForbidden, 4}));
}

TEST(penalties_that_are_no_numbers_are_refused) {
  CHECK_THROWS(made(with([](auto& o) { o.repetition_penalty = 0; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.repetition_penalty = kNan; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.presence_penalty = kNan; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.frequency_penalty = -kForbidden; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.logit_bias = {{0, kNan}}; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.logit_bias = {{0, -kForbidden}}; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.no_repeat_ngram_size = -1; })), std::invalid_argument);
  CHECK_THROWS(made(with([](auto& o) { o.min_new_tokens = -1; })), std::invalid_argument);
}
