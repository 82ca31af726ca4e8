// LayerNorm of one row, over any Vec: shared by layer_norm() and by linear()'s fused LayerNorm.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

// x, gamma, beta, y [width]; y may equal x. Sums run in 16 lanes, then in reduce_add's order.
template <typename Tag>
GPT2FAST_INLINE void layer_norm_row(const float* x, int64_t width, const float* gamma, const float* beta,
                                    float epsilon, float* y) {
  using V = Vec<Tag>;
  const int64_t whole = width / kLanes * kLanes;
  const int64_t tail = width - whole;

  V sum = V::zero();
  for (int64_t i = 0; i < whole; i += kLanes) sum = sum + V::load(x + i);
  if (tail > 0) sum = sum + V::load_partial(x + whole, tail);
  const V mean = V::set1(reduce_add(sum) / static_cast<float>(width));

  V squares = V::zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const V centered = V::load(x + i) - mean;
    squares = fma(centered, centered, squares);
  }
  if (tail > 0) {
    const V centered = select_first(tail, V::load_partial(x + whole, tail) - mean, V::zero());
    squares = fma(centered, centered, squares);
  }
  const V variance = V::set1(reduce_add(squares) / static_cast<float>(width));
  const V inverse = V::set1(1.0f) / sqrt(variance + V::set1(epsilon));

  for (int64_t i = 0; i < whole; i += kLanes) {
    const V normal = (V::load(x + i) - mean) * inverse;
    fma(normal, V::load(gamma + i), V::load(beta + i)).store(y + i);
  }
  if (tail > 0) {
    const V normal = (V::load_partial(x + whole, tail) - mean) * inverse;
    fma(normal, V::load_partial(gamma + whole, tail), V::load_partial(beta + whole, tail))
        .store_partial(y + whole, tail);
  }
}

// layer_norm_row() as a plain function, one per instruction set.
using LayerNormRow = void (*)(const float* x, int64_t width, const float* gamma, const float* beta,
                              float epsilon, float* y);
void layer_norm_row_portable(const float* x, int64_t width, const float* gamma, const float* beta,
                             float epsilon, float* y);
void layer_norm_row_avx2(const float* x, int64_t width, const float* gamma, const float* beta, float epsilon,
                         float* y);
void layer_norm_row_avx512(const float* x, int64_t width, const float* gamma, const float* beta,
                           float epsilon, float* y);
void layer_norm_row_neon(const float* x, int64_t width, const float* gamma, const float* beta, float epsilon,
                         float* y);

}  // namespace gpt2fast
