// Integer dot products for plain C++.
#pragma once

#include "kernels/simd.h"

namespace gpt2fast {

struct PortableOps {
  using Tag = Portable;
  struct Sums {
    int32_t v[kLanes];
  };
  struct Weights {
    const uint8_t* p;  // 4 consecutive rows of 16 columns: [16][4]
    int shift;         // moves a nibble to the high half of its byte
  };
  using Int8Weights = Weights;
  using Nibbles = Weights;  // times 16
  using NibbleSums = Sums;
  static constexpr int kTogether = 1;
  static constexpr int kInt8Rows = 2, kInt4Rows = 2;
  static constexpr int kFloatRows = 2, kFloatPanels = 1, kFloatSums = 2;
  static constexpr int kAttentionRows = 2, kAttentionSums = 2;

  // The larger of two values without a sign. NaN is above infinity, and infinity above all else.
  static Vec<Tag> max_magnitude(const Vec<Tag>& a, const Vec<Tag>& b) {
    return Vec<Tag>::map([&](int c) { return a.v[c] > b.v[c] || __builtin_isnan(a.v[c]) ? a.v[c] : b.v[c]; });
  }
  // Rounds 64 values, at most 127 in magnitude; returns the sums of every four.
  static Sums round_to_int8(const Vec<Tag> (&x)[4], int8_t* p) {
    for (int part = 0; part < 4; ++part) {
      const Vec<Tag> rounded = round_to_int(x[part]);
      for (int c = 0; c < kLanes; ++c) p[kLanes * part + c] = static_cast<int8_t>(rounded.v[c]);
    }
    return map([=](int c) { return p[4 * c] + p[4 * c + 1] + p[4 * c + 2] + p[4 * c + 3]; });
  }
  static Sums start_int8(int32_t correction) {
    return map([=](int) { return correction; });
  }
  static Weights load_int8(const uint8_t* p) { return {p, 0}; }
  static Sums dot_int8(const Sums& sums, Weights w, const int8_t* a) {
    return map([&](int c) {
      const uint8_t* u = w.p + 4 * c;
      return sums.v[c] + u[0] * a[0] + u[1] * a[1] + u[2] * a[2] + u[3] * a[3];
    });
  }

  struct Pairs {
    const int8_t* p;  // 2 consecutive positions of 16 columns: [16][2]
  };
  // Rounds and saturates; a NaN becomes anything.
  static void round_to_int16(Vec<Tag> x, int16_t* p) {
    x = round_to_int(x);
    for (int c = 0; c < kLanes; ++c) {
      const float value = x.v[c] > -32768.0f ? x.v[c] : -32768.0f;  // for a NaN too
      p[c] = static_cast<int16_t>(value < 32767.0f ? value : 32767.0f);
    }
  }
  static Pairs load_pairs(const int8_t* p) { return {p}; }
  static Sums dot_pairs(const Sums& sums, Pairs w, const int16_t* a) {
    return map([&](int c) { return sums.v[c] + w.p[2 * c] * a[0] + w.p[2 * c + 1] * a[1]; });
  }

  static Sums start_int4(const Sums& zero, int32_t correction) {
    const int32_t factor = static_cast<int16_t>(correction);
    return map([&](int c) { return zero.v[c] * factor; });
  }
  static void load_int4(const uint8_t* p, Weights w[2]) {
    w[0] = {p, 4};
    w[1] = {p, 0};
  }
  static Sums dot_int4(const Sums& sums, Weights w, const int8_t* a) {
    const auto value = [&](int i) { return w.p[i] << w.shift & 0xf0; };
    return map([&](int c) {
      const int i = 4 * c;
      return sums.v[c] + value(i) * a[0] + value(i + 1) * a[1] + value(i + 2) * a[2] + value(i + 3) * a[3];
    });
  }
  static Sums finish_int4(const Sums& sums, const Sums&, int32_t) { return sums; }

  static Sums load_bytes(const uint8_t* p) {
    return map([=](int c) { return p[c]; });
  }
  static Vec<Tag> scales_over_16(const uint8_t* p) {
    constexpr uint32_t kBias = 127 - 11 - 4;
    return Vec<Tag>::map([=](int c) {
      return portable::float_from_bits((static_cast<uint32_t>(p[c]) << 19) + (kBias << 23));
    });
  }
  static Vec<Tag> to_float(const Sums& sums) {
    return Vec<Tag>::map([&](int c) { return static_cast<float>(sums.v[c]); });
  }

 private:
  template <typename Function>
  static Sums map(Function function) {
    Sums result;
    for (int c = 0; c < kLanes; ++c) result.v[c] = function(c);
    return result;
  }
};

}  // namespace gpt2fast
