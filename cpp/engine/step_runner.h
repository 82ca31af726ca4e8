// What the scheduler needs of a model: a ragged batch of tokens in, hidden states and wanted logits out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/kv_cache.h"
#include "system/parallel.h"

namespace gpt2fast {

// One sequence's share of a step.
struct StepPart {
  int64_t slot = 0;
  int64_t cached_length = 0;        // positions of the slot that are filled already
  std::span<const int32_t> tokens;  // at least one
  std::span<const int32_t> wanted;  // ascending indices into `tokens` whose logits are wanted; may be empty
  bool all_hidden = false;          // every token's hidden state is wanted, else those of `wanted`
  bool layer_inputs = false;        // every token's hidden states before each layer are wanted, too
  // One for each of `wanted`: its log-probability is wanted, and neither logits nor hidden states.
  // NOLINTNEXTLINE(readability-redundant-member-init): initializers leave it out
  std::span<const int32_t> scored{};
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;

  virtual KvCache& cache() = 0;
  virtual int64_t max_tokens() const = 0;
  virtual int64_t max_logits_rows() const = 0;

  // Called at least once per layer; true abandons the step.
  using StopCheck = std::function<bool()>;

  // Computes one step. Throws Interrupted when `stop` returns true; what the slots got is then invalid. The
  // parts must fit max_tokens(), max_logits_rows() and the cache.
  virtual void step(std::span<const StepPart> parts, const StopCheck& stop) = 0;
  // The threads that compute steps, for what is to be done between two of them.
  virtual const Parallel& parallel() const = 0;

  // Scores [vocab_size] of the row-th wanted token of the last step, counted over all parts that are not
  // scored.
  virtual std::span<const float> logits(int64_t row) const = 0;
  // The log-probability of the row-th scored token of the last step, counted over all parts. Throws
  // std::runtime_error where the model gave a logit that is NaN or infinite.
  virtual float log_probability(int64_t row) const = 0;
  // What LinearArguments::maxima says of them; empty if nothing is known.
  virtual std::span<const float> maxima(int64_t row) const = 0;
  // Hidden state [n_embd] of the row-th token whose hidden state the last step was to give, counted over all
  // parts.
  virtual std::span<const float> hidden(int64_t row) const = 0;
  // Hidden states before a layer [tokens, n_embd] of `tokens` tokens from `first` on, counted over all parts,
  // if a part of the last step wanted layer_inputs.
  virtual std::span<const float> layer_input(int64_t layer, int64_t first, int64_t tokens) const = 0;
};

}  // namespace gpt2fast
