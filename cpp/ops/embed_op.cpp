// Embed as a graph operator.
#include "ops/embed_op.h"

#include <array>
#include <span>
#include <string>

#include "gpt2fast/errors.h"
#include "kernels/embedding.h"
#include "ops/node_attributes.h"

namespace gpt2fast {

namespace {

void require_range(const Input& input, int64_t size) {
  for (const int32_t value : std::span(input.as<int32_t>(), static_cast<size_t>(input.elements))) {
    if (value < 0 || value >= size) {
      throw ModelError(std::string(input.name) + " must be in [0, " + std::to_string(size) + "), got " +
                       std::to_string(value));
    }
  }
}

}  // namespace

std::vector<InputSpec> EmbedOp::inputs() {
  return {{ElementType::kInt32}, {ElementType::kInt32}, {ElementType::kUInt8}, {ElementType::kFloat32}};
}

EmbedOp::EmbedOp(const NodeInfo& node, StepContext& context)
    : context_(context),
      format_(weight_format(node)),
      width_(node.integer("width", 1, kMaxWidth)),
      vocabulary_(node.integer("vocabulary", 1, kMaxWidth)),
      table_(packed_weight(node, kTable, "table", format_, width_, vocabulary_)) {
  const Constant positions =
      node.constant(kPositionsTable, "positions_table", ElementType::kFloat32, alignof(float));
  require_shape(positions, "positions_table", {-1, width_});
  positions_ = positions.shape[0];
  positions_table_ = positions.as<float>();
}

void EmbedOp::compute(const NodeContext& node) {
  const Input ids = node.input(kInputIds, "input_ids", ElementType::kInt32);
  const Input positions = node.input(kPositions, "positions", ElementType::kInt32);
  const int64_t count = ids.elements;
  positions.require_elements(count);
  require_range(ids, vocabulary_);
  require_range(positions, positions_);
  auto* y = static_cast<float*>(node.output(0, std::array<int64_t, 2>{count, width_}));
  embed(format_, table_, positions_table_, ids.as<int32_t>(), positions.as<int32_t>(), count, width_, y,
        context_.pool);
}

}  // namespace gpt2fast
