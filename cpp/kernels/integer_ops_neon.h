// Integer dot products for ARM64 with the dot product extension.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

struct NeonOps {
  using Tag = Neon;
  struct Sums {
    int32x4_t v[4];  // columns 4 i to 4 i + 3
  };
  struct Weights {
    int8x16_t v[4];  // signed: 4 consecutive rows of 4 columns each
  };
  using Int8Weights = Weights;
  using Nibbles = Weights;
  using NibbleSums = Sums;
  static constexpr int kTogether = 1;
  static constexpr int kInt8Rows = 4, kInt4Rows = 3;
  static constexpr int kFloatRows = 4, kFloatPanels = 1, kFloatSums = 4;
  static constexpr int kAttentionRows = 4, kAttentionSums = 4;

  template <typename Function>
  static GPT2FAST_INLINE Sums map(Function function) {
    return {{function(0), function(1), function(2), function(3)}};
  }
  // The larger of two values without a sign. Compared as integers, NaN is above infinity, and infinity above
  // all else.
  static GPT2FAST_INLINE Vec<Tag> max_magnitude(const Vec<Tag>& a, const Vec<Tag>& b) {
    return Vec<Tag>::map([&](int i) {
      return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(a.v[i]), vreinterpretq_s32_f32(b.v[i])));
    });
  }
  // Rounds 64 values, at most 127 in magnitude; returns the sums of every four.
  static GPT2FAST_INLINE Sums round_to_int8(const Vec<Tag> (&x)[4], int8_t* p) {
    return map([&](int part) {
      int16x4_t words[4];
      for (int i = 0; i < 4; ++i) words[i] = vmovn_s32(vcvtnq_s32_f32(x[part].v[i]));
      const int16x8_t low = vcombine_s16(words[0], words[1]), high = vcombine_s16(words[2], words[3]);
      const int8x16_t bytes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
      vst1q_s8(p + 16 * part, bytes);
      return vdotq_s32(vdupq_n_s32(0), bytes, vdupq_n_s8(1));
    });
  }

  static GPT2FAST_INLINE Sums start_int8(int32_t) {
    return map([](int) { return vdupq_n_s32(0); });
  }
  static GPT2FAST_INLINE Weights load_int8(const uint8_t* p) {
    const uint8x16_t middle = vdupq_n_u8(0x80);
    Weights w;
    for (int i = 0; i < 4; ++i) w.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), middle));
    return w;
  }
  static GPT2FAST_INLINE Sums dot_int8(const Sums& sums, const Weights& w, const int8_t* a) {
    int32_t four;
    memcpy(&four, a, sizeof(four));
    const int8x16_t values = vreinterpretq_s8_s32(vdupq_n_s32(four));
    return map([&](int i) { return vdotq_s32(sums.v[i], w.v[i], values); });
  }

  struct Pairs {
    int16x8_t v[4];  // 2 consecutive positions of 4 columns each
  };
  // Rounds and saturates; a NaN becomes anything.
  static GPT2FAST_INLINE void round_to_int16(Vec<Tag> x, int16_t* p) {
    const Sums words = map([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
    vst1q_s16(p, vcombine_s16(vqmovn_s32(words.v[0]), vqmovn_s32(words.v[1])));
    vst1q_s16(p + 8, vcombine_s16(vqmovn_s32(words.v[2]), vqmovn_s32(words.v[3])));
  }
  static GPT2FAST_INLINE Pairs load_pairs(const int8_t* p) {
    Pairs w;
    for (int i = 0; i < 4; ++i) w.v[i] = vmovl_s8(vld1_s8(p + 8 * i));
    return w;
  }
  static GPT2FAST_INLINE Sums dot_pairs(const Sums& sums, const Pairs& w, const int16_t* a) {
    int32_t two;
    memcpy(&two, a, sizeof(two));
    const int16x8_t weights = vreinterpretq_s16_s32(vdupq_n_s32(two));
    return map([&](int i) {
      const int32x4_t low = vmull_s16(vget_low_s16(w.v[i]), vget_low_s16(weights));
      return vaddq_s32(sums.v[i], vpaddq_s32(low, vmull_high_s16(w.v[i], weights)));
    });
  }

  static GPT2FAST_INLINE Sums start_int4(const Sums&, int32_t) { return start_int8(0); }
  static GPT2FAST_INLINE void load_int4(const uint8_t* p, Weights w[2]) {
    const uint8x16_t low_nibbles = vdupq_n_u8(15);
    for (int i = 0; i < 4; ++i) {
      const uint8x16_t both = vld1q_u8(p + 16 * i);
      w[0].v[i] = vreinterpretq_s8_u8(vandq_u8(both, low_nibbles));
      w[1].v[i] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    }
  }
  static GPT2FAST_INLINE Sums dot_int4(const Sums& sums, const Weights& w, const int8_t* a) {
    return dot_int8(sums, w, a);
  }
  static GPT2FAST_INLINE Sums finish_int4(const Sums& sums, const Sums& zero, int32_t correction) {
    const int32_t factor = static_cast<int16_t>(correction);
    return map([&](int i) { return vmlaq_n_s32(vshlq_n_s32(sums.v[i], 4), zero.v[i], factor); });
  }

  static GPT2FAST_INLINE Sums load_bytes(const uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
  }
  static GPT2FAST_INLINE Vec<Tag> scales_over_16(const uint8_t* p) {
    const int32x4_t bias = vdupq_n_s32((127 - 11 - 4) << 23);
    const Sums codes = load_bytes(p);
    return Vec<Tag>::map(
        [&](int i) { return vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(codes.v[i], 19), bias)); });
  }
  static GPT2FAST_INLINE Vec<Tag> to_float(const Sums& sums) {
    return Vec<Tag>::map([&](int i) { return vcvtq_f32_s32(sums.v[i]); });
  }
};

}  // namespace gpt2fast
