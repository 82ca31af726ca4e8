// Attributes and weights that several operators share.
#include "ops/node_attributes.h"

#include <string>

#include "gpt2fast/errors.h"
#include "kernels/packing.h"

namespace gpt2fast {

WeightFormat weight_format(const NodeInfo& node) {
  return static_cast<WeightFormat>(node.integer("format", static_cast<int64_t>(WeightFormat::kFloat32),
                                                static_cast<int64_t>(WeightFormat::kInt4)));
}

float layer_norm_epsilon(const NodeInfo& node) {
  const float epsilon = node.number("epsilon");
  if (epsilon < 0 || epsilon > 1)
    throw ModelError("epsilon must be in [0, 1], got " + std::to_string(epsilon));
  return epsilon;
}

const uint8_t* packed_weight(const NodeInfo& node, size_t input, const char* name, WeightFormat format,
                             int64_t in_features, int64_t out_features) {
  const Constant tensor = node.constant(input, name, ElementType::kUInt8, kWeightAlignment);
  require_shape(tensor, name, {static_cast<int64_t>(packed_weight_bytes(format, in_features, out_features))});
  return tensor.as<uint8_t>();
}

}  // namespace gpt2fast
