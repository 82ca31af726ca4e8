// The passes of vocabulary.h over any Vec.
#pragma once

#include <cfloat>

#include "kernels/math.h"
#include "kernels/vocabulary.h"

namespace gpt2fast {

// Comparisons with masks, which Vec itself does not have. Bit i of a mask stands for lane i.
template <typename Tag>
struct Lanes {
  using V = Vec<Tag>;
  static GPT2FAST_INLINE uint32_t at_least(V a, V b) {
    uint32_t mask = 0;
    for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a.v[i] >= b.v[i]) << i;
    return mask;
  }
  static GPT2FAST_INLINE V blend(uint32_t mask, V x, V y) {
    return V::map([&](int i) { return (mask >> i & 1u) != 0 ? x.v[i] : y.v[i]; });
  }
};

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
template <>
struct Lanes<Avx2> {
  using V = Vec<Avx2>;
  static GPT2FAST_INLINE uint32_t at_least(V a, V b) {
    const int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ));
    const int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ));
    return static_cast<uint32_t>(lo | hi << 8);
  }
  // Copies bit i to all bits of lane i.
  static GPT2FAST_INLINE __m256 spread(uint32_t mask) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bits);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits));
  }
  static GPT2FAST_INLINE V blend(uint32_t mask, V x, V y) {
    return {_mm256_blendv_ps(y.lo, x.lo, spread(mask)), _mm256_blendv_ps(y.hi, x.hi, spread(mask >> 8))};
  }
};
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
template <>
struct Lanes<Avx512> {
  using V = Vec<Avx512>;
  static GPT2FAST_INLINE uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
  static GPT2FAST_INLINE V blend(uint32_t mask, V x, V y) {
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(mask), y.v, x.v)};
  }
};
#endif

// Copies the lanes of `mask` of one vector of each column to its output from `to` on; returns how many there
// are.
template <typename Tag>
struct Compactor {
  // Without branches: every lane is written, and the next one overwrites it unless it stays.
  static GPT2FAST_INLINE int64_t move(const CompactArguments& a, int64_t from, uint32_t mask, int64_t to) {
    const int64_t start = to;
    for (int64_t i = from; i < a.count && i < from + kLanes; ++i, mask >>= 1) {
      if (a.ids_out != nullptr) a.ids_out[to] = a.ids != nullptr ? a.ids[i] : static_cast<int32_t>(i);
      if (a.first_out != nullptr) a.first_out[to] = a.first[i];
      if (a.second_out != nullptr) a.second_out[to] = a.second[i];
      to += mask & 1;
    }
    return to - start;
  }
};

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
template <>
struct Compactor<Avx512> {
  // Whole vectors are stored; their surplus falls on elements that have been read already, or on the padding.
  // Compressing in a register and storing it is much faster than a compressing store.
  static GPT2FAST_INLINE int64_t move(const CompactArguments& a, int64_t from, uint32_t lanes, int64_t to) {
    const auto mask = static_cast<__mmask16>(lanes);
    const auto readable = Vec<Avx512>::first_lanes(a.count - from);
    if (a.ids_out != nullptr) {
      const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i ids = a.ids != nullptr
                              ? _mm512_maskz_loadu_epi32(readable, a.ids + from)
                              : _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(from)), lane);
      _mm512_storeu_si512(a.ids_out + to, _mm512_maskz_compress_epi32(mask, ids));
    }
    if (a.first_out != nullptr) move_floats(a.first + from, readable, mask, a.first_out + to);
    if (a.second_out != nullptr) move_floats(a.second + from, readable, mask, a.second_out + to);
    return _mm_popcnt_u32(lanes);
  }
  static GPT2FAST_INLINE void move_floats(const float* from, __mmask16 readable, __mmask16 mask, float* to) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, _mm512_maskz_loadu_ps(readable, from)));
  }
};
#endif

template <typename Tag>
struct Vocabulary {
  using V = Vec<Tag>;
  static constexpr float kInfinity = INFINITY;

  // x[i .. i + 16), `otherwise` beyond the array's end.
  static GPT2FAST_INLINE V load(const float* x, int64_t i, int64_t count, V otherwise) {
    if (i + kLanes <= count) return V::load(x + i);
    return select_first(count - i, V::load_partial(x + i, count - i), otherwise);
  }
  static GPT2FAST_INLINE void store(V value, float* y, int64_t i, int64_t count) {
    if (i + kLanes <= count) {
      value.store(y + i);
    } else {
      value.store_partial(y + i, count - i);
    }
  }
  static GPT2FAST_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  static Extremum find_max(const float* x, int64_t count) {
    constexpr int64_t kBlock = 1024;
    const V infinity = V::set1(kInfinity);
    const V lowest = V::set1(-kInfinity);
    V irregular = V::zero();
    float best = -kInfinity;
    int64_t best_block = 0;
    for (int64_t block = 0; block < count; block += kBlock) {
      const int64_t end = smaller(block + kBlock, count);
      V m0 = lowest, m1 = lowest;
      int64_t i = block;
      for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
        const V a = V::load(x + i), b = V::load(x + i + kLanes);
        irregular = select_less(a, infinity, irregular, infinity);
        irregular = select_less(b, infinity, irregular, infinity);
        m0 = max(a, m0);
        m1 = max(b, m1);
      }
      for (; i < end; i += kLanes) {
        const V a = load(x, i, end, lowest);
        irregular = select_less(a, infinity, irregular, infinity);
        m0 = max(a, m0);
      }
      const float value = reduce_max(max(m0, m1));
      if (value > best) {
        best = value;
        best_block = block;
      }
    }
    if (reduce_max(irregular) > 0.0f) return {best, 0, false};
    if (best == -kInfinity) return {best, 0, true};
    int64_t index = best_block;
    while (x[index] != best) ++index;
    return {best, index, true};
  }

  static int64_t column_maxima(const float* x, int64_t count, int64_t column_length, float* maxima) {
    const V lowest = V::set1(-kInfinity);
    int64_t columns = 0;
    for (int64_t start = 0; start < count; start += column_length * kLanes) {
      const int64_t end = smaller(start + column_length * kLanes, count);
      V m = lowest;
      for (int64_t i = start; i < end; i += kLanes) m = max(load(x, i, end, lowest), m);
      m.store(maxima + columns);
      columns += kLanes;
    }
    return columns;
  }

  static void exp_weights(const float* x, int64_t count, float max, float temperature, float* weights) {
    const V m = V::set1(max), t = V::set1(temperature);
    for (int64_t i = 0; i < count; i += kLanes) {
      store(exp((load(x, i, count, m) - m) / t), weights, i, count);
    }
  }

  static BlockExpSum exp_sum_block(const float* x, int64_t count) {
    const V lowest = V::set1(-kInfinity);
    V most = V::set1(-FLT_MAX);  // from which -infinity can be subtracted
    for (int64_t i = 0; i < count; i += kLanes) most = max(load(x, i, count, lowest), most);
    const float largest = reduce_max(most);
    const V m = V::set1(largest);
    V sum = V::zero();
    for (int64_t i = 0; i < count; i += kLanes) sum = sum + exp(load(x, i, count, lowest) - m);
    return {largest, reduce_add(sum)};
  }

  static GPT2FAST_INLINE double add_some(double total, const float* maxima, const float* sums, int64_t blocks,
                                         float max) {
    alignas(64) float factors[kLanes];
    exp(load(maxima, 0, blocks, V::set1(max)) - V::set1(max)).store(factors);
    for (int64_t b = 0; b < blocks; ++b) {
      total += static_cast<double>(sums[b]) * static_cast<double>(factors[b]);
    }
    return total;
  }

  static double add_exp_sums(const float* maxima, const float* sums, int64_t blocks, float max) {
    double total = 0;
    for (int64_t b = 0; b < blocks; b += kLanes) {
      total = add_some(total, maxima + b, sums + b, smaller(kLanes, blocks - b), max);
    }
    return total;
  }

  static double exp_sum(const float* x, int64_t count, float max) {
    float maxima[kLanes], sums[kLanes];
    double total = 0;
    for (int64_t begin = 0; begin < count;) {
      int64_t blocks = 0;
      for (; blocks < kLanes && begin < count; ++blocks, begin += kVocabularyBlock) {
        const BlockExpSum block = exp_sum_block(x + begin, smaller(kVocabularyBlock, count - begin));
        maxima[blocks] = block.max;
        sums[blocks] = block.sum;
      }
      total = add_some(total, maxima, sums, blocks, max);
    }
    return total;
  }

  static void subtract(const float* x, int64_t count, double amount, float* y) {
    for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(static_cast<double>(x[i]) - amount);
  }

  static double sum_blocks(const float* x, int64_t count, float* sums) {
    double total = 0;
    for (int64_t block = 0; block < count; block += kVocabularyBlock) {
      const int64_t end = smaller(block + kVocabularyBlock, count);
      V s0 = V::zero(), s1 = V::zero();
      int64_t i = block;
      for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
        s0 = s0 + V::load(x + i);
        s1 = s1 + V::load(x + i + kLanes);
      }
      for (; i < end; i += kLanes) s0 = s0 + load(x, i, end, V::zero());
      *sums = reduce_add(s0 + s1);
      total += static_cast<double>(*sums++);
    }
    return total;
  }

  static int64_t compact(const CompactArguments& a) {
    const V low = V::set1(a.low), high = V::set1(a.high), below = V::set1(-kInfinity);
    int64_t kept = 0;
    for (int64_t i = 0; i < a.count; i += kLanes) {
      const V keys = load(a.keys, i, a.count, below);
      uint32_t mask = Lanes<Tag>::at_least(keys, low) & ~Lanes<Tag>::at_least(keys, high);
      if (i + kLanes > a.count) mask &= (1u << (a.count - i)) - 1u;
      if (mask != 0) kept += Compactor<Tag>::move(a, i, mask, kept);
    }
    return kept;
  }

  // Lanes are summed in blocks, so that no long sum of floats loses small weights.
  static void weigh_above(const float* keys, const float* weights, int64_t count, const float* thresholds,
                          double* totals) {
    constexpr int64_t kBlock = 64 * kLanes;
    const V below = V::set1(-kInfinity);
    V outer[kVocabularyThresholds], at[kVocabularyThresholds];
    for (int t = 0; t < kVocabularyThresholds; ++t) {
      outer[t] = V::zero();
      at[t] = V::set1(thresholds[t]);
    }
    for (int64_t block = 0; block < count; block += kBlock) {
      const int64_t end = smaller(block + kBlock, count);
      V inner[kVocabularyThresholds];
      for (int t = 0; t < kVocabularyThresholds; ++t) inner[t] = V::zero();
      for (int64_t i = block; i < end; i += kLanes) {
        const V key = load(keys, i, end, below);
        const V weight = load(weights, i, end, V::zero());
        for (int t = 0; t < kVocabularyThresholds; ++t) {
          inner[t] = inner[t] + select_less(key, at[t], V::zero(), weight);
        }
      }
      for (int t = 0; t < kVocabularyThresholds; ++t) outer[t] = outer[t] + inner[t];
    }
    for (int t = 0; t < kVocabularyThresholds; ++t) totals[t] = static_cast<double>(reduce_add(outer[t]));
  }

  static double weighted_log(const float* x, const float* weights, int64_t count, float max,
                             float temperature) {
    const V m = V::set1(max), t = V::set1(temperature), zero = V::zero();
    double total = 0;
    for (int64_t block = 0; block < count; block += kVocabularyBlock) {
      const int64_t end = smaller(block + kVocabularyBlock, count);
      V sum = zero;
      for (int64_t i = block; i < end; i += kLanes) {
        const V weight = load(weights, i, end, zero);
        const V product = weight * ((load(x, i, end, m) - m) / t);
        sum = sum + select_less(zero, weight, product, zero);
      }
      total += static_cast<double>(reduce_add(sum));
    }
    return total;
  }

  static void negative_distance(const float* x, int64_t count, float max, float temperature, float center,
                                float* keys) {
    const V m = V::set1(max), t = V::set1(temperature), c = V::set1(center);
    for (int64_t i = 0; i < count; i += kLanes) {
      store(V::zero() - abs((load(x, i, count, m) - m) / t - c), keys, i, count);
    }
  }

  static void forbid(float* scores, int64_t count, const uint32_t* allowed) {
    const V lowest = V::set1(-kInfinity);
    for (int64_t i = 0; i < count; i += kLanes) {
      const uint32_t mask = allowed[i / 32] >> (i % 32) & 0xffffu;
      store(Lanes<Tag>::blend(mask, load(scores, i, count, lowest), lowest), scores, i, count);
    }
  }

  static constexpr VocabularyKernels table() {
    return {find_max,   column_maxima, exp_weights, exp_sum_block, add_exp_sums,      exp_sum, subtract,
            sum_blocks, compact,       weigh_above, weighted_log,  negative_distance, forbid};
  }
};

}  // namespace gpt2fast
