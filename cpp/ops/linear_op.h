// Linear(x, weight, bias?, gamma?, beta?, residual?): linear() as a graph operator.
#pragma once

#include "kernels/linear.h"
#include "ops/registry.h"

namespace gpt2fast {

class LinearOp final : public Kernel {
 public:
  static std::vector<InputSpec> inputs();

  LinearOp(const NodeInfo& node, StepContext& context);
  void compute(const NodeContext& node) override;

 private:
  StepContext& context_;
  LinearArguments arguments_;  // all but what changes from run to run
  bool has_residual_;
};

}  // namespace gpt2fast
