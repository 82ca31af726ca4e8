// Packed weight layouts: made once at conversion, streamed by linear(). See gpt2fast/weights.h for sizes and
// unpacking.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace gpt2fast {

// A packed weight is a sequence of panels, one for every 16 output columns, the last one padded with zero
// columns. A panel is contiguous, a multiple of 64 bytes, and little-endian. With K = in_features and blocks
// = ceil(K / 64), the rows beyond K of the last block being zero, a panel holds:
//
//   fp32  float w[K][16]
//   bf16  uint16 w[K][16], rounded to nearest even
//   int8  float column_scale[16]
//         per block: uint8 u[16][16][4]: row 64 block + 4 i + j of column c at [i][c][j]
//         v = column_scale * (u - 128), u in [1, 255], where v is w with the rows r, r + 16, r + 32, ... of
//         every 128 mixed: v = H w / 2, H being Sylvester's Hadamard matrix of order 8. Where 64 rows are
//         left at the end, the order is 4. linear() mixes its input in the same way; since H H is 8 (or 4),
//         the product stays the same. An input that is much larger than its neighbours then costs them less
//         of their precision.
//   int4  float column_scale[16]
//         per block: uint8 scale[2][16], uint8 zero[2][16], the halves being rows 0..31 and 32..63 of the
//         block
//                    uint8 u[8][16][4]: low nibble row k = 64 block + 4 i + j, high nibble row k + 32
//         w = column_scale * minifloat(scale) * (u - zero / 16)
//
// minifloat is unsigned, with 4 bits of exponent and 4 of mantissa: (1 + (scale % 16) / 16) * 2^(scale / 16 -
// 11). At K = 768 a weight takes 32, 16, 8.04 and 4.54 bits, all included.
inline constexpr int64_t kPanelColumns = 16;
inline constexpr int64_t kBlockRows = 64;
inline constexpr int64_t kMixedRows = 128;
inline constexpr int64_t kMixedStep = 16;

// Sizes beyond this are refused everywhere, so that products of two fit 64 bits.
inline constexpr int64_t kMaxFeatures = int64_t{1} << 28;

// Throws std::invalid_argument unless the format is one of WeightFormat and in_features in [1, kMaxFeatures].
size_t packed_panel_bytes(WeightFormat format, int64_t in_features);

// Packs `columns` columns of a weight with `in_features` rows into `packed`, which starts at the first
// column's panel: a weight may be packed in ranges of columns that begin at multiples of kPanelColumns.
// Element (k, n) is w[k * stride_in + n * stride_out]. `feedback` is null, or for int4 what
// error_feedback() writes for every kFeedbackRows rows. Throws std::invalid_argument when an element is not
// finite.
void pack_columns(WeightFormat format, const float* w, int64_t stride_in, int64_t stride_out,
                  int64_t in_features, int64_t columns, uint8_t* packed, const Parallel& parallel,
                  const float* feedback = nullptr);

}  // namespace gpt2fast
