// The integer operations that the 256-bit instruction sets share.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

struct Avx2CommonOps {
  using Tag = Avx2;
  struct Sums {
    __m256i lo, hi;  // columns 0 to 7, 8 to 15
  };
  static constexpr int kTogether = 1;  // a vector fills two registers
  static constexpr int kFloatRows = 6, kFloatPanels = 2, kFloatSums = 6;

  static GPT2FAST_INLINE __m256i load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static GPT2FAST_INLINE __m256i broadcast(const int8_t* a) {
    int32_t four;
    memcpy(&four, a, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  // The larger of two values without a sign. Compared as integers, NaN is above infinity, and infinity above
  // all else.
  static GPT2FAST_INLINE Vec<Tag> max_magnitude(Vec<Tag> a, Vec<Tag> b) {
    const auto larger = [](__m256 x, __m256 y) {
      return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
    };
    return {larger(a.lo, b.lo), larger(a.hi, b.hi)};
  }
  // Rounds 64 values, at most 127 in magnitude; returns the sums of every four.
  static GPT2FAST_INLINE Sums round_to_int8(const Vec<Tag> (&x)[4], int8_t* p) {
    return {round_half(x[0], x[1], p), round_half(x[2], x[3], p + 32)};
  }
  static GPT2FAST_INLINE __m256i round_half(Vec<Tag> first, Vec<Tag> second, int8_t* p) {
    const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(first.lo), _mm256_cvtps_epi32(first.hi));
    const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(second.lo), _mm256_cvtps_epi32(second.hi));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
  }
  struct Pairs {
    __m256i lo, hi;  // int16: 2 consecutive positions of 8 columns each
  };
  // Rounds and saturates; a NaN becomes anything.
  static GPT2FAST_INLINE void round_to_int16(Vec<Tag> x, int16_t* p) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
  }
  static GPT2FAST_INLINE Pairs load_pairs(const int8_t* p) {
    const __m128i* columns = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(columns)),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(columns + 1))};
  }
  static GPT2FAST_INLINE __m256i broadcast_pair(const int16_t* a) {
    int32_t two;
    memcpy(&two, a, sizeof(two));
    return _mm256_set1_epi32(two);
  }
  static GPT2FAST_INLINE Sums load_bytes(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static GPT2FAST_INLINE Sums multiply_zero(Sums zero, int32_t correction) {
    const __m256i factor = _mm256_set1_epi32(correction);
    return {_mm256_madd_epi16(zero.lo, factor), _mm256_madd_epi16(zero.hi, factor)};
  }
  static GPT2FAST_INLINE Vec<Tag> scales_over_16(const uint8_t* p) {
    const __m256i bias = _mm256_set1_epi32((127 - 11 - 4) << 23);
    const Sums codes = load_bytes(p);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(codes.lo, 19), bias)),
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(codes.hi, 19), bias))};
  }
  static GPT2FAST_INLINE Vec<Tag> to_float(Sums sums) {
    return {_mm256_cvtepi32_ps(sums.lo), _mm256_cvtepi32_ps(sums.hi)};
  }
};

}  // namespace gpt2fast
