// The search for int4 scales and zero points, and their decoding.
#pragma once

#include <cstdint>

#include "kernels/isa.h"

namespace gpt2fast {

inline constexpr int64_t kInt4GroupRows = 32;

// Rows that share a scale and a zero point: w = column_scale * int4_minifloat(scale) * (values - zero / 16).
struct Int4Group {
  uint8_t scale = 0;
  uint8_t zero = 0;
  uint8_t values[kInt4GroupRows] = {};
};

float int4_minifloat(uint8_t code);

// The column scale for a column of `count` weights, count a multiple of kInt4GroupRows.
float int4_column_scale(const float* column, int64_t count);

// The group for `w` [kInt4GroupRows] whose squared error is near the least that any scale, zero and values
// reach. It is the same for every instruction set.
Int4Group quantize_int4_group(const float* w, float column_scale, const KernelTable& table);

// The value of a group that is nearest to a weight, and the weight that a value stands for.
uint8_t int4_value(double w, float column_scale, const Int4Group& group);
double int4_weight(uint8_t value, float column_scale, const Int4Group& group);

}  // namespace gpt2fast
