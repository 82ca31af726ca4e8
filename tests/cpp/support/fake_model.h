// A model for tests of the engine's loop: its keys are the tokens themselves, its scores a hash of all that a
// slot holds. So a token is right only if the slot held the whole text before it, wherever that came from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <set>
#include <stdexcept>
#include <vector>

#include "decoding/log_probabilities.h"
#include "engine/step_runner.h"
#include "gpt2fast/errors.h"
#include "system/thread_pool.h"

namespace gpt2fast::testing {

class FakeModel final : public StepRunner {
 public:
  static constexpr int64_t kVocabulary = 24;

  FakeModel(int64_t slots, int64_t positions, int64_t max_tokens, int64_t max_rows)
      : cache_(
            {.layers = 1, .heads = 1, .head_dim = 1, .positions = positions, .format = CacheFormat::kFloat32},
            slots),
        positions_(positions),
        max_tokens_(max_tokens),
        max_rows_(max_rows) {}

  KvCache& cache() override { return cache_; }
  int64_t max_tokens() const override { return max_tokens_; }
  int64_t max_logits_rows() const override { return max_rows_; }

  // Called when a step begins, on the thread that makes it.
  std::function<void(std::span<const StepPart> parts)> on_step;

  void step(std::span<const StepPart> parts, const StopCheck& stop) override {
    if (on_step) on_step(parts);
    if (stop()) throw Interrupted();
    if (fail_next_) {
      fail_next_ = false;
      throw std::bad_alloc();
    }
    check(parts);
    logits_.clear();
    hidden_.clear();
    log_probabilities_.clear();
    layer_inputs_.clear();
    const bool wanted = std::ranges::any_of(parts, &StepPart::layer_inputs);
    for (const StepPart& part : parts) {
      for (size_t i = 0; i < part.tokens.size() && wanted; ++i) {
        layer_inputs_.push_back(layer_input_of(part.tokens[i], part.cached_length + static_cast<int64_t>(i)));
      }
    }
    for (const StepPart& part : parts) run(part);
    rows_ = static_cast<int64_t>(logits_.size()) / kVocabulary;
    ++steps_;
  }

  const Parallel& parallel() const override { return pool_; }

  std::span<const float> logits(int64_t row) const override {
    if (row >= rows_) throw std::logic_error("there is no such row");
    return std::span(logits_).subspan(static_cast<size_t>(row * kVocabulary), kVocabulary);
  }
  float log_probability(int64_t row) const override {
    return log_probabilities_.at(static_cast<size_t>(row));
  }
  std::span<const float> maxima(int64_t) const override { return {}; }
  std::span<const float> hidden(int64_t row) const override {
    return {&hidden_.at(static_cast<size_t>(row)), 1};
  }
  std::span<const float> layer_input(int64_t layer, int64_t first, int64_t tokens) const override {
    if (layer != 0) throw std::logic_error("there is one layer");
    return std::span(layer_inputs_).subspan(static_cast<size_t>(first), static_cast<size_t>(tokens));
  }

  // The scores after a whole text.
  static std::vector<float> scores_after(std::span<const int32_t> text) {
    uint64_t hash = 1469598103934665603ULL;
    for (const int32_t token : text) hash = (hash ^ static_cast<uint64_t>(token + 1)) * 1099511628211ULL;
    std::vector<float> scores;
    for (int64_t i = 0; i < kVocabulary; ++i) {
      hash ^= hash << 13U;
      hash ^= hash >> 7U;
      hash ^= hash << 17U;
      scores.push_back(static_cast<float>(hash % 4096) / 256.0f);
    }
    return scores;
  }
  // The hidden state of a text's last token.
  static float hidden_after(std::span<const int32_t> text) { return scores_after(text)[0]; }
  // What goes into the layer.
  static float layer_input_of(int32_t token, int64_t position) {
    return static_cast<float>(100 * position + token);
  }
  // The text that greedy decoding gives.
  static std::vector<int32_t> greedy(std::vector<int32_t> text, int64_t count) {
    const auto prompt = static_cast<std::ptrdiff_t>(text.size());
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<float> scores = scores_after(text);
      text.push_back(static_cast<int32_t>(std::ranges::max_element(scores) - scores.begin()));
    }
    return {text.begin() + prompt, text.end()};
  }

  int64_t steps() const { return steps_; }
  int64_t largest_step() const { return largest_step_; }
  void fail_next_step() { fail_next_ = true; }

 private:
  void check(std::span<const StepPart> parts) {
    std::set<int64_t> slots;
    int64_t tokens = 0;
    int64_t rows = 0;
    for (const StepPart& part : parts) {
      if (!slots.insert(part.slot).second) throw std::logic_error("two parts of a step have one slot");
      if (part.slot < 0 || part.slot >= cache_.slots()) throw std::logic_error("there is no such slot");
      const auto count = static_cast<int64_t>(part.tokens.size());
      if (count == 0 || part.cached_length < 0 || part.cached_length + count > positions_) {
        throw std::logic_error("a part does not fit");
      }
      int32_t last = -1;
      for (const int32_t index : part.wanted) {
        if (index <= last || index >= count) throw std::logic_error("rows are wanted that there are not");
        last = index;
      }
      tokens += count;
      if (!part.scored.empty() && part.scored.size() != part.wanted.size()) {
        throw std::logic_error("not all that is wanted of a part is scored");
      }
      if (part.scored.empty()) rows += static_cast<int64_t>(part.wanted.size());
    }
    if (tokens > max_tokens_ || rows > max_rows_) throw std::logic_error("a step is too large");
    largest_step_ = std::max(largest_step_, tokens);
  }

  void run(const StepPart& part) {
    std::vector<float> keys(part.tokens.begin(), part.tokens.end());
    const auto count = static_cast<int64_t>(keys.size());
    cache_.write(0, part.slot, part.cached_length, count, keys.data(), keys.data());
    if (part.wanted.empty() && !part.all_hidden) return;
    keys.resize(static_cast<size_t>(part.cached_length + count));
    std::vector<float> values(keys.size());
    cache_.read(0, part.slot, 0, part.cached_length + count, keys.data(), values.data());
    const std::vector<int32_t> text(keys.begin(), keys.end());
    const auto until = [&](int64_t index) {
      return std::span(text).first(static_cast<size_t>(part.cached_length + index + 1));
    };
    for (int64_t i = 0; i < count && part.all_hidden; ++i) hidden_.push_back(hidden_after(until(i)));
    for (size_t i = 0; i < part.scored.size(); ++i) {
      log_probabilities_.push_back(
          gpt2fast::log_probability(scores_after(until(part.wanted[i])), part.scored[i]));
    }
    if (!part.scored.empty()) return;
    for (const int32_t index : part.wanted) {
      const std::vector<float> scores = scores_after(until(index));
      logits_.insert(logits_.end(), scores.begin(), scores.end());
      if (!part.all_hidden) hidden_.push_back(hidden_after(until(index)));
    }
  }

  ThreadPool pool_{2};
  KvCache cache_;
  const int64_t positions_;
  const int64_t max_tokens_;
  const int64_t max_rows_;
  std::vector<float> logits_;
  std::vector<float> hidden_;
  std::vector<float> log_probabilities_;
  std::vector<float> layer_inputs_;
  int64_t rows_ = 0;
  int64_t steps_ = 0;
  int64_t largest_step_ = 0;
  bool fail_next_ = false;
};

}  // namespace gpt2fast::testing
