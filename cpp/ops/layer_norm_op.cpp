// LayerNorm as a graph operator.
#include "ops/layer_norm_op.h"

#include "gpt2fast/errors.h"
#include "kernels/layer_norm.h"
#include "ops/node_attributes.h"

namespace gpt2fast {

namespace {

enum Input : size_t { kX, kGamma, kBeta };

}  // namespace

std::vector<InputSpec> LayerNormOp::inputs() { return std::vector<InputSpec>(3); }

LayerNormOp::LayerNormOp(const NodeInfo& node, StepContext& context) : context_(context) {
  const TensorView gamma = node.constant(kGamma, "gamma", ElementType::kFloat32, alignof(float));
  require_shape(gamma, "gamma", {-1});
  width_ = gamma.dimensions[0];
  if (width_ < 1 || width_ > kMaxWidth) {
    throw ModelError("gamma must have 1 to " + std::to_string(kMaxWidth) + " elements, got " +
                     std::to_string(width_));
  }
  const TensorView beta = node.constant(kBeta, "beta", ElementType::kFloat32, alignof(float));
  require_shape(beta, "beta", {width_});
  gamma_ = gamma.as<const float>();
  beta_ = beta.as<const float>();
  epsilon_ = layer_norm_epsilon(node);
}

void LayerNormOp::compute(const NodeContext& node) {
  const TensorView x = node.input(kX);
  require_shape(x, "x", {-1, width_});
  auto* y = static_cast<float*>(node.output(0, x.shape()));
  layer_norm(x.as<const float>(), x.dimensions[0], width_, gamma_, beta_, epsilon_, y,
             SessionParallel(node, context_.threads));
}

}  // namespace gpt2fast
