// Every vector operation against scalar arithmetic, in every instruction set that this processor runs.
#include "kernels/simd.h"

#include <bit>
#include <functional>
#include <limits>
#include <numeric>

#include "support/kernel_testing.h"
#include "support/testing.h"
#include "support/vector_functions.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Zeros, subnormals, halves, limits, non-finite values and some random ones; a multiple of 16.
std::vector<float> interesting_values() {
  std::vector<float> values = {
      0.0f,    0x1p-149f, 0x1.fffffcp-127f, 0x1p-126f, 1e-20f,     0.25f,     0.5f,       1.0f,
      1.5f,    2.5f,      3.49999976f,      1e10f,     8388607.5f, 8388608.f, 16777217.f, 1e20f,
      65504.f, 65520.f,   0x1.fffffep127f,  kInfinity, 0x1.8p-25f, 1e-7f,     3.14159f,   0.1f};
  for (float value : random_normal(8, 10.0f, 1)) values.push_back(std::abs(value));
  const size_t count = values.size();
  for (size_t i = 0; i < count; ++i) values.push_back(-values[i]);
  values[0] = kNan;  // one zero, the negative, and a NaN
  values[20] = 0.0f;
  return values;
}

void for_each_set(const std::function<void(const VectorFunctions&)>& check) {
  int sets = 0;
  for (Isa isa : available_isas()) {
    if (const VectorFunctions* functions = vector_functions(isa)) {
      check(*functions);
      ++sets;
    }
  }
  CHECK(sets > 0);
}

int64_t wrong_unary(VectorFunctions::Unary function, float (*scalar)(float)) {
  const std::vector<float> values = interesting_values();
  int64_t wrong = 0;
  for (size_t i = 0; i < values.size(); i += 16) {
    float y[16];
    function(&values[i], y);
    for (size_t j = 0; j < 16; ++j) wrong += !same_float(y[j], scalar(values[i + j]));
  }
  return wrong;
}

// On all pairs of interesting values.
int64_t wrong_binary(VectorFunctions::Binary function, float (*scalar)(float, float)) {
  const std::vector<float> values = interesting_values();
  int64_t wrong = 0;
  for (float a : values) {
    const std::vector<float> repeated(16, a);
    for (size_t i = 0; i < values.size(); i += 16) {
      float y[16];
      function(repeated.data(), &values[i], y);
      for (size_t j = 0; j < 16; ++j) wrong += !same_float(y[j], scalar(a, values[i + j]));
    }
  }
  return wrong;
}

// On all triples.
int64_t wrong_ternary(VectorFunctions::Ternary function, float (*scalar)(float, float, float)) {
  const std::vector<float> values = interesting_values();
  int64_t wrong = 0;
  for (float a : values) {
    const std::vector<float> first(16, a);
    for (float b : values) {
      const std::vector<float> second(16, b);
      for (size_t i = 0; i < values.size(); i += 16) {
        float y[16];
        function(first.data(), second.data(), &values[i], y);
        for (size_t j = 0; j < 16; ++j) wrong += !same_float(y[j], scalar(a, b, values[i + j]));
      }
    }
  }
  return wrong;
}

double half_value(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  if (exponent == 31) value = mantissa == 0 ? static_cast<double>(kInfinity) : static_cast<double>(kNan);
  return (half & 0x8000) != 0 ? -value : value;
}

uint16_t to_half(const VectorFunctions& f, float x) {
  const std::vector<float> repeated(16, x);
  uint16_t halves[16];
  f.store_half(repeated.data(), halves);
  for (uint16_t half : halves) CHECK_EQ(half, halves[0]);
  return halves[0];
}

}  // namespace

TEST(arithmetic_matches_scalars) {
  for_each_set([](const VectorFunctions& f) {
    CHECK_EQ(wrong_unary(f.abs, [](float x) { return std::abs(x); }), 0);
    CHECK_EQ(wrong_unary(f.sqrt, [](float x) { return std::sqrt(x); }), 0);
    CHECK_EQ(wrong_unary(f.round_to_int, [](float x) { return std::nearbyint(x); }), 0);
    CHECK_EQ(wrong_binary(f.add, [](float a, float b) { return a + b; }), 0);
    CHECK_EQ(wrong_binary(f.subtract, [](float a, float b) { return a - b; }), 0);
    CHECK_EQ(wrong_binary(f.multiply, [](float a, float b) { return a * b; }), 0);
    CHECK_EQ(wrong_binary(f.divide, [](float a, float b) { return a / b; }), 0);
    CHECK_EQ(wrong_binary(f.max, [](float a, float b) { return a > b ? a : b; }), 0);
    CHECK_EQ(wrong_binary(f.min, [](float a, float b) { return a < b ? a : b; }), 0);
    CHECK_EQ(wrong_ternary(f.fma, [](float a, float b, float c) { return std::fma(a, b, c); }), 0);
    CHECK_EQ(wrong_ternary(f.choose_less, [](float a, float b, float c) { return a < b ? a : c; }), 0);
  });
}

// A third has more than a float's digits: the divisor is not rounded before, and the quotient not only once.
TEST(quotients_are_divided_in_double) {
  for_each_set([](const VectorFunctions& f) {
    int64_t wrong = 0;
    for (float x : interesting_values()) {
      double by[16];
      for (int i = 0; i < 16; ++i) by[i] = std::ldexp(1.0 / 3.0 + i, 20 * (i - 8));
      float y[16];
      f.quotients(x, by, y);
      for (int i = 0; i < 16; ++i)
        wrong += !same_float(y[i], static_cast<float>(static_cast<double>(x) / by[i]));
    }
    CHECK_EQ(wrong, 0);
  });
}

TEST(scaling_by_a_power_of_two_rounds_once) {
  for_each_set([](const VectorFunctions& f) {
    int64_t wrong = 0;
    for (int n = -160; n <= 140; ++n) {
      const std::vector<float> x = {0.5f, 0.75f, 1.0f, 1.1f, 1.3333334f, 1.9999999f, 2.0f,  -1.7f,
                                    0.7f, 0.9f,  1.2f, 1.6f, 1.0000001f, 1.5f,       1.25f, -0.6f};
      const std::vector<float> exponents(16, static_cast<float>(n));
      float y[16];
      f.scale_by_power_of_two(x.data(), exponents.data(), y);
      for (size_t i = 0; i < 16; ++i) wrong += !same_float(y[i], std::ldexp(x[i], n));
    }
    CHECK_EQ(wrong, 0);
  });
}

TEST(half_to_float_for_all_halves) {
  for_each_set([](const VectorFunctions& f) {
    int64_t wrong = 0;
    for (uint32_t first = 0; first < 65536; first += 16) {
      uint16_t halves[16];
      std::iota(halves, halves + 16, static_cast<uint16_t>(first));
      float y[16];
      f.load_half(halves, y);
      for (int i = 0; i < 16; ++i) wrong += !same_float(y[i], static_cast<float>(half_value(halves[i])));
    }
    CHECK_EQ(wrong, 0);
  });
}

TEST(float_to_half_rounds_to_nearest_even) {
  for_each_set([](const VectorFunctions& f) {
    int64_t wrong = 0;
    for (uint16_t half = 0; half < 0x7bff; ++half) {
      const uint16_t next = static_cast<uint16_t>(half + 1);
      const float middle = static_cast<float>((half_value(half) + half_value(next)) / 2);
      wrong += to_half(f, static_cast<float>(half_value(half))) != half;
      wrong += to_half(f, middle) != (half % 2 == 0 ? half : next);
      wrong += to_half(f, std::nextafter(middle, 0.0f)) != half;
      wrong += to_half(f, std::nextafter(middle, kInfinity)) != next;
      wrong += to_half(f, -middle) != (0x8000 | (half % 2 == 0 ? half : next));
    }
    CHECK_EQ(wrong, 0);
    CHECK_EQ(to_half(f, 65504.0f), 0x7bff);
    CHECK_EQ(to_half(f, 65519.996f), 0x7bff);
    CHECK_EQ(to_half(f, 65520.0f), 0x7c00);
    CHECK_EQ(to_half(f, -kInfinity), 0xfc00);
    CHECK_EQ(to_half(f, 0x1p-149f), 0);
    CHECK_EQ(to_half(f, -0.0f), 0x8000);
    CHECK_EQ(to_half(f, std::bit_cast<float>(0x7fc00000u)), 0x7e00);
    CHECK_EQ(to_half(f, std::bit_cast<float>(0xff802000u)), 0xfe01);
    CHECK_EQ(to_half(f, std::bit_cast<float>(0x7f800001u)), 0x7e00);
  });
}

TEST(bf16_is_the_upper_half) {
  for_each_set([](const VectorFunctions& f) {
    const uint16_t x[16] = {0,      1,      0x8000, 0x3f80, 0x7f80, 0xff80, 0x4049, 0x0080,
                            0x8001, 0x7f7f, 2,      3,      4,      5,      6,      7};
    float y[16];
    f.load_bf16(x, y);
    for (int i = 0; i < 16; ++i) CHECK_EQ(std::bit_cast<uint32_t>(y[i]), static_cast<uint32_t>(x[i]) << 16);
  });
}

TEST(partial_moves_touch_only_their_lanes) {
  const std::vector<float> values = random_normal(16, 1.0f, 2);
  for_each_set([&](const VectorFunctions& f) {
    for (int64_t count = -3; count <= 20; ++count) {
      const size_t moved = static_cast<size_t>(std::clamp<int64_t>(count, 0, 16));
      const std::vector<float> exact(values.begin(), values.begin() + static_cast<int64_t>(moved));
      float loaded[16], stored[16], selected[16];
      f.load_partial(moved == 0 ? values.data() : exact.data(), count, loaded);  // never null
      std::fill_n(stored, 16, 7.0f);
      f.store_partial(values.data(), count, stored);
      f.select_first(count, values.data(), std::vector<float>(16, kNan).data(), selected);
      for (size_t i = 0; i < 16; ++i) {
        CHECK(same_float(loaded[i], i < moved ? values[i] : 0.0f));
        CHECK(same_float(stored[i], i < moved ? values[i] : 7.0f));
        CHECK(same_float(selected[i], i < moved ? values[i] : kNan));
      }
    }
  });
}

TEST(transposition) {
  for_each_set([](const VectorFunctions& f) {
    float square[256];
    std::iota(square, square + 256, 0.0f);
    f.transpose(square);
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) CHECK_EQ(square[i * 16 + j], static_cast<float>(j * 16 + i));
    }
  });
}

TEST(reductions_halve_the_vector) {
  for_each_set([](const VectorFunctions& f) {
    for (uint32_t seed = 0; seed < 50; ++seed) {
      const std::vector<float> x = random_normal(16, 1.0f, seed);
      std::vector<float> sum = x, largest = x;
      for (size_t width = 8; width > 0; width /= 2) {
        for (size_t i = 0; i < width; ++i) {
          sum[i] += sum[i + width];
          largest[i] = std::max(largest[i], largest[i + width]);
        }
      }
      CHECK_EQ(f.reduce_add(x.data()), sum[0]);
      CHECK_EQ(f.reduce_max(x.data()), largest[0]);
    }
  });
}
