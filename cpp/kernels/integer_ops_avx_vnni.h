// Integer dot products for AVX2 with the VNNI dot product in its 256-bit form.
#pragma once

#include "kernels/integer_ops_256.h"

namespace gpt2fast {

struct AvxVnniOps : Avx2CommonOps {
  struct Int8Weights {
    __m256i lo, hi;  // unsigned: 4 consecutive rows of 16 columns
  };
  using Nibbles = Int8Weights;  // times 16
  using NibbleSums = Sums;
  static constexpr int kInt8Rows = 6, kInt4Rows = 6;
  static constexpr int kAttentionRows = 5, kAttentionSums = 5;

  static GPT2FAST_INLINE Sums start_int8(int32_t correction) {
    return {_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)};
  }
  static GPT2FAST_INLINE Int8Weights load_int8(const uint8_t* p) { return {load(p), load(p + 32)}; }
  static GPT2FAST_INLINE Sums dot_int8(Sums sums, Int8Weights w, const int8_t* a) {
    add_products(sums, w.lo, w.hi, a);
    return sums;
  }

  static GPT2FAST_INLINE Sums dot_pairs(Sums sums, Pairs w, const int16_t* a) {
    struct Two {
      int16_t values[2];
    };
    __m256i two;
    asm("vpbroadcastd %[values], %[two]\n\t"
        "%{vex%} vpdpwssd %[two], %[w_lo], %[sums_lo]\n\t"
        "%{vex%} vpdpwssd %[two], %[w_hi], %[sums_hi]"
        : [sums_lo] "+x"(sums.lo), [sums_hi] "+x"(sums.hi), [two] "=&x"(two)
        : [w_lo] "x"(w.lo), [w_hi] "x"(w.hi), [values] "m"(*reinterpret_cast<const Two*>(a)));
    return sums;
  }

  static GPT2FAST_INLINE NibbleSums start_int4_half(Sums zero, int32_t correction) {
    return multiply_zero(zero, correction);
  }
  static GPT2FAST_INLINE Nibbles load_int4_half(const uint8_t* p, int half) {
    const auto nibbles = [half](__m256i both) {
      const __m256i high_nibbles = _mm256_set1_epi8(static_cast<char>(0xf0));
      return _mm256_and_si256(half == 0 ? _mm256_slli_epi16(both, 4) : both, high_nibbles);
    };
    return {nibbles(load(p)), nibbles(load(p + 32))};
  }
  static GPT2FAST_INLINE void add_int4(NibbleSums& sums, const Nibbles& w, const int8_t* a) {
    add_products(sums, w.lo, w.hi, a);
  }
  static GPT2FAST_INLINE Vec<Tag> finish_int4_half(const NibbleSums& sums, Sums, int32_t) {
    return to_float(sums);
  }

 private:
  // Compilers would copy the destructive operands, and keep sums in memory for want of registers.
  static GPT2FAST_INLINE void add_products(Sums& sums, __m256i lo, __m256i hi, const int8_t* a) {
    struct Four {
      int8_t values[4];
    };
    __m256i four;
    asm("vpbroadcastd %[values], %[four]\n\t"
        "%{vex%} vpdpbusd %[four], %[w_lo], %[sums_lo]\n\t"
        "%{vex%} vpdpbusd %[four], %[w_hi], %[sums_hi]"
        : [sums_lo] "+x"(sums.lo), [sums_hi] "+x"(sums.hi), [four] "=&x"(four)
        : [w_lo] "x"(lo), [w_hi] "x"(hi), [values] "m"(*reinterpret_cast<const Four*>(a)));
  }
};

}  // namespace gpt2fast
