// Linear(x, weight, bias?, gamma?, beta?, residual?) -> (y, maxima?): linear() as a graph operator. For
// `maxima`, the largest of every 256 outputs of a row, see LinearArguments::maxima. The node that has them is
// the model's head, and also sums up the outputs of StepContext::scored. The node that a layer begins with,
// h.<layer>.attn.c_attn, also copies its input for a step that is to give the hidden states before layers.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/linear.h"
#include "ops/registry.h"

namespace gpt2fast {

class LinearOp final : public Kernel {
 public:
  static std::vector<InputSpec> inputs();
  static constexpr size_t kOptionalOutputs = 1;

  LinearOp(const NodeInfo& node, StepContext& context);
  void compute(const NodeContext& node) override;

 private:
  enum InputIndex : size_t { kX, kWeight, kBias, kGamma, kBeta, kResidual };
  enum OutputIndex : size_t { kY, kMaxima };

  void sum_scored_tokens();
  void run(const LinearArguments& arguments);
  void copy_layer_input(int64_t layer, const float* x, int64_t rows) const;

  StepContext& context_;
  LinearArguments arguments_;  // those that are the same in every run
  bool has_residual_;
  bool has_maxima_;
  std::optional<int64_t> begins_layer_;
};

}  // namespace gpt2fast
