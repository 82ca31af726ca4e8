// A few vectors that take each step of a computation together. A processor looks only so far ahead for
// instructions that need not wait; with long chains one after the other, it would mostly see one of them.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

template <typename Tag, int count>
struct Vecs {
  Vec<Tag> parts[count];

  static GPT2FAST_INLINE Vecs set1(float x) {
    return apply([x](int) { return Vec<Tag>::set1(x); });
  }
  static GPT2FAST_INLINE Vecs zero() {
    return apply([](int) { return Vec<Tag>::zero(); });
  }

  template <typename Make>
  static GPT2FAST_INLINE Vecs apply(const Make& make) {
    Vecs result;
    GPT2FAST_UNROLL for (int i = 0; i < count; ++i) result.parts[i] = make(i);
    return result;
  }
};

template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> operator+(Vecs<Tag, count> a, Vecs<Tag, count> b) {
  return a.apply([&](int i) { return a.parts[i] + b.parts[i]; });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> operator-(Vecs<Tag, count> a, Vecs<Tag, count> b) {
  return a.apply([&](int i) { return a.parts[i] - b.parts[i]; });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> operator*(Vecs<Tag, count> a, Vecs<Tag, count> b) {
  return a.apply([&](int i) { return a.parts[i] * b.parts[i]; });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> operator/(Vecs<Tag, count> a, Vecs<Tag, count> b) {
  return a.apply([&](int i) { return a.parts[i] / b.parts[i]; });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> fma(Vecs<Tag, count> a, Vecs<Tag, count> b, Vecs<Tag, count> c) {
  return a.apply([&](int i) { return fma(a.parts[i], b.parts[i], c.parts[i]); });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> max(Vecs<Tag, count> a, Vecs<Tag, count> b) {
  return a.apply([&](int i) { return max(a.parts[i], b.parts[i]); });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> min(Vecs<Tag, count> a, Vecs<Tag, count> b) {
  return a.apply([&](int i) { return min(a.parts[i], b.parts[i]); });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> abs(Vecs<Tag, count> a) {
  return a.apply([&](int i) { return abs(a.parts[i]); });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> round_to_int(Vecs<Tag, count> a) {
  return a.apply([&](int i) { return round_to_int(a.parts[i]); });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> scale_by_power_of_two(Vecs<Tag, count> x, Vecs<Tag, count> n) {
  return x.apply([&](int i) { return scale_by_power_of_two(x.parts[i], n.parts[i]); });
}
template <typename Tag, int count>
GPT2FAST_INLINE Vecs<Tag, count> select_less(Vecs<Tag, count> a, Vecs<Tag, count> b, Vecs<Tag, count> x,
                                             Vecs<Tag, count> y) {
  return a.apply([&](int i) { return select_less(a.parts[i], b.parts[i], x.parts[i], y.parts[i]); });
}

}  // namespace gpt2fast
