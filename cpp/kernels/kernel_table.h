// What every instruction set brings: its kernels, in one table that is looked up once.
#pragma once

#include "kernels/attention_tile.h"
#include "kernels/isa.h"
#include "kernels/linear_task.h"
#include "kernels/vocabulary.h"

namespace gpt2fast {

struct Int4Trials;

// y = LayerNorm(x) of one row; x, gamma, beta, y [width]; y may equal x.
using LayerNormRow = void (*)(const float* x, int64_t width, const float* gamma, const float* beta,
                              float epsilon, float* y);
// See try_int4_scales().
using TryInt4Scales = void (*)(const float* w, Int4Trials& trials);

struct KernelTable {
  LinearKernel linear[4];        // by WeightFormat
  AttentionKernel attention[3];  // by CacheFormat
  LayerNormRow layer_norm_row;
  TryInt4Scales try_int4_scales;
  VocabularyKernels vocabulary;
};

}  // namespace gpt2fast
