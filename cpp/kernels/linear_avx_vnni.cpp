// linear() for AVX2 with the VNNI dot product in its 256-bit form.
#include "kernels/linear_table.h"

namespace gpt2fast {
namespace {

struct AvxVnniOps {
  using Tag = Avx2;
  struct Sums {
    __m256i lo, hi;  // columns 0 to 7, 8 to 15
  };
  struct Weights {
    __m256i lo, hi;  // unsigned: 4 consecutive rows of 16 columns
  };
  using Int8Weights = Weights;
  using Nibbles = Weights;  // times 16
  using NibbleSums = Sums;
  static constexpr int kInt8Rows = 4, kInt4Rows = 3;
  static constexpr int kFloatRows = 6, kFloatPanels = 2, kFloatSums = 6;

  static GPT2FAST_INLINE __m256i load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static GPT2FAST_INLINE __m256i dot(__m256i sums, __m256i w, __m256i a) { return _mm256_dpbusd_epi32(sums, w, a); }
  static GPT2FAST_INLINE void store_int8(Vec<Tag> x, int8_t* p) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static GPT2FAST_INLINE Sums start_int8(int32_t correction) {
    return {_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)};
  }
  static GPT2FAST_INLINE Weights load_int8(const uint8_t* p) { return {load(p), load(p + 32)}; }
  static GPT2FAST_INLINE Sums dot_int8(Sums sums, Weights w, const int8_t* a) {
    int32_t four;
    memcpy(&four, a, sizeof(four));
    const __m256i values = _mm256_set1_epi32(four);
    return {dot(sums.lo, w.lo, values), dot(sums.hi, w.hi, values)};
  }

  static GPT2FAST_INLINE Sums start_int4(Sums zero, int32_t correction) {
    const __m256i factor = _mm256_set1_epi32(correction);
    return {_mm256_madd_epi16(zero.lo, factor), _mm256_madd_epi16(zero.hi, factor)};
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

  static GPT2FAST_INLINE Sums load_bytes(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
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

}  // namespace

LinearVariant linear_avx_vnni() { return make_linear_variant<AvxVnniOps>(); }

}  // namespace gpt2fast
