// Integer dot products for AVX2 with FMA, without dot product instructions.
#pragma once

#include "kernels/integer_ops_256.h"

namespace gpt2fast {

struct Avx2Ops : Avx2CommonOps {
  // maddubs multiplies unsigned by signed bytes and saturates to int16: magnitudes keep both factors within
  // 127 (128 for the one weight that no packing produces), and the weight's sign moves to the activation.
  struct Int8Weights {
    __m256i lo, hi;
    __m256i lo_magnitude, hi_magnitude;
  };
  struct Nibbles {
    __m256i lo, hi;
  };
  // Pairs of int16: sums of 8 products of at most 15 * 127 * 2 stay within 32767.
  struct NibbleSums {
    __m256i lo, hi;
  };
  static constexpr int kInt8Rows = 4, kInt4Rows = 2;
  static constexpr int kAttentionRows = 4, kAttentionSums = 4;

  static GPT2FAST_INLINE Sums start_int8(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static GPT2FAST_INLINE Int8Weights load_int8(const uint8_t* p) {
    const __m256i middle = _mm256_set1_epi8(static_cast<char>(0x80));
    const __m256i lo = _mm256_xor_si256(load(p), middle), hi = _mm256_xor_si256(load(p + 32), middle);
    return {lo, hi, _mm256_abs_epi8(lo), _mm256_abs_epi8(hi)};
  }
  static GPT2FAST_INLINE Sums dot_int8(Sums sums, const Int8Weights& w, const int8_t* a) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i four = broadcast(a);
    const __m256i lo = _mm256_maddubs_epi16(w.lo_magnitude, _mm256_sign_epi8(four, w.lo));
    const __m256i hi = _mm256_maddubs_epi16(w.hi_magnitude, _mm256_sign_epi8(four, w.hi));
    return {_mm256_add_epi32(sums.lo, _mm256_madd_epi16(lo, ones)),
            _mm256_add_epi32(sums.hi, _mm256_madd_epi16(hi, ones))};
  }

  static GPT2FAST_INLINE Sums dot_pairs(Sums sums, Pairs w, const int16_t* a) {
    const __m256i two = broadcast_pair(a);
    return {_mm256_add_epi32(sums.lo, _mm256_madd_epi16(w.lo, two)),
            _mm256_add_epi32(sums.hi, _mm256_madd_epi16(w.hi, two))};
  }

  static GPT2FAST_INLINE NibbleSums start_int4(Sums, int32_t) {
    return {_mm256_setzero_si256(), _mm256_setzero_si256()};
  }
  static GPT2FAST_INLINE void load_int4(const uint8_t* p, Nibbles w[2]) {
    const __m256i low_nibbles = _mm256_set1_epi8(15);
    const __m256i lo = load(p), hi = load(p + 32);
    w[0] = {_mm256_and_si256(lo, low_nibbles), _mm256_and_si256(hi, low_nibbles)};
    w[1] = {_mm256_and_si256(_mm256_srli_epi16(lo, 4), low_nibbles),
            _mm256_and_si256(_mm256_srli_epi16(hi, 4), low_nibbles)};
  }
  static GPT2FAST_INLINE NibbleSums dot_int4(NibbleSums sums, const Nibbles& w, const int8_t* a) {
    const __m256i four = broadcast(a);
    return {_mm256_add_epi16(sums.lo, _mm256_maddubs_epi16(w.lo, four)),
            _mm256_add_epi16(sums.hi, _mm256_maddubs_epi16(w.hi, four))};
  }
  static GPT2FAST_INLINE Sums finish_int4(NibbleSums sums, Sums zero, int32_t correction) {
    const __m256i sixteen = _mm256_set1_epi16(16);
    const Sums offset = multiply_zero(zero, correction);
    return {_mm256_add_epi32(_mm256_madd_epi16(sums.lo, sixteen), offset.lo),
            _mm256_add_epi32(_mm256_madd_epi16(sums.hi, sixteen), offset.hi)};
  }
};

}  // namespace gpt2fast
