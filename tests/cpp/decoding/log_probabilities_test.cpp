// Log-probabilities: known values, extremes, and the most probable tokens against a sort.
#include "decoding/log_probabilities.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::random_normal;

namespace {

using Floats = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST(log_sum_exp_of_known_values) {
  CHECK_EQ(log_sum_exp(Floats{0}), 0.0);
  CHECK_NEAR(log_sum_exp(Floats{0, 0, 0, 0}), std::log(4.0), 1e-15);
  CHECK_NEAR(log_sum_exp(Floats{1000, 1000}), 1000 + std::log(2.0), 1e-12);
  CHECK_NEAR(log_sum_exp(Floats(50257, -3.0f)), std::log(50257.0) - 3, 1e-12);
  CHECK_THROWS(log_sum_exp(Floats{0, kNan}), std::runtime_error);
  CHECK_THROWS(log_sum_exp(Floats{-kInfinity}), std::runtime_error);
}

TEST(top_logprobs_are_sorted_with_the_lower_id_first) {
  TopLogprobs top(6, 3);
  const auto best = top.find(Floats{1, 4, 2, 4, 0, 2});
  CHECK_EQ(best.size(), size_t{3});
  CHECK(best[0].token == 1 && best[1].token == 3 && best[2].token == 2);
  CHECK(best[0].logprob == best[1].logprob && best[1].logprob > best[2].logprob);
  CHECK_EQ(TopLogprobs(3, 10).find(Floats{1, 3, 2}).size(), size_t{3});
  const Floats large = random_normal(50257, 2, 4);
  TopLogprobs twenty(50257, 20);
  const auto found = twenty.find(large);
  Floats expected = large;
  std::sort(expected.rbegin(), expected.rend());
  const double normalizer = log_sum_exp(large);
  for (size_t i = 0; i < 20; ++i) {
    CHECK_NEAR(found[i].logprob, static_cast<double>(expected[i]) - normalizer, 1e-6);
  }
}

TEST(log_softmax_subtracts_the_normaliser_in_place) {
  Floats x = {1, 2, 3, -kInfinity};
  const double normaliser = std::log(std::exp(1.0) + std::exp(2.0) + std::exp(3.0));
  log_softmax(x, x);
  for (size_t i = 0; i < 3; ++i) CHECK_NEAR(x[i], static_cast<double>(i + 1) - normaliser, 1e-6);
  CHECK_EQ(x[3], -kInfinity);
  Floats irregular = {0, kInfinity};
  CHECK_THROWS(log_softmax(irregular, irregular), std::runtime_error);
}

TEST(one_tokens_log_probability_is_its_entry_of_the_softmax) {
  const Floats logits = random_normal(1000, 3, 9);
  Floats all(logits.size());
  log_softmax(logits, all);
  for (const int32_t token : {0, 17, 999}) {
    CHECK_EQ(log_probability(logits, token), all[static_cast<size_t>(token)]);
  }
}

TEST(impossible_tokens_are_not_among_the_best) {
  TopLogprobs top(4, 3);
  const auto best = top.find(Floats{-kInfinity, 2, -kInfinity, 1});
  CHECK_EQ(best.size(), size_t{2});
  CHECK(best[0].token == 1 && best[1].token == 3);
}
