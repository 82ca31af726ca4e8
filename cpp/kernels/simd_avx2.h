// Vec over two 256-bit registers: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include "kernels/simd_portable.h"

namespace gpt2fast {

struct Avx2 {};

template <>
struct Vec<Avx2> {
  __m256 lo;  // lanes 0 to 7
  __m256 hi;  // lanes 8 to 15

  static GPT2FAST_INLINE Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static GPT2FAST_INLINE Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static GPT2FAST_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static GPT2FAST_INLINE Vec load_partial(const float* p, int64_t count) {
    return {_mm256_maskload_ps(p, first_lanes(count)), _mm256_maskload_ps(p + 8, first_lanes(count - 8))};
  }
  static GPT2FAST_INLINE Vec load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(load_8x16(p)), _mm256_cvtph_ps(load_8x16(p + 8))};
  }
  static GPT2FAST_INLINE Vec load_bf16(const uint16_t* p) {
    return {widen_bf16(load_8x16(p)), widen_bf16(load_8x16(p + 8))};
  }
  static GPT2FAST_INLINE Vec quotients(float x, const double* by) {
    return {_mm256_set_m128(divide_4(x, by + 4), divide_4(x, by)),
            _mm256_set_m128(divide_4(x, by + 12), divide_4(x, by + 8))};
  }
  GPT2FAST_INLINE void store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  GPT2FAST_INLINE void store_partial(float* p, int64_t count) const {
    _mm256_maskstore_ps(p, first_lanes(count), lo);
    _mm256_maskstore_ps(p + 8, first_lanes(count - 8), hi);
  }
  GPT2FAST_INLINE void store_half(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(hi, _MM_FROUND_TO_NEAREST_INT));
  }

  // All bits set in the lanes below `count`.
  static GPT2FAST_INLINE __m256i first_lanes(int64_t count) {
    const int limit = count < 0 ? 0 : count > 8 ? 8 : static_cast<int>(count);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static GPT2FAST_INLINE __m128i load_8x16(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static GPT2FAST_INLINE __m128 divide_4(float x, const double* by) {
    return _mm256_cvtpd_ps(_mm256_div_pd(_mm256_set1_pd(static_cast<double>(x)), _mm256_loadu_pd(by)));
  }
  static GPT2FAST_INLINE __m256 widen_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
};

GPT2FAST_INLINE Vec<Avx2> operator+(Vec<Avx2> a, Vec<Avx2> b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE Vec<Avx2> operator-(Vec<Avx2> a, Vec<Avx2> b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE Vec<Avx2> operator*(Vec<Avx2> a, Vec<Avx2> b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE Vec<Avx2> operator/(Vec<Avx2> a, Vec<Avx2> b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE Vec<Avx2> fma(Vec<Avx2> a, Vec<Avx2> b, Vec<Avx2> c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
GPT2FAST_INLINE Vec<Avx2> max(Vec<Avx2> a, Vec<Avx2> b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE Vec<Avx2> min(Vec<Avx2> a, Vec<Avx2> b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
GPT2FAST_INLINE Vec<Avx2> abs(Vec<Avx2> a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
GPT2FAST_INLINE Vec<Avx2> sqrt(Vec<Avx2> a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
GPT2FAST_INLINE Vec<Avx2> round_to_int(Vec<Avx2> a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kNearest), _mm256_round_ps(a.hi, kNearest)};
}

namespace avx2 {
GPT2FAST_INLINE __m256 scale_by_power_of_two(__m256 x, __m256 n) {
  const __m256i exponent = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(exponent, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(exponent, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
}  // namespace avx2

// A NaN n gives an arbitrary factor here, so x must be NaN then too.
GPT2FAST_INLINE Vec<Avx2> scale_by_power_of_two(Vec<Avx2> x, Vec<Avx2> n) {
  return {avx2::scale_by_power_of_two(x.lo, n.lo), avx2::scale_by_power_of_two(x.hi, n.hi)};
}
GPT2FAST_INLINE Vec<Avx2> select_less(Vec<Avx2> a, Vec<Avx2> b, Vec<Avx2> x, Vec<Avx2> y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
GPT2FAST_INLINE Vec<Avx2> select_first(int64_t count, Vec<Avx2> x, Vec<Avx2> y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_castsi256_ps(Vec<Avx2>::first_lanes(count))),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_castsi256_ps(Vec<Avx2>::first_lanes(count - 8)))};
}

GPT2FAST_INLINE float reduce_add(Vec<Avx2> a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GPT2FAST_INLINE float reduce_max(Vec<Avx2> a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

namespace avx2 {
GPT2FAST_INLINE void transpose_8x8(__m256 (&rows)[8]) {
  __m256 pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}
}  // namespace avx2

GPT2FAST_INLINE void transpose(Vec<Avx2> (&rows)[kLanes]) {
  __m256 quarters[4][8];  // top left, top right, bottom left, bottom right
  for (int i = 0; i < 8; ++i) {
    quarters[0][i] = rows[i].lo;
    quarters[1][i] = rows[i].hi;
    quarters[2][i] = rows[i + 8].lo;
    quarters[3][i] = rows[i + 8].hi;
  }
  for (int q = 0; q < 4; ++q) avx2::transpose_8x8(quarters[q]);
  for (int i = 0; i < 8; ++i) {
    rows[i] = {quarters[0][i], quarters[2][i]};
    rows[i + 8] = {quarters[1][i], quarters[3][i]};
  }
}

}  // namespace gpt2fast
