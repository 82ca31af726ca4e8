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
  static constexpr int kInt8Rows = 5, kInt4Rows = 5;
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

  // Rows of linear(): as above, but the signs are the row's, so that weights are used as they lie in memory.
  // A value is stored as its magnitude and a mask, which makes the signed weight of the unsigned one, and for
  // a negative value its complement, one less than its opposite; the correction makes up for that. Four
  // magnitudes are followed by their four masks. An exclusive or takes any port, and vpsignb a multiplier's.
  struct Int8Rows {
    struct Weights {
      __m256i lo, hi;
    };
    static constexpr int64_t kValueBytes = 2;
    static constexpr int32_t kCorrection = -1;  // times the sum of the negative values

    static GPT2FAST_INLINE Sums start(int32_t correction) {
      return {_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)};
    }
    static GPT2FAST_INLINE Weights load(const uint8_t* p) {
      return {Avx2CommonOps::load(p), Avx2CommonOps::load(p + 32)};
    }
    // Compilers would load several rows' values at once, and keep sums in memory for want of registers.
    static GPT2FAST_INLINE Sums dot(Sums sums, const Weights& w, const uint8_t* x) {
      struct Four {
        uint8_t bytes[4];
      };
      const Four* four = reinterpret_cast<const Four*>(x);
      __m256i magnitudes, lo, hi;
      asm("vpbroadcastd %[masks], %[hi]\n\t"
          "vpbroadcastd %[four], %[magnitudes]\n\t"
          "vpxor %[w_lo], %[hi], %[lo]\n\t"
          "vpxor %[w_hi], %[hi], %[hi]\n\t"
          "vpmaddubsw %[lo], %[magnitudes], %[lo]\n\t"
          "vpmaddubsw %[hi], %[magnitudes], %[hi]\n\t"
          "vpmaddwd %[ones], %[lo], %[lo]\n\t"
          "vpmaddwd %[ones], %[hi], %[hi]\n\t"
          "vpaddd %[lo], %[sums_lo], %[sums_lo]\n\t"
          "vpaddd %[hi], %[sums_hi], %[sums_hi]"
          : [sums_lo] "+x"(sums.lo), [sums_hi] "+x"(sums.hi), [magnitudes] "=&x"(magnitudes), [lo] "=&x"(lo),
            [hi] "=&x"(hi)
          : [w_lo] "x"(w.lo), [w_hi] "x"(w.hi), [ones] "x"(_mm256_set1_epi16(1)), [four] "m"(four[0]),
            [masks] "m"(four[1]));
      return sums;
    }
    // The sums of every four negative values of a block.
    static GPT2FAST_INLINE Sums sums_for_correction(const int8_t* values) {
      const auto sum = [](const int8_t* p) {
        const __m256i negative = _mm256_min_epi8(load_values(p), _mm256_setzero_si256());
        return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), negative), _mm256_set1_epi16(1));
      };
      return {sum(values), sum(values + 32)};
    }
    // Stores a block's groups of four values, `stride` bytes apart.
    static GPT2FAST_INLINE void arrange(const int8_t* values, int64_t stride, uint8_t* out) {
      for (int half = 0; half < 2; ++half, values += 32) {
        const __m256i four = load_values(values), magnitudes = _mm256_abs_epi8(four);
        const __m256i masks = _mm256_xor_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), four),
                                               _mm256_set1_epi8(static_cast<char>(0x80)));
        const __m256i low = _mm256_unpacklo_epi32(magnitudes, masks);   // groups 0, 1, 4, 5
        const __m256i high = _mm256_unpackhi_epi32(magnitudes, masks);  // groups 2, 3, 6, 7
        const auto store_two = [&](__m128i groups) {
          _mm_storel_epi64(reinterpret_cast<__m128i*>(out), groups);
          _mm_storel_epi64(reinterpret_cast<__m128i*>(out + stride), _mm_unpackhi_epi64(groups, groups));
          out += 2 * stride;
        };
        store_two(_mm256_castsi256_si128(low));
        store_two(_mm256_castsi256_si128(high));
        store_two(_mm256_extracti128_si256(low, 1));
        store_two(_mm256_extracti128_si256(high, 1));
      }
    }
    static GPT2FAST_INLINE __m256i load_values(const int8_t* p) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
  };

  static GPT2FAST_INLINE Sums dot_pairs(Sums sums, Pairs w, const int16_t* a) {
    const __m256i two = broadcast_pair(a);
    return {_mm256_add_epi32(sums.lo, _mm256_madd_epi16(w.lo, two)),
            _mm256_add_epi32(sums.hi, _mm256_madd_epi16(w.hi, two))};
  }

  // Int4 weights are multiplied half by half, and the rows' corrections are floats.
  static GPT2FAST_INLINE int32_t int4_correction(int32_t sum) {
    const float correction = static_cast<float>(-sum);
    int32_t bits;
    memcpy(&bits, &correction, sizeof(bits));
    return bits;
  }
  static GPT2FAST_INLINE NibbleSums start_int4_half(Sums, int32_t) {
    return {_mm256_setzero_si256(), _mm256_setzero_si256()};
  }
  static GPT2FAST_INLINE Nibbles load_int4_half(const uint8_t* p, int half) {
    const auto nibbles = [half](__m256i both) {
      return _mm256_and_si256(half == 0 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
    };
    return {nibbles(load(p)), nibbles(load(p + 32))};
  }
  // In assembly for the reason that Int8Rows::dot() gives.
  static GPT2FAST_INLINE void add_int4(NibbleSums& sums, const Nibbles& w, const int8_t* a) {
    struct Four {
      int8_t values[4];
    };
    __m256i lo, hi;
    asm("vpbroadcastd %[four], %[hi]\n\t"
        "vpmaddubsw %[hi], %[w_lo], %[lo]\n\t"
        "vpmaddubsw %[hi], %[w_hi], %[hi]\n\t"
        "vpaddw %[lo], %[sums_lo], %[sums_lo]\n\t"
        "vpaddw %[hi], %[sums_hi], %[sums_hi]"
        : [sums_lo] "+x"(sums.lo), [sums_hi] "+x"(sums.hi), [lo] "=&x"(lo), [hi] "=&x"(hi)
        : [w_lo] "x"(w.lo), [w_hi] "x"(w.hi), [four] "m"(*reinterpret_cast<const Four*>(a)));
  }
  // 16 times the products, and the zero point's part: whole numbers below 2^24, which floats hold.
  static GPT2FAST_INLINE Vec<Tag> finish_int4_half(const NibbleSums& sums, Sums zero, int32_t correction) {
    const __m256i sixteen = _mm256_set1_epi16(16);
    const Sums products = {_mm256_madd_epi16(sums.lo, sixteen), _mm256_madd_epi16(sums.hi, sixteen)};
    float times;
    memcpy(&times, &correction, sizeof(times));
    return fma(to_float(zero), Vec<Tag>::set1(times), to_float(products));
  }
};

}  // namespace gpt2fast
