// LayerNorm(x, gamma, beta): layer_norm() as a graph operator.
#pragma once

#include "ops/registry.h"

namespace gpt2fast {

class LayerNormOp final : public Kernel {
 public:
  static std::vector<InputSpec> inputs();

  LayerNormOp(const NodeInfo& node, StepContext& context);
  void compute(const NodeContext& node) override;

 private:
  enum InputIndex : size_t { kX, kGamma, kBeta };

  StepContext& context_;
  int64_t width_;
  const float* gamma_;  // [width]
  const float* beta_;   // [width]
  float epsilon_;
};

}  // namespace gpt2fast
