// Linear as a graph operator. The graph is checked when the node is created, shapes at each run.
#include "ops/linear_op.h"

#include <array>

#include "gpt2fast/errors.h"
#include "ops/node_attributes.h"

namespace gpt2fast {

namespace {

// Fewer rows take no longer than poll() may be late.
constexpr int64_t kPolledRows = 16;

const float* optional_vector(const NodeInfo& node, size_t index, const char* name, int64_t size) {
  if (!node.has_input(index)) return nullptr;
  const Constant tensor = node.constant(index, name, ElementType::kFloat32, alignof(float));
  require_shape(tensor, name, {size});
  return tensor.as<float>();
}

}  // namespace

std::vector<InputSpec> LinearOp::inputs() {
  const InputSpec optional{ElementType::kFloat32, true};
  return {{ElementType::kFloat32}, {ElementType::kUInt8}, optional, optional, optional, optional};
}

LinearOp::LinearOp(const NodeInfo& node, StepContext& context) : context_(context) {
  arguments_.in_features = node.integer("in_features", 1, kMaxWidth);
  arguments_.out_features = node.integer("out_features", 1, kMaxWidth);
  arguments_.format = weight_format(node);
  arguments_.activation = static_cast<Activation>(node.integer(
      "activation", static_cast<int64_t>(Activation::kNone), static_cast<int64_t>(Activation::kRelu)));
  arguments_.weight = packed_weight(node, kWeight, "weight", arguments_.format, arguments_.in_features,
                                    arguments_.out_features);
  arguments_.bias = optional_vector(node, kBias, "bias", arguments_.out_features);
  arguments_.gamma = optional_vector(node, kGamma, "gamma", arguments_.in_features);
  arguments_.beta = optional_vector(node, kBeta, "beta", arguments_.in_features);
  if ((arguments_.gamma == nullptr) != (arguments_.beta == nullptr)) {
    throw ModelError("gamma and beta must be given together");
  }
  if (arguments_.gamma != nullptr) arguments_.epsilon = layer_norm_epsilon(node);
  has_residual_ = node.has_input(kResidual);
  has_maxima_ = node.has_output(kMaxima);
}

void LinearOp::compute(const NodeContext& node) {
  LinearArguments arguments = arguments_;
  const Input x = node.input(kX, "x");
  arguments.rows = x.rows(arguments.in_features);
  arguments.x = x.as<float>();
  const std::array<int64_t, 2> shape = {arguments.rows, arguments.out_features};
  if (has_residual_) {
    const Input residual = node.input(kResidual, "residual");
    residual.require_elements(shape[0] * shape[1]);
    arguments.residual = residual.as<float>();
  }
  arguments.y = static_cast<float*>(node.output(kY, shape));
  if (has_maxima_) {
    const std::array<int64_t, 2> maxima_shape = {arguments.rows, maxima_floats(arguments.out_features)};
    arguments.maxima = static_cast<float*>(node.output(kMaxima, maxima_shape));
  }
  if (arguments.rows == 0) return;
  if (arguments.rows >= kPolledRows) context_.check_interrupt();
  const WorkspaceParts workspace = context_.workspace.reserve(linear_workspace(
      arguments.format, arguments.rows, arguments.in_features, context_.threads, context_.kernels));
  linear(arguments, SessionParallel(node, context_.threads), workspace, context_.kernels);
}

}  // namespace gpt2fast
