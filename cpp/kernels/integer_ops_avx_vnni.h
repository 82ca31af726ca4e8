// Integer dot products for AVX2 with the VNNI dot product in its 256-bit form.
#pragma once

#include "kernels/integer_ops_256.h"

namespace gpt2fast {

struct AvxVnniOps : Avx2CommonOps {
  struct Weights {
    __m256i lo, hi;  // unsigned: 4 consecutive rows of 16 columns
  };
  using Int8Weights = Weights;
  using Nibbles = Weights;  // times 16
  using NibbleSums = Sums;
  static constexpr int kInt8Rows = 5, kInt4Rows = 3;
  static constexpr int kAttentionRows = 5, kAttentionSums = 5;

  static GPT2FAST_INLINE Sums start_int8(int32_t correction) {
    return {_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)};
  }
  static GPT2FAST_INLINE Weights load_int8(const uint8_t* p) { return {load(p), load(p + 32)}; }
  static GPT2FAST_INLINE Sums dot_int8(Sums sums, Weights w, const int8_t* a) {
    const __m256i four = broadcast(a);
    return {_mm256_dpbusd_epi32(sums.lo, w.lo, four), _mm256_dpbusd_epi32(sums.hi, w.hi, four)};
  }

  static GPT2FAST_INLINE Sums dot_pairs(Sums sums, Pairs w, const int16_t* a) {
    const __m256i two = broadcast_pair(a);
    return {_mm256_dpwssd_epi32(sums.lo, w.lo, two), _mm256_dpwssd_epi32(sums.hi, w.hi, two)};
  }

  static GPT2FAST_INLINE Sums start_int4(Sums zero, int32_t correction) {
    return multiply_zero(zero, correction);
  }
  static GPT2FAST_INLINE void load_int4(const uint8_t* p, Weights w[2]) {
    const __m256i high_nibbles = _mm256_set1_epi8(static_cast<char>(0xf0));
    const Weights both = load_int8(p);
    w[0] = {_mm256_and_si256(_mm256_slli_epi16(both.lo, 4), high_nibbles),
            _mm256_and_si256(_mm256_slli_epi16(both.hi, 4), high_nibbles)};
    w[1] = {_mm256_and_si256(both.lo, high_nibbles), _mm256_and_si256(both.hi, high_nibbles)};
  }
  static GPT2FAST_INLINE Sums dot_int4(Sums sums, Weights w, const int8_t* a) { return dot_int8(sums, w, a); }
  static GPT2FAST_INLINE Sums finish_int4(Sums sums, Sums, int32_t) { return sums; }
};

}  // namespace gpt2fast
