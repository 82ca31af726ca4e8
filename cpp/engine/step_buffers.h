// The inputs and outputs of a step: allocated once at the largest size, bound to the session, refilled by
// each step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/reserved_memory.h"
#include "ort/session.h"
#include "ort/value.h"

namespace gpt2fast {

struct StepPart;

class StepBuffers {
 public:
  struct Limits {
    int64_t tokens;     // of one step
    int64_t sequences;  // of one step
    int64_t rows;       // of logits in one step
    int64_t width;      // n_embd
    int64_t vocabulary;
  };

  StepBuffers(Session& session, const KvCache& cache, const Limits& limits);

  // Copies the parts into the input buffers and makes the binding's shapes fit. Allocates only when the
  // counts differ from those of the step before.
  void fill(std::span<const StepPart> parts);

  Binding& binding() { return binding_; }
  int64_t max_tokens() const { return limits_.tokens; }
  int64_t max_rows() const { return limits_.rows; }
  int64_t width() const { return limits_.width; }
  std::span<float> logits(int64_t row) {
    return {logits_.as<float>() + row * limits_.vocabulary, static_cast<size_t>(limits_.vocabulary)};
  }
  std::span<const float> hidden(int64_t token) const {
    return {hidden_.as<float>() + token * limits_.width, static_cast<size_t>(limits_.width)};
  }

 private:
  void check_limits(std::span<const StepPart> parts) const;
  void bind_shapes(int64_t tokens, int64_t sequences, int64_t rows);

  Limits limits_;
  std::vector<int32_t> input_ids_;        // [tokens]
  std::vector<int32_t> positions_;        // [tokens]
  std::vector<int32_t> sequence_starts_;  // [sequences + 1]
  std::vector<int32_t> slots_;            // [sequences]
  std::vector<int32_t> cached_lengths_;   // [sequences]
  std::vector<int32_t> logits_rows_;      // [rows]
  ReservedMemory logits_;                 // float [rows, vocabulary]
  ReservedMemory hidden_;                 // float [tokens, width]
  std::vector<Value> kv_values_;          // one per layer, bound once
  std::vector<Value> step_values_;        // the rest, bound when their shapes change
  Binding binding_;
  int64_t bound_tokens_ = -1;
  int64_t bound_sequences_ = -1;
  int64_t bound_rows_ = -1;
};

}  // namespace gpt2fast
