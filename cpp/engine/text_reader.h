// Texts that are read from beginning to end, once: for hidden states, logits, log-probabilities.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "decoding/log_probabilities.h"
#include "engine/kv_cache.h"
#include "engine/participant.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// Throws std::invalid_argument unless all tokens are in the vocabulary and the text, behind `past` tokens,
// fits the model's context.
void check_text(std::span<const int32_t> tokens, int64_t past, const EngineOptions& options);

class TextReader : public Participant {
 public:
  explicit TextReader(std::vector<int32_t> tokens, int64_t past = 0)
      : tokens_(std::move(tokens)), past_(past) {}

  int64_t prompt_length() const override { return static_cast<int64_t>(tokens_.size()); }
  Admitted admit(Admission& admission) override;
  bool has_slot() const override { return slot_ >= 0; }
  void release(SlotPool& slots) override;
  bool decodes() override { return false; }
  int64_t pending() override { return left(); }
  void plan(StepPlan& plan) override;
  void use(const StepResults& results) override;
  bool done() const override { return ended_ || left() == 0; }
  void end(FinishReason) override { ended_ = true; }

 protected:
  // Before the first step.
  virtual void begin(KvCache& cache, int64_t slot) {
    (void)cache;
    (void)slot;
  }
  // The tokens after the last ones within [first, first + count) if their log-probabilities are all that is
  // wanted.
  virtual std::span<const int32_t> scored(int64_t first, int64_t count) {
    (void)first;
    (void)count;
    return {};
  }
  // Otherwise: the rows within [first, first + count) whose logits are wanted, relative to first, ascending;
  // or nothing: hidden states are.
  virtual bool wants(int64_t first, int64_t count, std::vector<int32_t>& wanted) = 0;
  // Of hidden states, those before each layer, too.
  virtual bool wants_layer_inputs() const { return false; }
  // Of `count` tokens from `first` on; `wanted` as wants() gave it.
  virtual void take(const StepResults& results, const PlannedPart& part, int64_t first,
                    std::span<const int32_t> wanted) = 0;
  // After the last step.
  virtual void finish(const KvCache& cache, int64_t slot) {
    (void)cache;
    (void)slot;
  }

  std::span<const int32_t> tokens() const { return tokens_; }

 private:
  int64_t left() const { return static_cast<int64_t>(tokens_.size()) - read_; }

  const std::vector<int32_t> tokens_;
  const int64_t past_;
  KvCache* cache_ = nullptr;
  int64_t slot_ = -1;
  int64_t read_ = 0;
  std::vector<int32_t> wanted_;  // of the part in the step
  bool ended_ = false;
};

// Hidden states, keys and values, written to the caller's memory.
class HiddenReader final : public TextReader {
 public:
  HiddenReader(std::shared_ptr<const ForwardRequest> request, int64_t sequence, int64_t width);

 protected:
  void begin(KvCache& cache, int64_t slot) override;
  bool wants(int64_t first, int64_t count, std::vector<int32_t>& wanted) override;
  bool wants_layer_inputs() const override { return !request_->layers.empty(); }
  void take(const StepResults& results, const PlannedPart& part, int64_t first,
            std::span<const int32_t> wanted) override;
  void finish(const KvCache& cache, int64_t slot) override;

 private:
  const std::shared_ptr<const ForwardRequest> request_;
  const int64_t sequence_;
  const int64_t width_;
};

// Scores of every possible next token, written to the caller's memory.
class LogitsReader final : public TextReader {
 public:
  // rows: ascending, each once; nothing: every token. Throws std::invalid_argument for others.
  LogitsReader(std::span<const int32_t> tokens, std::optional<std::span<const int64_t>> rows, float* logits);

 protected:
  bool wants(int64_t first, int64_t count, std::vector<int32_t>& wanted) override;
  void take(const StepResults& results, const PlannedPart& part, int64_t first,
            std::span<const int32_t> wanted) override;

 private:
  const std::optional<std::span<const int64_t>> rows_;
  float* next_;
};

// Log-probabilities of a text's own tokens.
class ScoreReader final : public TextReader {
 public:
  // first (>= 1): the first token that is scored.
  ScoreReader(const std::vector<int32_t>& tokens, int64_t first, int32_t top, int64_t vocab_size);

  const Logprobs& scores() const { return scores_; }

 protected:
  void begin(KvCache& cache, int64_t slot) override;
  std::span<const int32_t> scored(int64_t first, int64_t count) override;
  bool wants(int64_t first, int64_t count, std::vector<int32_t>& wanted) override;
  void take(const StepResults& results, const PlannedPart& part, int64_t first,
            std::span<const int32_t> wanted) override;
  void finish(const KvCache& cache, int64_t slot) override;

 private:
  const int64_t first_;
  const int32_t top_;
  const int64_t vocab_size_;
  const std::vector<int32_t> targets_;    // the tokens, of which the last is not read
  std::optional<TopLogprobs> likeliest_;  // while it holds a slot
  Logprobs scores_;
};

}  // namespace gpt2fast
