// Linear(x, weight, bias?, gamma?, beta?, residual?) -> (y, maxima?): linear() as a graph operator. For
// `maxima`, the largest of every 256 outputs of a row, see LinearArguments::maxima.
#pragma once

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

  StepContext& context_;
  LinearArguments arguments_;  // those that are the same in every run
  bool has_residual_;
  bool has_maxima_;
};

}  // namespace gpt2fast
