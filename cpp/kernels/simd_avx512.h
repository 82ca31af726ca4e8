// Vec over one 512-bit register: AVX-512 F, BW, VL and DQ.
#pragma once

#include <immintrin.h>

#include "kernels/simd_portable.h"

// GCC's intrinsics read a deliberately undefined operand, which it reports once they are inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace gpt2fast {

struct Avx512 {};

template <>
struct Vec<Avx512> {
  __m512 v;

  static GPT2FAST_INLINE Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  static GPT2FAST_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
  static GPT2FAST_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static GPT2FAST_INLINE Vec load_partial(const float* p, int64_t count) {
    return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
  }
  static GPT2FAST_INLINE Vec load_half(const uint16_t* p) { return {_mm512_cvtph_ps(load_16x16(p))}; }
  static GPT2FAST_INLINE Vec load_bf16(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16x16(p)), 16))};
  }
  static GPT2FAST_INLINE Vec quotients(float x, const double* by) {
    const __m512d dividend = _mm512_set1_pd(static_cast<double>(x));
    const __m256 low = _mm512_cvtpd_ps(_mm512_div_pd(dividend, _mm512_loadu_pd(by)));
    const __m256 high = _mm512_cvtpd_ps(_mm512_div_pd(dividend, _mm512_loadu_pd(by + 8)));
    return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
  }
  GPT2FAST_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  GPT2FAST_INLINE void store_partial(float* p, int64_t count) const {
    _mm512_mask_storeu_ps(p, first_lanes(count), v);
  }
  GPT2FAST_INLINE void store_half(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }

  static GPT2FAST_INLINE __mmask16 first_lanes(int64_t count) {
    const unsigned limit = count < 0 ? 0u : count > 16 ? 16u : static_cast<unsigned>(count);
    return static_cast<__mmask16>((1u << limit) - 1u);
  }
  static GPT2FAST_INLINE __m256i load_16x16(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
};

GPT2FAST_INLINE Vec<Avx512> operator+(Vec<Avx512> a, Vec<Avx512> b) { return {_mm512_add_ps(a.v, b.v)}; }
GPT2FAST_INLINE Vec<Avx512> operator-(Vec<Avx512> a, Vec<Avx512> b) { return {_mm512_sub_ps(a.v, b.v)}; }
GPT2FAST_INLINE Vec<Avx512> operator*(Vec<Avx512> a, Vec<Avx512> b) { return {_mm512_mul_ps(a.v, b.v)}; }
GPT2FAST_INLINE Vec<Avx512> operator/(Vec<Avx512> a, Vec<Avx512> b) { return {_mm512_div_ps(a.v, b.v)}; }
GPT2FAST_INLINE Vec<Avx512> fma(Vec<Avx512> a, Vec<Avx512> b, Vec<Avx512> c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
GPT2FAST_INLINE Vec<Avx512> max(Vec<Avx512> a, Vec<Avx512> b) { return {_mm512_max_ps(a.v, b.v)}; }
GPT2FAST_INLINE Vec<Avx512> min(Vec<Avx512> a, Vec<Avx512> b) { return {_mm512_min_ps(a.v, b.v)}; }
GPT2FAST_INLINE Vec<Avx512> abs(Vec<Avx512> a) { return {_mm512_abs_ps(a.v)}; }
GPT2FAST_INLINE Vec<Avx512> sqrt(Vec<Avx512> a) { return {_mm512_sqrt_ps(a.v)}; }
GPT2FAST_INLINE Vec<Avx512> round_to_int(Vec<Avx512> a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
GPT2FAST_INLINE Vec<Avx512> scale_by_power_of_two(Vec<Avx512> x, Vec<Avx512> n) {
  return {_mm512_scalef_ps(x.v, n.v)};
}
GPT2FAST_INLINE Vec<Avx512> select_less(Vec<Avx512> a, Vec<Avx512> b, Vec<Avx512> x, Vec<Avx512> y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
GPT2FAST_INLINE Vec<Avx512> select_first(int64_t count, Vec<Avx512> x, Vec<Avx512> y) {
  return {_mm512_mask_blend_ps(Vec<Avx512>::first_lanes(count), y.v, x.v)};
}

GPT2FAST_INLINE float reduce_add(Vec<Avx512> a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GPT2FAST_INLINE float reduce_max(Vec<Avx512> a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

GPT2FAST_INLINE void transpose(Vec<Avx512> (&rows)[kLanes]) {
  __m512 pairs[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  __m512 fours[kLanes];  // fours[4 i + j], 128 bits l: column 4 l + j of rows 4 i to 4 i + 3
  for (int i = 0; i < kLanes; i += 4) {
    fours[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 even_top = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
    const __m512 odd_top = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
    const __m512 even_bottom = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
    const __m512 odd_bottom = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
    rows[j].v = _mm512_shuffle_f32x4(even_top, even_bottom, 0x88);
    rows[4 + j].v = _mm512_shuffle_f32x4(odd_top, odd_bottom, 0x88);
    rows[8 + j].v = _mm512_shuffle_f32x4(even_top, even_bottom, 0xdd);
    rows[12 + j].v = _mm512_shuffle_f32x4(odd_top, odd_bottom, 0xdd);
  }
}

}  // namespace gpt2fast

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
