// Vec over four 128-bit registers: 64-bit ARM.
#pragma once

#include <arm_neon.h>

#include "kernels/simd_portable.h"

namespace gpt2fast {

struct Neon {};

template <>
struct Vec<Neon> {
  float32x4_t v[4];

  template <typename Function>
  static GPT2FAST_INLINE Vec map(Function function) {
    return {{function(0), function(1), function(2), function(3)}};
  }

  static GPT2FAST_INLINE Vec set1(float x) {
    return map([x](int) { return vdupq_n_f32(x); });
  }
  static GPT2FAST_INLINE Vec zero() { return set1(0.0f); }
  static GPT2FAST_INLINE Vec load(const float* p) {
    return map([p](int i) { return vld1q_f32(p + 4 * i); });
  }
  static GPT2FAST_INLINE Vec load_partial(const float* p, int64_t count) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < kLanes && i < count; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  static GPT2FAST_INLINE Vec load_half(const uint16_t* p) {
    return map([p](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static GPT2FAST_INLINE Vec load_bf16(const uint16_t* p) {
    return map([p](int i) { return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p + 4 * i)), 16)); });
  }
  static GPT2FAST_INLINE Vec quotients(float x, const double* by) {
    const float64x2_t dividend = vdupq_n_f64(static_cast<double>(x));
    return map([&](int i) {
      const float32x2_t first = vcvt_f32_f64(vdivq_f64(dividend, vld1q_f64(by + 4 * i)));
      return vcvt_high_f32_f64(first, vdivq_f64(dividend, vld1q_f64(by + 4 * i + 2)));
    });
  }
  GPT2FAST_INLINE void store(float* p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v[i]);
  }
  GPT2FAST_INLINE void store_partial(float* p, int64_t count) const {
    float lanes[kLanes];
    store(lanes);
    for (int64_t i = 0; i < kLanes && i < count; ++i) p[i] = lanes[i];
  }
  GPT2FAST_INLINE void store_half(uint16_t* p) const {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(v[i])));
  }
};

GPT2FAST_INLINE Vec<Neon> operator+(Vec<Neon> a, Vec<Neon> b) {
  return Vec<Neon>::map([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> operator-(Vec<Neon> a, Vec<Neon> b) {
  return Vec<Neon>::map([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> operator*(Vec<Neon> a, Vec<Neon> b) {
  return Vec<Neon>::map([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> operator/(Vec<Neon> a, Vec<Neon> b) {
  return Vec<Neon>::map([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> fma(Vec<Neon> a, Vec<Neon> b, Vec<Neon> c) {
  return Vec<Neon>::map([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
// The processor's own maximum would return a NaN from either side.
GPT2FAST_INLINE Vec<Neon> max(Vec<Neon> a, Vec<Neon> b) {
  return Vec<Neon>::map([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> min(Vec<Neon> a, Vec<Neon> b) {
  return Vec<Neon>::map([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> abs(Vec<Neon> a) {
  return Vec<Neon>::map([&](int i) { return vabsq_f32(a.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> sqrt(Vec<Neon> a) {
  return Vec<Neon>::map([&](int i) { return vsqrtq_f32(a.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> round_to_int(Vec<Neon> a) {
  return Vec<Neon>::map([&](int i) { return vrndnq_f32(a.v[i]); });
}
// A NaN n gives an arbitrary factor here, so x must be NaN then too.
GPT2FAST_INLINE Vec<Neon> scale_by_power_of_two(Vec<Neon> x, Vec<Neon> n) {
  const auto power = [](int32x4_t exponent) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(exponent, vdupq_n_s32(127)), 23));
  };
  return Vec<Neon>::map([&](int i) {
    const int32x4_t exponent = vcvtq_s32_f32(n.v[i]);
    const int32x4_t half = vshrq_n_s32(exponent, 1);
    return vmulq_f32(vmulq_f32(x.v[i], power(half)), power(vsubq_s32(exponent, half)));
  });
}
GPT2FAST_INLINE Vec<Neon> select_less(Vec<Neon> a, Vec<Neon> b, Vec<Neon> x, Vec<Neon> y) {
  return Vec<Neon>::map([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), x.v[i], y.v[i]); });
}
GPT2FAST_INLINE Vec<Neon> select_first(int64_t count, Vec<Neon> x, Vec<Neon> y) {
  const int32x4_t limit = vdupq_n_s32(static_cast<int32_t>(count < 0 ? 0 : count > kLanes ? kLanes : count));
  const int32_t first[4] = {0, 1, 2, 3};
  return Vec<Neon>::map([&](int i) {
    const int32x4_t lane = vaddq_s32(vld1q_s32(first), vdupq_n_s32(4 * i));
    return vbslq_f32(vcltq_s32(lane, limit), x.v[i], y.v[i]);
  });
}

GPT2FAST_INLINE float reduce_add(Vec<Neon> a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
GPT2FAST_INLINE float reduce_max(Vec<Neon> a) {
  const auto larger = [](float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); };
  float four[4];
  vst1q_f32(four, larger(larger(a.v[0], a.v[2]), larger(a.v[1], a.v[3])));
  const float even = four[0] > four[2] ? four[0] : four[2];
  const float odd = four[1] > four[3] ? four[1] : four[3];
  return even > odd ? even : odd;
}

GPT2FAST_INLINE void transpose(Vec<Neon> (&rows)[kLanes]) {
  float square[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i].store(square[i]);
  for (int i = 0; i < kLanes; ++i) {
    float column[kLanes];
    for (int j = 0; j < kLanes; ++j) column[j] = square[j][i];
    rows[i] = Vec<Neon>::load(column);
  }
}

}  // namespace gpt2fast
