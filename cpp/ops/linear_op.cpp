// Linear as a graph operator. The graph is checked when the node is created, shapes at each run.
#include "ops/linear_op.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>

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

// The layer that the node of this name begins.
std::optional<int64_t> layer_begun_by(std::string_view name) {
  constexpr std::string_view kBefore = "h.";
  constexpr std::string_view kBehind = ".attn.c_attn";
  if (!name.starts_with(kBefore) || !name.ends_with(kBehind)) return std::nullopt;
  uint32_t layer = 0;  // in which no sign is read
  const char* const end = name.data() + name.size() - kBehind.size();
  const auto [stop, error] = std::from_chars(name.data() + kBefore.size(), end, layer);
  if (error != std::errc() || stop != end) return std::nullopt;
  return layer;
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
  begins_layer_ = layer_begun_by(node.name());
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
  run(arguments);
  if (has_maxima_ && context_.scored.rows > 0) sum_scored_tokens();
}

void LinearOp::sum_scored_tokens() {
  const ScoredTokens& scored = context_.scored;
  if (has_residual_ || scored.width != arguments_.in_features ||
      scored.vocabulary != arguments_.out_features) {
    throw ModelError("tokens are scored by the model's head: the node that gives maxima is another");
  }
  LinearArguments arguments = arguments_;
  arguments.rows = scored.rows;
  arguments.x = scored.hidden;
  arguments.output_sums = scored.sums;
  run(arguments);
}

void LinearOp::run(const LinearArguments& arguments) {
  if (arguments.rows == 0) return;
  if (begins_layer_ && !context_.layer_inputs.empty()) {
    copy_layer_input(*begins_layer_, arguments.x, arguments.rows);
  }
  if (arguments.rows >= kPolledRows) context_.check_interrupt();
  const WorkspaceParts workspace = context_.workspace.reserve(linear_workspace(
      arguments.format, arguments.rows, arguments.in_features, context_.pool.threads(), context_.kernels));
  linear(arguments, context_.pool, workspace, context_.kernels);
}

void LinearOp::copy_layer_input(int64_t layer, const float* x, int64_t rows) const {
  const auto size = static_cast<size_t>(rows * arguments_.in_features);
  const std::span<float> all = context_.layer_inputs;
  if (static_cast<size_t>(layer) >= all.size() / size) {
    throw ModelError("there are no " + std::to_string(layer + 1) + " layers");
  }
  std::copy_n(x, size, all.subspan(static_cast<size_t>(layer) * size).begin());
}

}  // namespace gpt2fast
