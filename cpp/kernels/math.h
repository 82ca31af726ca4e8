// exp, exp2 and the activations over any Vec or Vecs. For one float use Vec<Scalar>: it gives the same bits.
//
// Polynomials are weighted minimax fits of the functions named beside them, rounded to float. Results below
// about 2^-126, the smallest normal number, are 0: a denormal result takes Intel's processors more than a
// hundred cycles, and softmax would give many, for positions that a row does not see.
#pragma once

#include "kernels/vecs.h"

namespace gpt2fast {

template <typename V>
concept FloatVectors = requires { V::set1(0.0f); };

// e^x within 1.1 units in the last place. -inf gives 0, results above the largest float inf, NaN NaN.
template <FloatVectors V>
GPT2FAST_INLINE V exp(V x) {
  const V smallest = V::set1(-87.336f);  // just above log(2^-126)
  // Above the other bound the result is inf. Operands in this order let a NaN through.
  const V bounded = min(V::set1(89.0f), max(smallest, x));
  const V n = round_to_int(bounded * V::set1(0x1.715476p+0f));  // log2(e)
  V r = fma(n, V::set1(-0x1.62e430p-1f), bounded);              // ln(2) in two parts; |r| <= ln(2) / 2
  r = fma(n, V::set1(0x1.05c610p-29f), r);
  V p = V::set1(1.381459878757596e-3f);  // (e^r - 1 - r) / r^2
  p = fma(p, r, V::set1(8.368716575205326e-3f));
  p = fma(p, r, V::set1(4.166838899254799e-2f));
  p = fma(p, r, V::set1(1.666652113199234e-1f));
  p = fma(p, r, V::set1(4.999999403953552e-1f));
  const V result = scale_by_power_of_two(fma(r * r, p, r) + V::set1(1.0f), n);
  return select_less(x, smallest, V::zero(), result);
}

// 2^x for x from -126 to 128, within 1 unit in the last place; 2^128 is inf. NaN gives NaN.
template <FloatVectors V>
GPT2FAST_INLINE V exp2_bounded(V x) {
  const V n = round_to_int(x);
  const V r = x - n;
  V p = V::set1(1.5353341586887836e-4f);  // (2^r - 1) / r
  p = fma(p, r, V::set1(1.3398900628089905e-3f));
  p = fma(p, r, V::set1(9.618437848985195e-3f));
  p = fma(p, r, V::set1(5.5503323674201965e-2f));
  p = fma(p, r, V::set1(2.4022647738456726e-1f));
  p = fma(p, r, V::set1(6.931471824645996e-1f));
  return scale_by_power_of_two(fma(p, r, V::set1(1.0f)), n);
}

// 2^x for x <= 0, within 1 unit in the last place. -inf gives 0, NaN NaN.
template <FloatVectors V>
GPT2FAST_INLINE V exp2_nonpositive(V x) {
  const V smallest = V::set1(-126.0f);
  return select_less(x, smallest, V::zero(), exp2_bounded(max(smallest, x)));
}

// x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x^3), GPT-2's GELU, as x / (1 + 2^(-2u log2(e))):
// absolute error below 1e-6, or below 1e-6 of |x| where that is larger. -inf and NaN give NaN.
template <FloatVectors V>
GPT2FAST_INLINE V gelu_tanh(V x) {
  constexpr float kLinear = -2.302208198144325f;   // -2 sqrt(2 / pi) log2(e)
  constexpr float kCubic = -0.10294323958002349f;  // times 0.044715
  const V exponent = x * fma(x * x, V::set1(kCubic), V::set1(kLinear));
  return x / (V::set1(1.0f) + exp2_bounded(min(V::set1(128.0f), max(V::set1(-126.0f), exponent))));
}

// x * Phi(x), the standard normal distribution function: error below 1e-6, or below 1e-6 of |x| where that is
// larger. -inf and NaN give NaN.
template <FloatVectors V>
GPT2FAST_INLINE V gelu_erf(V x) {
  const V z = abs(x) * V::set1(0.7071067811865476f);
  const V t = V::set1(1.0f) / fma(z, V::set1(0.4f), V::set1(1.0f));
  V p = V::set1(4.1253041476011276e-2f);  // erfc(z) e^(z^2) / t
  p = fma(p, t, V::set1(-1.4031924307346344e-1f));
  p = fma(p, t, V::set1(8.3987295627594e-2f));
  p = fma(p, t, V::set1(8.796432614326477e-2f));
  p = fma(p, t, V::set1(7.975649833679199e-2f));
  p = fma(p, t, V::set1(1.9339320063591003e-1f));
  p = fma(p, t, V::set1(2.018875926733017e-1f));
  p = fma(p, t, V::set1(2.264431118965149e-1f));
  p = fma(p, t, V::set1(2.2563423216342926e-1f));
  const V upper_tail = V::set1(0.5f) * p * t * exp(V::zero() - z * z);
  return x * select_less(x, V::zero(), upper_tail, V::set1(1.0f) - upper_tail);
}

// max(x, 0); NaN gives NaN.
template <FloatVectors V>
GPT2FAST_INLINE V relu(V x) {
  return max(V::zero(), x);
}

}  // namespace gpt2fast
