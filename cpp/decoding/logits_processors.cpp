// One small type per option that changes scores, and the order in which they run.
#include "decoding/logits_processors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/kernel_table.h"

namespace gpt2fast {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

void require_token(const char* argument, int32_t token, int64_t vocab_size) {
  if (token < 0 || token >= vocab_size) {
    throw std::invalid_argument(std::string(argument) + " must hold token ids in [0, " +
                                std::to_string(vocab_size) + "), got " + std::to_string(token));
  }
}

float& score_of(std::span<float> scores, int32_t token) { return scores[static_cast<size_t>(token)]; }

void forbid_all(std::span<float> scores, std::span<const int32_t> tokens) {
  for (int32_t token : tokens) score_of(scores, token) = kForbidden;
}

class LogitBias final : public LogitsProcessor {
 public:
  LogitBias(std::span<const std::pair<int32_t, float>> biases, int64_t vocab_size) : biases_(biases) {
    for (const auto& [token, bias] : biases_) {
      require_token("logit_bias", token, vocab_size);
      if (!(bias < -kForbidden)) {
        throw std::invalid_argument("logit_bias must be finite or -inf, got " + std::to_string(bias) +
                                    " for token " + std::to_string(token));
      }
    }
  }
  void apply(std::span<float> scores, const TokenHistory&) override {
    for (const auto& [token, bias] : biases_) score_of(scores, token) += bias;
  }

 private:
  std::span<const std::pair<int32_t, float>> biases_;
};

// Divides positive and multiplies negative scores of all tokens that occurred (Keskar et al., CTRL, 2019).
class RepetitionPenalty final : public LogitsProcessor {
 public:
  RepetitionPenalty(float penalty, int64_t vocab_size, int64_t max_length)
      : penalty_(penalty), counts_(vocab_size, max_length) {}
  void apply(std::span<float> scores, const TokenHistory& history) override {
    counts_.update(history.prompt, history.output);
    for (int32_t token : counts_.distinct()) {
      float& score = score_of(scores, token);
      score = score < 0 ? score * penalty_ : score / penalty_;
    }
  }

 private:
  float penalty_;
  TokenCounts counts_;
};

// Subtracts a constant for every token of the output, and another for each of its occurrences.
class OutputPenalties final : public LogitsProcessor {
 public:
  OutputPenalties(float presence, float frequency, int64_t vocab_size, int64_t max_length)
      : presence_(presence), frequency_(frequency), counts_(vocab_size, max_length) {}
  void apply(std::span<float> scores, const TokenHistory& history) override {
    counts_.update(history.output, {});
    for (int32_t token : counts_.distinct()) {
      score_of(scores, token) -= presence_ + frequency_ * static_cast<float>(counts_.count(token));
    }
  }

 private:
  float presence_;
  float frequency_;
  TokenCounts counts_;
};

// Forbids every token that would complete an n-gram that occurred before.
class NoRepeatNgram final : public LogitsProcessor {
 public:
  explicit NoRepeatNgram(int64_t size) : size_(size) {}
  void apply(std::span<float> scores, const TokenHistory& history) override {
    const int64_t length = history.size(), prefix = size_ - 1;
    for (int64_t start = 0; start + prefix < length; ++start) {
      int64_t matched = prefix;  // compared from the last token back, where most windows differ
      while (matched > 0 && history[start + matched - 1] == history[length - prefix + matched - 1]) --matched;
      const int32_t next = history[start + prefix];
      if (matched == 0 && static_cast<size_t>(next) < scores.size()) score_of(scores, next) = kForbidden;
    }
  }

 private:
  int64_t size_;
};

class SuppressTokens final : public LogitsProcessor {
 public:
  explicit SuppressTokens(std::span<const int32_t> tokens) : tokens_(tokens) {}
  void apply(std::span<float> scores, const TokenHistory&) override { forbid_all(scores, tokens_); }

 private:
  std::span<const int32_t> tokens_;
};

// Forbids the last token of each sequence whose other tokens the history ends with.
class BadWords final : public LogitsProcessor {
 public:
  explicit BadWords(std::vector<std::span<const int32_t>> words) : words_(std::move(words)) {}
  void apply(std::span<float> scores, const TokenHistory& history) override {
    for (const auto& word : words_) {
      if (ends_with(history, word.first(word.size() - 1))) score_of(scores, word.back()) = kForbidden;
    }
  }

 private:
  static bool ends_with(const TokenHistory& history, std::span<const int32_t> tokens) {
    const int64_t offset = history.size() - static_cast<int64_t>(tokens.size());
    if (offset < 0) return false;
    for (size_t i = tokens.size(); i-- > 0;) {
      if (history[offset + static_cast<int64_t>(i)] != tokens[i]) return false;
    }
    return true;
  }

  std::vector<std::span<const int32_t>> words_;  // none empty
};

class MinNewTokens final : public LogitsProcessor {
 public:
  MinNewTokens(int64_t min_new_tokens, std::span<const int32_t> eos_token_ids)
      : min_new_tokens_(min_new_tokens), eos_token_ids_(eos_token_ids) {}
  void apply(std::span<float> scores, const TokenHistory& history) override {
    if (static_cast<int64_t>(history.output.size()) < min_new_tokens_) forbid_all(scores, eos_token_ids_);
  }

 private:
  int64_t min_new_tokens_;
  std::span<const int32_t> eos_token_ids_;
};

void check_penalties(const SamplingOptions& options) {
  const auto require = [](bool valid, const char* rule, auto value) {
    if (!valid) throw std::invalid_argument(std::string(rule) + ", got " + std::to_string(value));
  };
  require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty),
          "repetition_penalty must be positive and finite", options.repetition_penalty);
  require(std::isfinite(options.presence_penalty), "presence_penalty must be finite",
          options.presence_penalty);
  require(std::isfinite(options.frequency_penalty), "frequency_penalty must be finite",
          options.frequency_penalty);
  require(options.no_repeat_ngram_size >= 0, "no_repeat_ngram_size must not be negative",
          options.no_repeat_ngram_size);
  require(options.min_new_tokens >= 0, "min_new_tokens must not be negative", options.min_new_tokens);
}

// Like transformers, ignores a bad word that is just an end-of-text token.
std::unique_ptr<LogitsProcessor> make_bad_words(const std::vector<std::vector<int32_t>>& words,
                                                std::span<const int32_t> eos_token_ids, int64_t vocab_size) {
  std::vector<std::span<const int32_t>> kept;
  for (const auto& word : words) {
    if (word.empty()) throw std::invalid_argument("bad_words must not hold an empty sequence");
    for (int32_t token : word) require_token("bad_words", token, vocab_size);
    const bool is_eos = std::ranges::find(eos_token_ids, word[0]) != eos_token_ids.end();
    if (word.size() > 1 || !is_eos) kept.emplace_back(word);
  }
  return kept.empty() ? nullptr : std::make_unique<BadWords>(std::move(kept));
}

}  // namespace

LogitsProcessors::LogitsProcessors(const SamplingOptions& options, std::span<const int32_t> eos_token_ids,
                                   int64_t vocab_size, int64_t max_length)
    : forced_prefix_(options.forced_prefix) {
  const auto add = [this](std::unique_ptr<LogitsProcessor> processor) {
    if (processor != nullptr) processors_.push_back(std::move(processor));
  };
  check_penalties(options);
  for (int32_t token : eos_token_ids) require_token("eos_token_id", token, vocab_size);
  for (int32_t token : options.suppress_tokens) require_token("suppress_tokens", token, vocab_size);
  for (int32_t token : forced_prefix_) require_token("forced_prefix", token, vocab_size);

  if (!options.logit_bias.empty()) add(std::make_unique<LogitBias>(options.logit_bias, vocab_size));
  if (options.repetition_penalty != 1) {
    add(std::make_unique<RepetitionPenalty>(options.repetition_penalty, vocab_size, max_length));
  }
  if (options.presence_penalty != 0 || options.frequency_penalty != 0) {
    add(std::make_unique<OutputPenalties>(options.presence_penalty, options.frequency_penalty, vocab_size,
                                          max_length));
  }
  if (options.no_repeat_ngram_size > 0) add(std::make_unique<NoRepeatNgram>(options.no_repeat_ngram_size));
  add(make_bad_words(options.bad_words, eos_token_ids, vocab_size));
  if (options.min_new_tokens > 0 && !eos_token_ids.empty()) {
    add(std::make_unique<MinNewTokens>(options.min_new_tokens, eos_token_ids));
  }
  if (!options.suppress_tokens.empty()) add(std::make_unique<SuppressTokens>(options.suppress_tokens));
}

void LogitsProcessors::apply(std::span<float> scores, const TokenHistory& history, const uint32_t* allowed) {
  for (const auto& processor : processors_) processor->apply(scores, history);
  if (allowed != nullptr) {
    kernels().vocabulary.forbid(scores.data(), static_cast<int64_t>(scores.size()), allowed);
  }
  const size_t position = history.output.size();
  if (position < forced_prefix_.size()) {
    std::ranges::fill(scores, kForbidden);
    score_of(scores, forced_prefix_[position]) = 0;
  }
}

}  // namespace gpt2fast
