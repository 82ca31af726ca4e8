// LayerNorm of one row, over any Vec: shared by layer_norm() and by linear()'s fused LayerNorm.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

// The sum over a row. term(sum, i, count) adds elements i to i + count, at most 16. Every fourth vector goes
// into the same sum, so that additions need not wait for each other; these sums are then added in
// reduce_add's order.
template <typename Tag, typename Term>
GPT2FAST_INLINE float sum_of_terms(int64_t width, const Term& term) {
  using V = Vec<Tag>;
  constexpr int kSums = 4;
  V sums[kSums] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t i = 0;
  for (; i + kSums * kLanes <= width; i += kSums * kLanes) {
    GPT2FAST_UNROLL for (int s = 0; s < kSums; ++s) sums[s] = term(sums[s], i + s * kLanes, kLanes);
  }
  for (int s = 0; i < width; ++s, i += kLanes) sums[s] = term(sums[s], i, width - i);
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Normalises one row. x, gamma, beta, y [width]; y may equal x.
template <typename Tag>
GPT2FAST_INLINE void layer_norm_row(const float* x, int64_t width, const float* gamma, const float* beta,
                                    float epsilon, float* y) {
  using V = Vec<Tag>;
  const int64_t whole = width / kLanes * kLanes;
  const int64_t tail = width - whole;

  const float sum = sum_of_terms<Tag>(
      width, [x](V so_far, int64_t i, int64_t count) { return so_far + V::load_partial(x + i, count); });
  const V mean = V::set1(sum / static_cast<float>(width));
  const float squares = sum_of_terms<Tag>(width, [x, mean](V so_far, int64_t i, int64_t count) {
    const V centered = select_first(count, V::load_partial(x + i, count) - mean, V::zero());
    return fma(centered, centered, so_far);
  });
  const V variance = V::set1(squares / static_cast<float>(width));
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

}  // namespace gpt2fast
