// A loaded model and its step: a ragged batch of tokens in, hidden states and wanted logits out.
#pragma once

#include <cstdint>
#include <span>

#include "engine/kv_cache.h"
#include "engine/step_buffers.h"
#include "engine/step_runner.h"
#include "gpt2fast/engine.h"
#include "ops/registry.h"
#include "ort/session.h"

namespace gpt2fast {

class Stepper final : public StepRunner {
 public:
  explicit Stepper(const EngineOptions& options);

  KvCache& cache() override { return cache_; }
  int64_t max_tokens() const override { return buffers_.max_tokens(); }
  FileVersion weights_version() const { return session_.weights_version(); }
  int64_t max_logits_rows() const override { return buffers_.max_rows(); }

  void step(std::span<const StepPart> parts, const StopCheck& stop) override;
  const Parallel& parallel() const override { return context_.pool; }

  std::span<const float> logits(int64_t row) const override { return buffers_.logits(row); }
  float log_probability(int64_t row) const override {
    return gpt2fast::log_probability(buffers_.summed(row));
  }
  std::span<const float> maxima(int64_t row) const override { return buffers_.maxima(row); }
  std::span<const float> hidden(int64_t row) const override { return buffers_.hidden(row); }
  std::span<const float> layer_input(int64_t layer, int64_t first, int64_t tokens) const override {
    return buffers_.layer_input(layer, first, tokens);
  }

 private:
  StepContext context_;
  OpRegistry operators_;
  KvCache cache_;
  Session session_;
  StepBuffers buffers_;
};

}  // namespace gpt2fast
