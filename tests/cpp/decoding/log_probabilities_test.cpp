// Log-probabilities: known values, extremes, and the most probable tokens against a sort.
#include "decoding/log_probabilities.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/kernel_table.h"
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

TEST(sums_of_blocks_give_the_same_log_probability) {
  const auto from_sums = [](const Floats& logits, size_t token) {
    Floats maxima, sums;
    for (size_t begin = 0; begin < logits.size(); begin += kVocabularyBlock) {
      const auto count = std::min<size_t>(kVocabularyBlock, logits.size() - begin);
      const BlockExpSum block =
          kernels().vocabulary.exp_sum_block(logits.data() + begin, static_cast<int64_t>(count));
      maxima.push_back(block.max);
      sums.push_back(block.sum);
    }
    return log_probability(SummedLogits{logits[token], maxima, sums});
  };
  for (const int64_t size : {1, 256, 257, 5000, 50257}) {
    const Floats logits = random_normal(size, 4, 11);
    for (const size_t token : {size_t{0}, logits.size() - 1}) {
      CHECK_EQ(from_sums(logits, token), log_probability(logits, static_cast<int32_t>(token)));
    }
  }
  Floats some(1000, -kInfinity);
  some[700] = -200;
  CHECK_EQ(from_sums(some, 700), 0.0f);
  CHECK_EQ(from_sums(some, 3), -kInfinity);
  CHECK_THROWS(from_sums(Floats(1000, -kInfinity), 0), std::runtime_error);
  for (const float bad : {kNan, kInfinity}) {
    some[300] = bad;
    CHECK_THROWS(from_sums(some, 700), std::runtime_error);
  }
}

TEST(impossible_tokens_are_not_among_the_best) {
  TopLogprobs top(4, 3);
  const auto best = top.find(Floats{-kInfinity, 2, -kInfinity, 1});
  CHECK_EQ(best.size(), size_t{2});
  CHECK(best[0].token == 1 && best[1].token == 3);
}
