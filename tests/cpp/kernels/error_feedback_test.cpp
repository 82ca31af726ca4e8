// The factors of moments, and that rounding by them costs less.
#include "kernels/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/packing.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/parallel.h"

using namespace gpt2fast;
using gpt2fast::testing::random_normal;

namespace {

constexpr int64_t kRows = kFeedbackRows;
constexpr size_t kSquare = kRows * kRows;

size_t at(int64_t row, int64_t column) { return static_cast<size_t>(row * kRows + column); }

// Inputs with a direction in common, the more so the larger `shared` is.
std::vector<float> moments_of_inputs(float shared) {
  constexpr int64_t kInputs = 600;
  const std::vector<float> own = random_normal(kInputs * kRows, 1.0f, 5);
  const std::vector<float> common = random_normal(kInputs, shared, 6);
  std::vector<float> moments(kSquare, 0.0f);
  for (int64_t input = 0; input < kInputs; ++input) {
    float x[kRows];
    for (int64_t k = 0; k < kRows; ++k) {
      x[k] = own[static_cast<size_t>(input * kRows + k)] + common[static_cast<size_t>(input)];
    }
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kRows; ++j) moments[at(i, j)] += x[i] * x[j];
    }
  }
  return moments;
}

std::vector<float> feedback_of(const std::vector<float>& moments) {
  std::vector<float> feedback(kSquare, 7.0f);
  error_feedback(moments.data(), feedback.data());
  return feedback;
}

double mean_of_diagonal(const std::vector<float>& moments) {
  double sum = 0;
  for (int64_t k = 0; k < kRows; ++k) sum += static_cast<double>(moments[at(k, k)]);
  return sum / kRows;
}

// The errors of rounding one column.
std::vector<float> rounding_errors(const std::vector<float>& w, const float* feedback) {
  std::vector<uint8_t> packed(packed_weight_bytes(WeightFormat::kInt4, kRows, 1));
  pack_columns(WeightFormat::kInt4, w.data(), 1, 1, kRows, 1, packed.data(), Serial(), feedback);
  std::vector<float> errors(kRows);
  unpack_column(WeightFormat::kInt4, packed.data(), kRows, 0, errors.data());
  for (size_t k = 0; k < errors.size(); ++k) errors[k] -= w[k];
  return errors;
}

double cost(const std::vector<float>& moments, const std::vector<float>& errors) {
  double sum = 0;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kRows; ++j) {
      sum += static_cast<double>(errors[static_cast<size_t>(i)]) * static_cast<double>(moments[at(i, j)]) *
             static_cast<double>(errors[static_cast<size_t>(j)]);
    }
  }
  return sum;
}

}  // namespace

TEST(factors_multiply_to_the_damped_moments) {
  const std::vector<float> moments = moments_of_inputs(1.0f);
  const std::vector<float> u = feedback_of(moments);
  std::vector<double> d(kRows);
  double largest = 0;
  for (int64_t j = kRows - 1; j >= 0; --j) {
    const auto of_later_rows = [&](int64_t i) {
      double sum = 0;
      for (int64_t k = j + 1; k < kRows; ++k) {
        sum +=
            static_cast<double>(u[at(i, k)]) * d[static_cast<size_t>(k)] * static_cast<double>(u[at(j, k)]);
      }
      return sum;
    };
    const double damped = static_cast<double>(moments[at(j, j)]) + 0.01 * mean_of_diagonal(moments);
    const double own = d[static_cast<size_t>(j)] = damped - of_later_rows(j);
    CHECK(own > 0);
    for (int64_t i = 0; i < j; ++i) {
      const double product = of_later_rows(i) + static_cast<double>(u[at(i, j)]) * own;
      largest = std::max(largest, std::abs(product - static_cast<double>(moments[at(i, j)])));
    }
    for (int64_t i = j; i < kRows; ++i) CHECK_EQ(u[at(i, j)], 0.0f);
  }
  CHECK(largest < 1e-4 * mean_of_diagonal(moments));
}

TEST(rounding_with_feedback_costs_less) {
  const std::vector<float> moments = moments_of_inputs(1.0f);
  const std::vector<float> feedback = feedback_of(moments);
  double with = 0, without = 0;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    const std::vector<float> w = random_normal(kRows, 0.02f, seed);
    with += cost(moments, rounding_errors(w, feedback.data()));
    without += cost(moments, rounding_errors(w, nullptr));
  }
  CHECK(with < 0.8 * without);
}

TEST(inputs_without_anything_in_common_change_nothing) {
  std::vector<float> moments(kSquare, 0.0f);
  for (int64_t k = 0; k < kRows; ++k) moments[at(k, k)] = static_cast<float>(k % 5);  // some are always zero
  const std::vector<float> feedback = feedback_of(moments);
  CHECK(feedback == std::vector<float>(kSquare, 0.0f));
  const std::vector<float> w = random_normal(kRows, 0.02f, 1);
  CHECK(rounding_errors(w, feedback.data()) == rounding_errors(w, nullptr));
}

TEST(moments_that_say_nothing_give_no_feedback) {
  const std::vector<float> zeros(kSquare, 0.0f);
  CHECK(feedback_of(zeros) == zeros);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> moments = moments_of_inputs(1.0f);
    moments[at(3, 3)] = bad;
    CHECK(feedback_of(moments) == zeros);
  }
}

TEST(the_largest_weights_can_be_packed_with_feedback) {
  const std::vector<float> moments = moments_of_inputs(3.0f);
  const std::vector<float> feedback = feedback_of(moments);
  constexpr float kHuge = std::numeric_limits<float>::max();
  std::vector<float> w(kRows);
  for (int64_t k = 0; k < kRows; ++k) w[static_cast<size_t>(k)] = k % 3 == 0 ? kHuge : -kHuge / 2;
  for (const float error : rounding_errors(w, feedback.data())) CHECK(!std::isnan(error));
}
