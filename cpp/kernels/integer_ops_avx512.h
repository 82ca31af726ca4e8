// Integer dot products for AVX-512 with VNNI.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

struct Avx512Ops {
  using Tag = Avx512;
  struct Sums {
    __m512i v;
  };
  struct Weights {
    __m512i v;  // unsigned: 4 consecutive rows of 16 columns
  };
  using Int8Weights = Weights;
  using Nibbles = Weights;  // times 16
  using NibbleSums = Sums;
  static constexpr int kTogether = 4;  // vectors in a Vecs, see vecs.h
  static constexpr int kInt8Rows = 8, kInt4Rows = 8;
  static constexpr int kInt8Panels = 2;
  static constexpr int kFloatRows = 12, kFloatPanels = 4, kFloatSums = 24;
  static constexpr int kAttentionRows = 6, kAttentionSums = 24;

  // The larger of two values without a sign. Compared as integers, NaN is above infinity, and infinity above
  // all else.
  static GPT2FAST_INLINE Vec<Tag> max_magnitude(Vec<Tag> a, Vec<Tag> b) {
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
  }
  // Rounds 64 values, at most 127 in magnitude; returns the sums of every four.
  static GPT2FAST_INLINE Sums round_to_int8(const Vec<Tag> (&x)[4], int8_t* p) {
    const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0].v), _mm512_cvtps_epi32(x[1].v));
    const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2].v), _mm512_cvtps_epi32(x[3].v));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
    _mm512_storeu_si512(p, bytes);
    return {_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes)};
  }

  static GPT2FAST_INLINE Sums start_int8(int32_t correction) { return {_mm512_set1_epi32(correction)}; }
  static GPT2FAST_INLINE Weights load_int8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  // Compilers would copy the destructive operand and keep broadcasts in registers that the sums need. Written
  // in assembly, the broadcast is part of the load.
  static GPT2FAST_INLINE Sums dot_int8(Sums sums, Weights w, const int8_t* a) {
    struct Four {
      int8_t values[4];
    };
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums.v) : "v"(w.v), "m"(*reinterpret_cast<const Four*>(a)));
    return sums;
  }

  // For several panels, whose products share what is loaded. With a load in each, loads would be the limit.
  static GPT2FAST_INLINE Weights spread(const int8_t* a) {
    int32_t four;
    memcpy(&four, a, sizeof(four));
    return {_mm512_set1_epi32(four)};
  }
  static GPT2FAST_INLINE Sums dot(Sums sums, Weights w, Weights four) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums.v) : "v"(w.v), "v"(four.v));
    return sums;
  }

  struct Pairs {
    __m512i v;  // int16: 2 consecutive positions of 16 columns
  };
  // Rounds and saturates; a NaN becomes anything.
  static GPT2FAST_INLINE void round_to_int16(Vec<Tag> x, int16_t* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x.v)));
  }
  static GPT2FAST_INLINE Pairs load_pairs(const int8_t* p) {
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static GPT2FAST_INLINE Sums dot_pairs(Sums sums, Pairs w, const int16_t* a) {
    struct Two {
      int16_t values[2];
    };
    asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sums.v) : "v"(w.v), "m"(*reinterpret_cast<const Two*>(a)));
    return sums;
  }

  static GPT2FAST_INLINE Sums start_int4(Sums zero, int32_t correction) {
    return {_mm512_madd_epi16(zero.v, _mm512_set1_epi32(correction))};
  }
  static GPT2FAST_INLINE void load_int4(const uint8_t* p, Weights w[2]) {
    const __m512i high_nibbles = _mm512_set1_epi8(static_cast<char>(0xf0));
    const __m512i both = _mm512_loadu_si512(p);
    w[0].v = _mm512_and_si512(_mm512_slli_epi16(both, 4), high_nibbles);
    w[1].v = _mm512_and_si512(both, high_nibbles);
  }
  static GPT2FAST_INLINE Sums dot_int4(Sums sums, Weights w, const int8_t* a) { return dot_int8(sums, w, a); }
  static GPT2FAST_INLINE Sums finish_int4(Sums sums, Sums, int32_t) { return sums; }

  static GPT2FAST_INLINE Sums load_bytes(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static GPT2FAST_INLINE Vec<Tag> scales_over_16(const uint8_t* p) {
    const __m512i bias = _mm512_set1_epi32((127 - 11 - 4) << 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(load_bytes(p).v, 19), bias))};
  }
  static GPT2FAST_INLINE Vec<Tag> to_float(Sums sums) { return {_mm512_cvtepi32_ps(sums.v)}; }
};

}  // namespace gpt2fast
