// LayerNorm for one instruction set; see layer_norm_kernel.h.
#include "kernels/layer_norm_kernel.h"

namespace gpt2fast {

void layer_norm_row_avx2(const float* x, int64_t width, const float* gamma, const float* beta, float epsilon,
                         float* y) {
  layer_norm_row<Avx2>(x, width, gamma, beta, epsilon, y);
}

}  // namespace gpt2fast
