// The search for int4 scales and zero points. For every representable scale near the one that spans the
// group's range, it alternates between the best values for a zero point and the best zero point for those
// values.
#include "kernels/packing_int4.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/kernel_table.h"
#include "kernels/packing_int4_kernel.h"

namespace gpt2fast {
namespace {

constexpr int kCodesBelow = 10;  // down to 0.65 of the spanning scale: clipping more than that never pays
constexpr int kCodesAbove = 1;
static_assert(kCodesBelow + 1 + kCodesAbove <= kLanes);

struct WeightRange {
  double low = 0;
  double high = 0;

  // The scale that spans the range without clipping.
  double step() const { return (high - low) / double{kInt4MaxValue}; }
};

// The weights' range, widened to hold zero, which every zero point can then represent exactly or nearly.
WeightRange range_of(const float* w) {
  constexpr int64_t kParts = 8;  // independent, so that none waits for the one before
  float low[kParts] = {}, high[kParts] = {};
  for (int64_t k = 0; k < kInt4GroupRows; k += kParts) {
    for (int64_t part = 0; part < kParts; ++part) {
      low[part] = std::min(low[part], w[k + part]);
      high[part] = std::max(high[part], w[k + part]);
    }
  }
  return {*std::min_element(low, low + kParts), *std::max_element(high, high + kParts)};
}

int nearest_code(double scale) {
  const double logarithm = std::log2(scale);
  const double exponent = std::floor(logarithm);
  const double mantissa = std::nearbyint((std::exp2(logarithm - exponent) - 1.0) * 16.0);
  const double code = (exponent + 11.0) * 16.0 + mantissa;
  return static_cast<int>(std::clamp(code, 0.0, 255.0));
}

constexpr std::array<float, 256> minifloats() {
  std::array<float, 256> values{};
  for (size_t code = 0; code < values.size(); ++code) {
    values[code] = (1.0f + static_cast<float>(code % 16) / 16.0f) *
                   (static_cast<float>(1 << code / 16) / static_cast<float>(1 << 11));
  }
  return values;
}

}  // namespace

float int4_minifloat(uint8_t code) {
  static constexpr std::array<float, 256> kValues = minifloats();
  return kValues[code];
}

float int4_column_scale(const float* column, int64_t count) {
  double widest = 0;
  for (int64_t k = 0; k < count; k += kInt4GroupRows) widest = std::max(widest, range_of(column + k).step());
  return static_cast<float>(widest / static_cast<double>(int4_minifloat(0xf0)));
}

Int4Group quantize_int4_group(const float* w, float column_scale, const KernelTable& table) {
  Int4Group group;
  const WeightRange range = range_of(w);
  const double step = range.step();
  if (!(step > 0) || !(column_scale > 0)) return group;  // zeros, or too small for a float's scale

  const int middle = nearest_code(step / static_cast<double>(column_scale));
  const int first = std::max(middle - kCodesBelow, 0), last = std::min(middle + kCodesAbove, 255);
  Int4Trials trials;
  trials.count = last - first + 1;
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto code = static_cast<uint8_t>(std::min(first + lane, last));
    const double scale = static_cast<double>(column_scale) * static_cast<double>(int4_minifloat(code));
    const double relative = scale / step;
    trials.scale[lane] = scale;
    trials.from_low[lane] = static_cast<float>(-range.low / scale);
    trials.from_high[lane] = static_cast<float>(double{kInt4MaxValue} - range.high / scale);
    trials.weight[lane] = static_cast<float>(relative * relative);
  }
  if (std::isinf(trials.weight[trials.count - 1])) {
    // The group is too small beside its column for errors to be compared: all zeros, as 15 - 240 / 16.
    group.scale = static_cast<uint8_t>(last);
    group.zero = static_cast<uint8_t>(kInt4MaxValue * kInt4ZeroSteps);
    std::fill_n(group.values, kInt4GroupRows, static_cast<uint8_t>(kInt4MaxValue));
    return group;
  }
  table.try_int4_scales(w, trials);

  int best = 0;
  for (int lane = 1; lane < trials.count; ++lane) {
    if (trials.error[lane] < trials.error[best]) best = lane;
  }
  group.scale = static_cast<uint8_t>(first + best);
  group.zero = static_cast<uint8_t>(trials.zero[best] * kInt4ZeroSteps);
  const auto zero = Vec<Scalar>::set1(trials.zero[best]);
  for (int64_t k = 0; k < kInt4GroupRows; ++k) {
    group.values[k] = static_cast<uint8_t>(nearest_int4_value({trials.x[k][best]}, zero).v[0]);
  }
  return group;
}

double int4_weight(uint8_t value, float column_scale, const Int4Group& group) {
  const double scale = static_cast<double>(column_scale) * static_cast<double>(int4_minifloat(group.scale));
  return scale * (value - group.zero / static_cast<double>(kInt4ZeroSteps));
}

uint8_t int4_value(double w, float column_scale, const Int4Group& group) {
  const double scale = static_cast<double>(column_scale) * static_cast<double>(int4_minifloat(group.scale));
  if (!(scale > 0)) return 0;
  const double steps = std::nearbyint(w / scale + group.zero / static_cast<double>(kInt4ZeroSteps));
  return static_cast<uint8_t>(std::clamp(steps, 0.0, double{kInt4MaxValue}));
}

}  // namespace gpt2fast
