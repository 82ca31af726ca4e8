// Attributes and weights that several operators share, and the limits that files are held to.
#pragma once

#include <cstdint>

#include "kernels/linear.h"
#include "ort/custom_op.h"

namespace gpt2fast {

// Larger sizes are refused. This is far above any model's, and a product of two such sizes and an element's
// fits 64 bits.
inline constexpr int64_t kMaxWidth = int64_t{1} << 24;

// Packed weights are read in whole cache lines.
inline constexpr size_t kWeightAlignment = 64;

// The attribute `format`.
WeightFormat weight_format(const NodeInfo& node);

// The attribute `epsilon`, which must be in [0, 1].
float layer_norm_epsilon(const NodeInfo& node);

// A packed weight, which must have exactly the size that its format needs.
const uint8_t* packed_weight(const NodeInfo& node, size_t input, const char* name, WeightFormat format,
                             int64_t in_features, int64_t out_features);

}  // namespace gpt2fast
