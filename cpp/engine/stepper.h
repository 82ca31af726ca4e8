// A loaded model and its step: a ragged batch of tokens in, hidden states and wanted logits out.
#pragma once

#include <cstdint>
#include <span>

#include "engine/fair_mutex.h"
#include "engine/kv_cache.h"
#include "engine/step_buffers.h"
#include "gpt2fast/engine.h"
#include "ops/registry.h"
#include "ort/session.h"

namespace gpt2fast {

// One sequence's share of a step.
struct StepPart {
  int64_t slot = 0;
  int64_t cached_length = 0;        // positions of the slot that are already filled
  std::span<const int32_t> tokens;  // at least one
  std::span<const int32_t> wanted;  // ascending indices into `tokens` whose logits are wanted; may be empty
  bool all_hidden = false;          // every token's hidden state is wanted, else those of `wanted`
};

class Stepper {
 public:
  explicit Stepper(const EngineOptions& options);

  // Steps are made one at a time: hold this from step() until its results have been used.
  FairMutex& mutex() { return mutex_; }
  KvCache& cache() { return cache_; }
  int64_t max_tokens() const { return buffers_.max_tokens(); }
  int64_t max_logits_rows() const { return buffers_.max_rows(); }
  int64_t width() const { return buffers_.width(); }

  // Runs the graph. `stop` is called once per layer; if it returns true, the step ends with Interrupted, and
  // what it wrote into the slots does not count. The parts must fit max_tokens(), max_logits_rows() and the
  // cache.
  void step(std::span<const StepPart> parts, const InterruptCheck& stop);

  // Scores [vocab_size] of the row-th wanted token of the last step, counted over all parts.
  std::span<float> logits(int64_t row) { return buffers_.logits(row); }
  // The largest of these scores, see LinearArguments::maxima.
  std::span<const float> maxima(int64_t row) const { return buffers_.maxima(row); }
  // Hidden state [n_embd] of the row-th token whose hidden state was wanted, counted over all parts.
  std::span<const float> hidden(int64_t row) const { return buffers_.hidden(row); }

 private:
  FairMutex mutex_;
  StepContext context_;
  OpRegistry operators_;
  KvCache cache_;
  Session session_;
  StepBuffers buffers_;
};

}  // namespace gpt2fast
