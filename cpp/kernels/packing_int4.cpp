// The search for int4 scales and zero points: for every representable scale near the one that spans the
// group's range, alternate between the best values for a zero point and the best zero point for those values.
#include "kernels/packing_int4.h"

#include <algorithm>
#include <cmath>

namespace gpt2fast {
namespace {

constexpr float kMaxValue = 15.0f;
constexpr float kZeroSteps = 16.0f;
constexpr int kCodesBelow = 10;  // down to 0.65 of the spanning scale: clipping more than that never pays
constexpr int kCodesAbove = 1;
constexpr int kStarts = 3;
constexpr int kIterations = 3;

struct Range {
  double low = 0;
  double high = 0;

  double step() const {
    return (high - low) / kMaxValue;
  }  // of the scale that spans the range without clipping
};

// The range is widened to hold zero, which every zero point can then represent exactly or nearly.
Range range_of(const float* w) {
  Range range;
  for (int64_t k = 0; k < kInt4GroupRows; ++k) {
    range.low = std::min(range.low, static_cast<double>(w[k]));
    range.high = std::max(range.high, static_cast<double>(w[k]));
  }
  return range;
}

float round_even(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no fraction bits; |value| < 2^22
  return (value + kMagic) - kMagic;
}

float nearest_value(float x, float zero) { return std::min(std::max(round_even(x + zero), 0.0f), kMaxValue); }

struct ZeroPoint {
  float code = 0;   // 16 times the zero point, an integer in [0, 255]
  float error = 0;  // squared, in steps, of the values that were nearest for the zero point before
};

// The best zero point for the values that are nearest to x [kInt4GroupRows] with zero point `zero`.
ZeroPoint improve_zero(const float* x, float zero) {
  constexpr int kLanes = 8;  // independent sums, so that compilers may vectorise them
  float sums[kLanes] = {};
  float squares[kLanes] = {};
  for (int64_t k = 0; k < kInt4GroupRows; k += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float shift = nearest_value(x[k + lane], zero) - x[k + lane];
      sums[lane] += shift;
      squares[lane] += shift * shift;
    }
  }
  float sum = 0, square = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
    square += squares[lane];
  }
  ZeroPoint best;
  best.code = std::clamp(round_even(sum / kInt4GroupRows * kZeroSteps), 0.0f, 255.0f);
  const float z = best.code / kZeroSteps;
  best.error = square - 2.0f * z * sum + static_cast<float>(kInt4GroupRows) * z * z;
  return best;
}

int nearest_code(double scale) {
  const double exponent = std::floor(std::log2(scale));
  const double mantissa = std::nearbyint((std::exp2(std::log2(scale) - exponent) - 1.0) * 16.0);
  const double code = (exponent + 11.0) * 16.0 + mantissa;
  return static_cast<int>(std::clamp(code, 0.0, 255.0));
}

}  // namespace

float int4_minifloat(uint8_t code) {
  return std::ldexp(1.0f + static_cast<float>(code % 16) / 16.0f, code / 16 - 11);
}

float int4_column_scale(const float* column, int64_t count) {
  double widest = 0;
  for (int64_t k = 0; k < count; k += kInt4GroupRows) widest = std::max(widest, range_of(column + k).step());
  return static_cast<float>(widest / int4_minifloat(0xf0));
}

Int4Group quantize_int4_group(const float* w, float column_scale) {
  Int4Group group;
  const Range range = range_of(w);
  const double step = range.step();
  if (!(step > 0) || !(column_scale > 0)) return group;  // zeros, or too small for a float's scale

  const int middle = nearest_code(step / static_cast<double>(column_scale));
  float best_error = INFINITY;
  float best_zero = 0;
  for (int code = std::max(middle - kCodesBelow, 0); code <= std::min(middle + kCodesAbove, 255); ++code) {
    const double scale = static_cast<double>(column_scale) * int4_minifloat(static_cast<uint8_t>(code));
    float x[kInt4GroupRows];
    for (int64_t k = 0; k < kInt4GroupRows; ++k) x[k] = static_cast<float>(w[k] / scale);
    const float weight = static_cast<float>(scale / step * (scale / step));
    const float from_low =
        static_cast<float>(-range.low / scale);  // the zero point that maps the lowest weight to 0
    const float from_high = static_cast<float>(kMaxValue - range.high / scale);  // ... the highest to 15
    for (int start = 0; start < kStarts; ++start) {
      float zero = from_low + (from_high - from_low) * static_cast<float>(start) / (kStarts - 1);
      for (int iteration = 0; iteration < kIterations; ++iteration) {
        const ZeroPoint improved = improve_zero(x, zero);
        zero = improved.code / kZeroSteps;
        if (improved.error * weight >= best_error) continue;
        best_error = improved.error * weight;
        best_zero = improved.code;
        group.scale = static_cast<uint8_t>(code);
      }
    }
  }
  group.zero = static_cast<uint8_t>(best_zero);
  const double scale = static_cast<double>(column_scale) * int4_minifloat(group.scale);
  for (int64_t k = 0; k < kInt4GroupRows; ++k) {
    group.values[k] =
        static_cast<uint8_t>(nearest_value(static_cast<float>(w[k] / scale), best_zero / kZeroSteps));
  }
  return group;
}

}  // namespace gpt2fast
