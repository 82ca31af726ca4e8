// Packs weights for the kernels; the converter uses it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpt2fast {

// How a packed weight is stored, see kernels/packing.h. Model files hold these values: never renumber them.
enum class WeightFormat : int32_t {
  kFloat32 = 0,
  kBFloat16 = 1,
  kInt8 = 2,
  kInt4 = 3,
};

// The bytes of a packed weight. Throws std::invalid_argument unless the format is known and both sizes are in
// range.
size_t packed_weight_bytes(WeightFormat format, int64_t in_features, int64_t out_features);

// Rows that make up for one another's rounding errors: blocks of this many, from the first row on.
inline constexpr int64_t kFeedbackRows = 1024;

// From the second moments of a weight's inputs [blocks][kFeedbackRows][kFeedbackRows], with zeros beyond its
// rows, the feedback for pack_weight(), of the same shape.
void weight_feedback(const float* moments, int64_t blocks, float* feedback);

// Packs a matrix whose element (in, out) is w[in * stride_in + out * stride_out]. The packed bytes of
// consecutive ranges of columns, all but the last a multiple of 16, concatenate to those of all columns.
// `feedback` is null, or for int4 what weight_feedback() wrote for in_features rows. Throws
// std::invalid_argument when an element is not finite.
void pack_weight(WeightFormat format, const float* w, int64_t stride_in, int64_t stride_out,
                 int64_t in_features, int64_t out_features, int threads, uint8_t* packed,
                 const float* feedback = nullptr);

// Writes column `column` of a packed weight, dequantised, as in_features floats.
void unpack_column(WeightFormat format, const uint8_t* packed, int64_t in_features, int64_t column,
                   float* out);

}  // namespace gpt2fast
