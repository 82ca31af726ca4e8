// exp and the activations against double precision, and their bits in every instruction set.
#include "kernels/math.h"

#include <bit>
#include <limits>

#include "support/kernel_testing.h"
#include "support/testing.h"
#include "support/vector_functions.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Member = VectorFunctions::Unary VectorFunctions::*;

float evaluate(Member member, float x) {
  const std::vector<float> repeated(16, x);
  float y[16];
  (vector_functions_portable().*member)(repeated.data(), y);
  return y[0];
}

// The largest error over an even grid, in whatever unit(x, exact value) returns.
template <typename Exact, typename Unit>
double largest_error(Member member, float low, float high, const Exact& exact, const Unit& unit) {
  constexpr int kSteps = 12500;
  double largest = 0;
  for (int step = 0; step < kSteps; ++step) {
    float x[16], y[16];
    for (int i = 0; i < 16; ++i)
      x[i] = low + (high - low) * static_cast<float>(step * 16 + i) / (kSteps * 16);
    (vector_functions_portable().*member)(x, y);
    for (int i = 0; i < 16; ++i) {
      const double expected = exact(static_cast<double>(x[i]));
      const double error = std::abs(y[i] - expected) / unit(static_cast<double>(x[i]), expected);
      largest = error <= largest ? largest : error;
    }
  }
  return largest;
}

double last_place(double, double exact) {
  const float magnitude = static_cast<float>(std::abs(exact));
  return static_cast<double>(std::nextafter(magnitude, kInfinity)) - static_cast<double>(magnitude);
}

double at_least_one(double x, double) { return std::max(1.0, std::abs(x)); }

double exact_gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

double exact_gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

}  // namespace

TEST(exp_is_within_its_bound) {
  const auto exact = [](double x) { return std::exp(x); };
  CHECK(largest_error(&VectorFunctions::exp, -87.336f, 88.7f, exact, last_place) <= 1.1);
  CHECK(largest_error(&VectorFunctions::exp, -1.0f, 1.0f, exact, last_place) <= 1.1);
}

TEST(exp_at_the_ends) {
  CHECK_EQ(evaluate(&VectorFunctions::exp, 0.0f), 1.0f);
  CHECK_EQ(evaluate(&VectorFunctions::exp, -0.0f), 1.0f);
  CHECK_EQ(evaluate(&VectorFunctions::exp, -kInfinity), 0.0f);
  CHECK_EQ(evaluate(&VectorFunctions::exp, -87.337f), 0.0f);  // would be denormal
  CHECK_EQ(evaluate(&VectorFunctions::exp, -100.0f), 0.0f);
  CHECK_EQ(evaluate(&VectorFunctions::exp, -1e30f), 0.0f);
  CHECK(std::isnormal(evaluate(&VectorFunctions::exp, -87.336f)));
  CHECK(std::isfinite(evaluate(&VectorFunctions::exp, 88.72283f)));
  CHECK_EQ(evaluate(&VectorFunctions::exp, 88.8f), kInfinity);
  CHECK_EQ(evaluate(&VectorFunctions::exp, kInfinity), kInfinity);
  CHECK(std::isnan(evaluate(&VectorFunctions::exp, kNan)));
}

TEST(exp2_is_within_its_bound) {
  const auto exact = [](double x) { return std::exp2(x); };
  CHECK(largest_error(&VectorFunctions::exp2_nonpositive, -126.0f, 0.0f, exact, last_place) <= 1.0);
  CHECK(largest_error(&VectorFunctions::exp2_nonpositive, -2.0f, 0.0f, exact, last_place) <= 1.0);
  CHECK_EQ(evaluate(&VectorFunctions::exp2_nonpositive, -126.0f), 0x1p-126f);
  CHECK_EQ(evaluate(&VectorFunctions::exp2_nonpositive, -126.0001f), 0.0f);  // would be denormal
  CHECK_EQ(evaluate(&VectorFunctions::exp2_nonpositive, 0.0f), 1.0f);
  CHECK_EQ(evaluate(&VectorFunctions::exp2_nonpositive, -3.0f), 0.125f);
  CHECK_EQ(evaluate(&VectorFunctions::exp2_nonpositive, -kInfinity), 0.0f);
  CHECK(std::isnan(evaluate(&VectorFunctions::exp2_nonpositive, kNan)));
}

TEST(gelus_are_within_their_bounds) {
  for (float range : {0.01f, 1.0f, 6.0f, 14.0f, 1000.0f}) {
    CHECK(largest_error(&VectorFunctions::gelu_tanh, -range, range, exact_gelu_tanh, at_least_one) <= 1e-6);
    CHECK(largest_error(&VectorFunctions::gelu_erf, -range, range, exact_gelu_erf, at_least_one) <= 1e-6);
  }
}

TEST(activations_at_the_ends) {
  for (Member gelu : {&VectorFunctions::gelu_tanh, &VectorFunctions::gelu_erf}) {
    CHECK_EQ(evaluate(gelu, 0.0f), 0.0f);
    CHECK_EQ(evaluate(gelu, kInfinity), kInfinity);
    CHECK_EQ(evaluate(gelu, 1e38f), 1e38f);
    CHECK_EQ(evaluate(gelu, -1e38f), 0.0f);
    CHECK(std::isnan(evaluate(gelu, -kInfinity)));
    CHECK(std::isnan(evaluate(gelu, kNan)));
  }
  CHECK_EQ(evaluate(&VectorFunctions::relu, -3.0f), 0.0f);
  CHECK_EQ(evaluate(&VectorFunctions::relu, 3.0f), 3.0f);
  CHECK(std::isnan(evaluate(&VectorFunctions::relu, kNan)));
}

TEST(same_bits_in_every_instruction_set) {
  const Member members[] = {&VectorFunctions::exp, &VectorFunctions::exp2_nonpositive,
                            &VectorFunctions::gelu_tanh, &VectorFunctions::gelu_erf, &VectorFunctions::relu};
  for (Isa isa : available_isas()) {
    const VectorFunctions* functions = vector_functions(isa);
    if (functions == nullptr) continue;
    for (Member member : members) {
      int64_t different = 0;
      for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 16 * 4099) {  // all signs and exponents
        float x[16], expected[16], y[16];
        for (uint32_t i = 0; i < 16; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) + i * 4099);
        if (member == &VectorFunctions::exp2_nonpositive) {
          for (float& value : x) value = -std::abs(value);
        }
        (vector_functions_portable().*member)(x, expected);
        (functions->*member)(x, y);
        for (int i = 0; i < 16; ++i) different += !same_float(expected[i], y[i]);
      }
      CHECK_EQ(different, 0);
    }
  }
}

TEST(one_lane_gives_the_same_bits) {
  for (float x : random_normal(1000, 4.0f, 3)) {
    const auto lane = [x](auto function) { return function(Vec<Scalar>::set1(x)).v[0]; };
    CHECK_EQ(lane([](auto v) { return exp(v); }), evaluate(&VectorFunctions::exp, x));
    CHECK_EQ(lane([](auto v) { return gelu_tanh(v); }), evaluate(&VectorFunctions::gelu_tanh, x));
    CHECK_EQ(lane([](auto v) { return gelu_erf(v); }), evaluate(&VectorFunctions::gelu_erf, x));
  }
}

TEST(several_vectors_together_give_the_same_bits) {
  const std::vector<float> x = random_normal(3 * kLanes, 4.0f, 5);
  const auto vecs =
      Vecs<Portable, 3>::apply([&](int i) { return Vec<Portable>::load(x.data() + i * kLanes); });
  const auto check = [&](Vecs<Portable, 3> together, Member member) {
    for (int i = 0; i < 3; ++i) {
      float alone[kLanes], y[kLanes];
      (vector_functions_portable().*member)(x.data() + i * kLanes, alone);
      together.parts[i].store(y);
      for (int lane = 0; lane < kLanes; ++lane) CHECK_EQ(y[lane], alone[lane]);
    }
  };
  check(exp(vecs), &VectorFunctions::exp);
  check(gelu_tanh(vecs), &VectorFunctions::gelu_tanh);
  check(gelu_erf(vecs), &VectorFunctions::gelu_erf);
  check(relu(vecs), &VectorFunctions::relu);
}
