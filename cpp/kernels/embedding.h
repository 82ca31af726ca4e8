// Token plus position embedding, the token table being a packed vocabulary projection.
#pragma once

#include <cstdint>

#include "kernels/linear.h"

namespace gpt2fast {

// y[t] = column tokens[t] of `table` (packed, in_features = width, out_features = vocabulary) +
// positions_table[positions[t]]. tokens, positions [count]; positions_table [n_positions, width]; y [count,
// width]. Ids must be in range.
void embed(WeightFormat format, const uint8_t* table, const float* positions_table, const int32_t* tokens,
           const int32_t* positions, int64_t count, int64_t width, float* y, const Parallel& parallel);

}  // namespace gpt2fast
