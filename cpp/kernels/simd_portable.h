// Vec in plain C++: the reference for every other instruction set, and a one-lane version for scalar code.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define GPT2FAST_INLINE inline __attribute__((always_inline))

// Unrolls a loop over a register tile completely, so that the tile's arrays become registers.
#define GPT2FAST_UNROLL _Pragma("GCC unroll 32")

namespace gpt2fast {

template <typename Tag>
struct Vec;

template <int lanes>
struct PortableLanes {};
using Portable = PortableLanes<16>;
using Scalar = PortableLanes<1>;

inline constexpr int kLanes = 16;

namespace portable {

GPT2FAST_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

GPT2FAST_INLINE float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

GPT2FAST_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude > 0x7c00u) return float_from_bits(sign | 0x7fc00000u | (magnitude << 13));
  if (magnitude == 0x7c00u) return float_from_bits(sign | 0x7f800000u);
  if (magnitude >= 0x0400u) return float_from_bits(sign | ((magnitude << 13) + 0x38000000u));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal: exact
  return float_from_bits(sign | float_bits(value));
}

GPT2FAST_INLINE uint16_t float_to_half(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or beyond
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {
    const uint32_t odd = (magnitude >> 13) & 1u;
    half = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  } else {
    // Adding 0.5 leaves multiples of 2^-24, the subnormal spacing, in the mantissa, rounded as the sum is.
    half = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  }
  return static_cast<uint16_t>(sign | half);
}

GPT2FAST_INLINE float round_to_int(float x) {
  constexpr float kTwo23 = 8388608.0f;  // floats from here on are integers
  const float magnitude = fabsf(x);
  if (!(magnitude < kTwo23)) return x;
  return copysignf((magnitude + kTwo23) - kTwo23, x);
}

// 2^n for an integral n in [-126, 127].
GPT2FAST_INLINE float power_of_two(int32_t n) {
  return float_from_bits(static_cast<uint32_t>(n + 127) << 23);
}

GPT2FAST_INLINE float scale_by_power_of_two(float x, float n) {
  if (!(n >= -252.0f && n <= 252.0f)) return x * n;  // only for a NaN n
  const int32_t exponent = static_cast<int32_t>(n);
  const int32_t half = exponent >> 1;
  return (x * power_of_two(half)) * power_of_two(exponent - half);
}

}  // namespace portable

template <int lanes>
struct Vec<PortableLanes<lanes>> {
  float v[lanes];

  static GPT2FAST_INLINE Vec set1(float x) {
    return map([x](int) { return x; });
  }
  static GPT2FAST_INLINE Vec zero() { return set1(0.0f); }
  static GPT2FAST_INLINE Vec load(const float* p) {
    return map([p](int i) { return p[i]; });
  }
  // The first `count` floats, then zeros; any count.
  static GPT2FAST_INLINE Vec load_partial(const float* p, int64_t count) {
    return map([p, count](int i) { return i < count ? p[i] : 0.0f; });
  }
  static GPT2FAST_INLINE Vec load_half(const uint16_t* p) {
    return map([p](int i) { return portable::half_to_float(p[i]); });
  }
  static GPT2FAST_INLINE Vec load_bf16(const uint16_t* p) {
    return map([p](int i) { return portable::float_from_bits(static_cast<uint32_t>(p[i]) << 16); });
  }
  // x / by[i], divided in double and then rounded to float.
  static GPT2FAST_INLINE Vec quotients(float x, const double* by) {
    return map([x, by](int i) { return static_cast<float>(static_cast<double>(x) / by[i]); });
  }
  GPT2FAST_INLINE void store(float* p) const {
    for (int i = 0; i < lanes; ++i) p[i] = v[i];
  }
  GPT2FAST_INLINE void store_partial(float* p, int64_t count) const {
    for (int i = 0; i < lanes && i < count; ++i) p[i] = v[i];
  }
  GPT2FAST_INLINE void store_half(uint16_t* p) const {
    for (int i = 0; i < lanes; ++i) p[i] = portable::float_to_half(v[i]);
  }

  template <typename Function>
  static GPT2FAST_INLINE Vec map(Function function) {
    Vec result;
    for (int i = 0; i < lanes; ++i) result.v[i] = function(i);
    return result;
  }

  friend GPT2FAST_INLINE Vec operator+(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend GPT2FAST_INLINE Vec operator-(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend GPT2FAST_INLINE Vec operator*(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend GPT2FAST_INLINE Vec operator/(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  friend GPT2FAST_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return map([&](int i) { return fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  friend GPT2FAST_INLINE Vec max(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend GPT2FAST_INLINE Vec min(Vec a, Vec b) {
    return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend GPT2FAST_INLINE Vec abs(Vec a) {
    return map([&](int i) { return fabsf(a.v[i]); });
  }
  friend GPT2FAST_INLINE Vec sqrt(Vec a) {
    return map([&](int i) { return sqrtf(a.v[i]); });
  }
  // Rounds to the nearest integer, ties to even.
  friend GPT2FAST_INLINE Vec round_to_int(Vec a) {
    return map([&](int i) { return portable::round_to_int(a.v[i]); });
  }
  // x * 2^n, rounded once when x is in [0.5, 2]; n integral in [-252, 252] or NaN.
  friend GPT2FAST_INLINE Vec scale_by_power_of_two(Vec x, Vec n) {
    return map([&](int i) { return portable::scale_by_power_of_two(x.v[i], n.v[i]); });
  }
  // a < b ? x : y, lane by lane.
  friend GPT2FAST_INLINE Vec select_less(Vec a, Vec b, Vec x, Vec y) {
    return map([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
  }
  // Takes lanes below `count` from x, the others from y; any count.
  friend GPT2FAST_INLINE Vec select_first(int64_t count, Vec x, Vec y) {
    return map([&](int i) { return i < count ? x.v[i] : y.v[i]; });
  }

  friend GPT2FAST_INLINE float reduce_add(Vec a) {
    for (int width = lanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + a.v[i + width];
    }
    return a.v[0];
  }
  friend GPT2FAST_INLINE float reduce_max(Vec a) {
    for (int width = lanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
    }
    return a.v[0];
  }
};

// Transposes a square of 16 rows.
GPT2FAST_INLINE void transpose(Vec<Portable> (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float swapped = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = swapped;
    }
  }
}

}  // namespace gpt2fast
