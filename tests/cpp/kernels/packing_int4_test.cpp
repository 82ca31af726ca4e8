// The int4 search against a plain one, bit for bit, in every instruction set: weights that were packed once
// are packed the same for ever.
#include "kernels/packing_int4.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

namespace {

constexpr int64_t kRows = kInt4GroupRows;

float round_even(float value) { return (value + 12582912.0f) - 12582912.0f; }
float nearest_value(float x, float zero) { return std::clamp(round_even(x + zero), 0.0f, 15.0f); }

// One scale, one zero point, one weight at a time; sums in eight parts, in the order of the definition.
float plain_improvement(const float* x, float& zero) {
  float sums[8] = {}, squares[8] = {}, sum = 0, square = 0;
  for (int64_t k = 0; k < kRows; ++k) {
    const float shift = nearest_value(x[k], zero) - x[k];
    sums[k % 8] += shift;
    squares[k % 8] += shift * shift;
  }
  for (int part = 0; part < 8; ++part) {
    sum += sums[part];
    square += squares[part];
  }
  zero = std::clamp(round_even(sum / 32.0f * 16.0f), 0.0f, 255.0f) / 16.0f;
  return square - 2.0f * zero * sum + 32.0f * zero * zero;
}

int plain_code(double scale) {
  const double exponent = std::floor(std::log2(scale));
  const double mantissa = std::nearbyint((std::exp2(std::log2(scale) - exponent) - 1.0) * 16.0);
  return static_cast<int>(std::clamp((exponent + 11.0) * 16.0 + mantissa, 0.0, 255.0));
}

Int4Group plain_search(const float* w, float column_scale) {
  Int4Group group;
  const double low = std::min(0.0f, *std::min_element(w, w + kRows));
  const double high = std::max(0.0f, *std::max_element(w, w + kRows));
  const double step = (high - low) / 15.0;
  if (!(step > 0) || !(column_scale > 0)) return group;
  const int middle = plain_code(step / static_cast<double>(column_scale));
  float best_error = std::numeric_limits<float>::infinity(), best_zero = 0;
  for (int code = std::max(middle - 10, 0); code <= std::min(middle + 1, 255); ++code) {
    const double scale =
        static_cast<double>(column_scale) * static_cast<double>(int4_minifloat(static_cast<uint8_t>(code)));
    float x[kRows];
    for (int64_t k = 0; k < kRows; ++k) x[k] = static_cast<float>(static_cast<double>(w[k]) / scale);
    const float weight = static_cast<float>(scale / step * (scale / step));
    const float from_low = static_cast<float>(-low / scale),
                from_high = static_cast<float>(15.0 - high / scale);
    for (int start = 0; start < 3; ++start) {
      float zero = from_low + (from_high - from_low) * static_cast<float>(start) / 2;
      for (int iteration = 0; iteration < 3; ++iteration) {
        const float error = plain_improvement(x, zero) * weight;
        if (error >= best_error) continue;
        best_error = error;
        best_zero = zero;
        group.scale = static_cast<uint8_t>(code);
      }
    }
  }
  group.zero = static_cast<uint8_t>(best_zero * 16.0f);
  const double scale = static_cast<double>(column_scale) * static_cast<double>(int4_minifloat(group.scale));
  for (int64_t k = 0; k < kRows; ++k) {
    const float x = static_cast<float>(static_cast<double>(w[k]) / scale);
    group.values[k] = static_cast<uint8_t>(nearest_value(x, best_zero));
  }
  return group;
}

bool same_group(const Int4Group& a, const Int4Group& b) {
  return a.scale == b.scale && a.zero == b.zero && std::equal(a.values, a.values + kRows, b.values);
}

// With the scale of the group alone, and with those of columns whose widest group is wider: at the edges of
// the scales' range, and so much that the group's errors can't be compared any more.
int64_t count_different_groups(const std::vector<float>& w) {
  int64_t different = 0;
  for (size_t first = 0; first < w.size(); first += kRows) {
    const float own = int4_column_scale(&w[first], kRows);
    for (float wider : {1.0f, 1.3f, 37.0f, 1.9e4f, 7e4f, 3e9f, 1e18f, 1e20f, 3e22f, 1e25f, 1e30f}) {
      if (own * wider > std::numeric_limits<float>::max()) continue;
      const Int4Group expected = plain_search(&w[first], own * wider);
      for (Isa isa : available_isas()) {
        different += same_group(quantize_int4_group(&w[first], own * wider, kernels(isa)), expected) ? 0 : 1;
      }
    }
  }
  return different;
}

std::vector<float> made_of(const std::function<float(int)>& row) {
  std::vector<float> w;
  for (int k = 0; k < kRows; ++k) w.push_back(row(k));
  return w;
}

}  // namespace

TEST(random_groups_have_the_plain_searchs_bits) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    for (float deviation : {1e-42f, 0.02f, 1e35f}) {
      std::vector<float> w = random_normal(40 * kRows, deviation, seed);
      CHECK_EQ(count_different_groups(w), 0);
      for (size_t i = 0; i < w.size(); i += 19) w[i] *= 12.0f;  // outliers
      CHECK_EQ(count_different_groups(w), 0);
      for (float& value : w) value = std::abs(value);
      CHECK_EQ(count_different_groups(w), 0);
    }
  }
}

TEST(hard_groups_have_the_plain_searchs_bits) {
  const float tiny = std::numeric_limits<float>::denorm_min(), huge = std::numeric_limits<float>::max();
  const std::vector<std::function<float(int)>> rows = {
      [](int) { return 1.0f; },
      [](int) { return -0.3f; },
      [](int k) { return k == 7 ? 5.0f : 0.0f; },
      [](int k) { return k == 31 ? -5.0f : -0.0f; },
      [](int k) { return k % 2 == 0 ? 1.0f : -1.0f; },
      [](int k) { return static_cast<float>(k); },                 // ties between neighbouring values
      [](int k) { return static_cast<float>(k % 16) * 0.5f; },     // representable
      [](int k) { return static_cast<float>(k % 16) - 7.5f; },     // representable with a zero point
      [](int k) { return static_cast<float>(k % 31) / 30 * 15; },  // half steps
      [](int k) { return std::ldexp(k % 3 == 0 ? -1.0f : 1.0f, -k); },
      [](int k) { return std::ldexp(1.0f, -4 * k); },
      [](int k) { return std::nextafter(static_cast<float>(k % 16) + 0.5f, k % 2 == 0 ? 0.0f : 99.0f); },
      [&](int k) { return tiny * static_cast<float>(k); },
      [&](int k) { return k == 3 ? tiny : 0.0f; },
      [&](int k) { return k % 2 == 0 ? huge : -huge; },
      [&](int k) { return k == 0 ? huge : tiny; },
  };
  for (const auto& row : rows) CHECK_EQ(count_different_groups(made_of(row)), 0);
}

TEST(zeros_have_no_scale) {
  const std::vector<float> zeros(kRows, 0.0f), ones(kRows, 1.0f);
  for (Isa isa : available_isas()) {
    CHECK(same_group(quantize_int4_group(zeros.data(), 1.0f, kernels(isa)), Int4Group()));
    CHECK(same_group(quantize_int4_group(ones.data(), 0.0f, kernels(isa)), Int4Group()));
  }
}
