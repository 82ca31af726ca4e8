// LayerNorm over rows, with the bits that linear()'s fused LayerNorm has.
#pragma once

#include <cstdint>

#include "kernels/isa.h"
#include "system/parallel.h"

namespace gpt2fast {

// y[r] = (x[r] - mean) / sqrt(variance + epsilon) * gamma + beta. x, y [rows, width]; y may equal x.
void layer_norm(const float* x, int64_t rows, int64_t width, const float* gamma, const float* beta,
                float epsilon, float* y, const Parallel& parallel, const KernelTable& table);

}  // namespace gpt2fast
