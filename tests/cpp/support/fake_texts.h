// Prompts, options and expected scores for tests of the engine with the fake model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "decoding/beam_search.h"
#include "decoding/log_probabilities.h"
#include "decoding/logits_processors.h"
#include "gpt2fast/engine.h"
#include "support/fake_model.h"

namespace gpt2fast::testing {

using Tokens = std::vector<int32_t>;

inline constexpr int64_t kPositions = 48;

inline EngineOptions fake_options(int64_t slots = 4, int64_t max_tokens = 8) {
  return {.model = {},
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
          .read_ahead = 4,
          .with_host_lock = {}};
}

// Tokens that count up, around the vocabulary.
inline Tokens range(int32_t first, int32_t count) {
  Tokens tokens;
  for (int32_t i = 0; i < count; ++i)
    tokens.push_back((first + i) % static_cast<int32_t>(FakeModel::kVocabulary));
  return tokens;
}

template <typename T = int32_t>
std::vector<T> joined(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

inline std::shared_ptr<GenerationOptions> length(int64_t max_new_tokens) {
  auto options = std::make_shared<GenerationOptions>();
  options->stop.max_new_tokens = max_new_tokens;
  return options;
}

// Until it is cancelled.
inline std::shared_ptr<GenerationOptions> endless() {
  auto options = length(1'000'000'000);
  options->slide = true;
  return options;
}

// Each token is one letter.
inline std::string letters_of(const Tokens& tokens) {
  std::string text;
  for (const int32_t token : tokens) text.push_back(static_cast<char>('a' + token));
  return text;
}

inline std::shared_ptr<const TokenBytes> letter_tokens() {
  std::vector<int32_t> offsets;
  for (int32_t i = 0; i <= FakeModel::kVocabulary; ++i) offsets.push_back(i);
  return std::make_shared<TokenBytes>(letters_of(range(0, FakeModel::kVocabulary)), std::move(offsets),
                                      std::vector<int32_t>{});
}

// Log-probabilities of a text's tokens from `first` on.
inline std::vector<float> scores_of(const Tokens& text, size_t first) {
  std::vector<float> scores;
  for (size_t i = first; i < text.size(); ++i) {
    scores.push_back(log_probability(FakeModel::scores_after(std::span(text).first(i)), text[i]));
  }
  return scores;
}

// What a search with beams finds, its scores straight from the model. Those before processors are reported.
inline std::vector<BeamSearch::Hypothesis> expected_beams(const Tokens& prompt,
                                                          const GenerationOptions& options) {
  LogitsProcessors processors(options.sampling, options.stop.eos_token_ids, FakeModel::kVocabulary,
                              kPositions);
  BeamSearch search({.num_beams = options.num_beams,
                     .num_return_sequences = options.num_return_sequences,
                     .length_penalty = options.length_penalty,
                     .early_stopping = options.early_stopping},
                    options.stop, FakeModel::kVocabulary);
  while (!search.done()) {
    std::vector<float> rows, reported;
    for (int32_t beam = 0; beam < search.live_beams(); ++beam) {
      const Tokens output(search.tokens(beam).begin(), search.tokens(beam).end());
      std::vector<float> scores = FakeModel::scores_after(joined(prompt, output));
      log_softmax(scores, scores);
      reported.insert(reported.end(), scores.begin(), scores.end());
      processors.apply(scores, {prompt, output}, nullptr);
      rows.insert(rows.end(), scores.begin(), scores.end());
    }
    search.advance(rows, reported);
  }
  return search.results();
}

}  // namespace gpt2fast::testing
