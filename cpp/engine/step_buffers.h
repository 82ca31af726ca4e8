// The inputs and outputs of a step: allocated once at the largest size, bound to the session, refilled by
// each step.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "decoding/log_probabilities.h"
#include "engine/kv_cache.h"
#include "engine/step_runner.h"
#include "kernels/linear.h"
#include "kernels/shards.h"
#include "kernels/vocabulary.h"
#include "ops/registry.h"
#include "ort/session.h"
#include "ort/value.h"
#include "system/reserved_memory.h"

namespace gpt2fast {

class StepBuffers {
 public:
  struct Limits {
    int64_t tokens;     // in one step
    int64_t sequences;  // in one step
    int64_t rows;       // rows of logits in one step
    int64_t width;      // n_embd
    int64_t layers;
    int64_t vocabulary;
  };

  StepBuffers(Session& session, const KvCache& cache, const Limits& limits);

  // Copies the parts into the input buffers and binds them with their shapes. Allocates only when the counts
  // differ from those of the step before.
  void fill(std::span<const StepPart> parts);

  Binding& binding() { return binding_; }
  int64_t max_tokens() const { return limits_.tokens; }
  int64_t max_rows() const { return limits_.rows; }
  int64_t width() const { return limits_.width; }
  std::span<const float> logits(int64_t row) const {
    return {logits_.as<float>() + row * limits_.vocabulary, static_cast<size_t>(limits_.vocabulary)};
  }
  // The largest logits of a row, see LinearArguments::maxima.
  std::span<const float> maxima(int64_t row) const {
    const int64_t floats = maxima_floats(limits_.vocabulary);
    return {maxima_.as<float>() + row * floats, static_cast<size_t>(floats)};
  }
  // The tokens that are scored, for the graph's head, and what it left of the row-th of them.
  ScoredTokens scored();
  SummedLogits summed(int64_t row) const;
  std::span<const float> hidden(int64_t row) const {
    return {hidden_.as<float>() + row * limits_.width, static_cast<size_t>(limits_.width)};
  }
  // Where the step that was filled in last puts the hidden states before each layer, [layers, tokens, width].
  // The memory is there from the first use on.
  std::span<float> layer_inputs();
  std::span<const float> layer_input(int64_t layer, int64_t first, int64_t tokens) const {
    return {layer_inputs_.as<float>() + (layer * bound_->tokens + first) * limits_.width,
            static_cast<size_t>(tokens * limits_.width)};
  }

 private:
  // The counts that the binding's shapes depend on.
  struct Counts {
    int64_t tokens = 0;
    int64_t sequences = 0;
    int64_t hidden_rows = 0;
    int64_t logits_rows = 0;

    bool operator==(const Counts&) const = default;
  };

  int64_t blocks() const { return divide_up(limits_.vocabulary, kVocabularyBlock); }
  int64_t add_scored(std::span<const StepPart> parts);
  void check_limits(std::span<const StepPart> parts) const;
  void bind_shapes(const Counts& counts);

  Limits limits_;
  std::vector<int32_t> input_ids_;        // [tokens]
  std::vector<int32_t> positions_;        // [tokens]
  std::vector<int32_t> sequence_starts_;  // [sequences + 1]
  std::vector<int32_t> slots_;            // [sequences]
  std::vector<int32_t> cached_lengths_;   // [sequences]
  std::vector<int32_t> hidden_rows_;      // [tokens], indices of tokens
  std::vector<int32_t> logits_rows_;      // [rows], indices into hidden_rows_
  ReservedMemory logits_;                 // float [rows, vocabulary]
  ReservedMemory maxima_;                 // float [rows, maxima_floats(vocabulary)]
  ReservedMemory hidden_;                 // float [tokens, width]
  std::vector<int32_t> scored_tokens_;    // [tokens]
  std::vector<float> scored_logits_;      // [tokens]
  ReservedMemory block_maxima_;           // float [tokens, blocks()]
  ReservedMemory block_sums_;             // float [tokens, blocks()]
  int64_t first_scored_ = 0;              // among the hidden states
  int64_t scored_rows_ = 0;
  ReservedMemory layer_inputs_;     // float [layers, tokens, width]; none before its first use
  Value kv_cache_;                  // bound once
  std::vector<Value> step_values_;  // the rest, bound when their shapes change
  Binding binding_;
  std::optional<Counts> bound_;
};

}  // namespace gpt2fast
