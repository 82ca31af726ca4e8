// LayerNorm as a graph operator.
#include "ops/layer_norm_op.h"

#include <array>

#include "gpt2fast/errors.h"
#include "kernels/layer_norm.h"
#include "ops/node_attributes.h"

namespace gpt2fast {

std::vector<InputSpec> LayerNormOp::inputs() { return std::vector<InputSpec>(3); }

LayerNormOp::LayerNormOp(const NodeInfo& node, StepContext& context) : context_(context) {
  const Constant gamma = node.constant(kGamma, "gamma", ElementType::kFloat32, alignof(float));
  require_shape(gamma, "gamma", {-1});
  width_ = gamma.shape[0];
  if (width_ < 1 || width_ > kMaxWidth) {
    throw ModelError("gamma must have 1 to " + std::to_string(kMaxWidth) + " elements, got " +
                     std::to_string(width_));
  }
  const Constant beta = node.constant(kBeta, "beta", ElementType::kFloat32, alignof(float));
  require_shape(beta, "beta", {width_});
  gamma_ = gamma.as<float>();
  beta_ = beta.as<float>();
  epsilon_ = layer_norm_epsilon(node);
}

void LayerNormOp::compute(const NodeContext& node) {
  const Input x = node.input(kX, "x");
  const int64_t rows = x.rows(width_);
  auto* y = static_cast<float*>(node.output(0, std::array<int64_t, 2>{rows, width_}));
  layer_norm(x.as<float>(), rows, width_, gamma_, beta_, epsilon_, y, context_.pool, context_.kernels);
}

}  // namespace gpt2fast
