// The choice of tokens: greedy, drawn, masked, forced; its distribution, its reproducibility, its errors.
#include "decoding/token_chooser.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "decoding/log_probabilities.h"
#include "gpt2fast/choice_hook.h"
#include "kernels/linear.h"
#include "support/counted_allocations.h"
#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::random_normal;

namespace {

using Floats = std::vector<float>;
using Tokens = std::vector<int32_t>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename Change>
SamplingOptions with(Change change) {
  SamplingOptions options;
  change(options);
  return options;
}

TokenChooser chooser(const SamplingOptions& options, size_t vocab_size, uint64_t seed = 0,
                     int64_t max_length = 1000) {
  return {std::make_shared<const SamplingOptions>(options),
          seed,
          {},
          static_cast<int64_t>(vocab_size),
          max_length};
}

int32_t chosen(const SamplingOptions& options, const Floats& logits, const Tokens& output = {},
               const uint32_t* allowed = nullptr) {
  return chooser(options, logits.size()).choose(logits, {{}, output}, allowed, false).token;
}

Floats distribution(const SamplingOptions& options, const Floats& logits) {
  Floats probabilities(logits.size(), -1.0f);
  chooser(options, logits.size()).distribution(logits, {}, nullptr, probabilities);
  return probabilities;
}

// How often each token is drawn at `draws` different positions.
std::vector<int> frequencies(const SamplingOptions& options, uint64_t seed, const Floats& logits, int draws) {
  TokenChooser tokens = chooser(options, logits.size(), seed, draws);
  std::vector<int> counts(logits.size());
  Tokens output;
  for (int i = 0; i < draws; ++i) {
    output.push_back(tokens.choose(logits, {{}, output}, nullptr, false).token);
    ++counts[static_cast<size_t>(output.back())];
  }
  return counts;
}

}  // namespace

namespace {

// Would have one token above all others.
class Prefers final : public ChoiceHook {
 public:
  explicit Prefers(size_t token) : token_(token) {}
  const uint32_t* allowed_tokens(const TokenHistory&, int64_t) override { return nullptr; }
  void process_scores(const TokenHistory&, std::span<float> scores) override { scores[token_] = 100; }
  bool is_complete(const TokenHistory&) override { return false; }

 private:
  size_t token_;
};

}  // namespace

TEST(a_hook_chooses_among_what_the_options_allow) {
  const Floats logits = {1, 2, 3, 4};
  const uint32_t allowed = 0b1101;
  const auto options = with([](auto& o) { o.suppress_tokens = {2}; });
  const auto choice = [&](size_t wanted) {
    Prefers hook(wanted);
    return chooser(options, logits.size()).choose(logits, {}, &allowed, false, &hook).token;
  };
  CHECK_EQ(choice(0), 0);
  CHECK_EQ(choice(1), 3);  // the constraint forbids it
  CHECK_EQ(choice(2), 3);  // it is suppressed
  Prefers alone(2);
  CHECK_EQ(chooser({}, logits.size()).choose(logits, {}, nullptr, false, &alone).token, 2);
}

TEST(greedy_takes_the_first_greatest) {
  CHECK_EQ(chosen({}, {1, 3, 2, 3}), 1);
  CHECK_EQ(chosen({}, {-kInfinity, -5, -kInfinity}), 1);
  CHECK_EQ(chosen({}, {-7}), 0);
  CHECK_EQ(chosen(with([](auto& o) { o.temperature = 9, o.top_k = 2; }), {1, 3, 2}), 1);
}

TEST(greedy_follows_the_processors) {
  const auto options = with([](auto& o) { o.repetition_penalty = 4, o.suppress_tokens = {2}; });
  CHECK_EQ(chosen(options, {2, 3, 9}, {1}), 0);
  CHECK_EQ(chosen(options, {2, 3, 9}, {0}), 1);
}

TEST(logits_are_not_modified) {
  const Floats logits = random_normal(1000, 1, 1);
  Floats copy = logits;
  const auto options =
      with([](auto& o) { o.do_sample = true, o.repetition_penalty = 2, o.top_k = 5, o.typical_p = 0.5; });
  chosen(options, copy, {1, 2, 3});
  CHECK(copy == logits);
}

TEST(a_mask_limits_the_choice) {
  const uint32_t allowed = 0b1010;
  const Floats logits = {9, 1, 8, 2};
  CHECK_EQ(chosen({}, logits, {}, &allowed), 3);
  const auto sampled = with([](auto& o) { o.do_sample = true, o.temperature = 100; });
  for (size_t length = 0; length < 50; ++length) {
    CHECK_EQ(chosen(sampled, logits, Tokens(length, 0), &allowed) % 2, 1);
  }
}

TEST(nothing_allowed_gives_no_token) {
  const uint32_t allowed = 0;
  for (bool sample : {false, true}) {
    const auto options = with([sample](auto& o) { o.do_sample = sample; });
    CHECK_EQ(chosen(options, {1, 2, 3}, {}, &allowed), TokenChooser::kNoToken);
    CHECK_EQ(chosen(options, {-kInfinity, -kInfinity}), TokenChooser::kNoToken);
    CHECK(distribution(options, {-kInfinity, -kInfinity}) == (Floats{0, 0}));
  }
}

TEST(a_forced_prefix_comes_first) {
  const auto options = with([](auto& o) { o.do_sample = true, o.forced_prefix = {2, 1}, o.top_k = 1; });
  const Floats logits = {9, -50, -kInfinity};
  CHECK_EQ(chosen(options, logits), 2);
  CHECK_EQ(chosen(options, logits, {2}), 1);
  CHECK_EQ(chosen(options, logits, {2, 1}), 0);
}

TEST(irregular_logits_are_errors) {
  for (bool sample : {false, true}) {
    const auto options = with([sample](auto& o) { o.do_sample = sample, o.forced_prefix = {}; });
    CHECK_THROWS(chosen(options, {1, kNan, 2}), std::runtime_error);
    CHECK_THROWS(chosen(options, {1, kInfinity, 2}), std::runtime_error);
  }
  const auto overflowing = with([](auto& o) { o.repetition_penalty = 1e-10f; });
  CHECK_THROWS(chosen(overflowing, {1, 1e35f}, {1}), std::runtime_error);
}

TEST(the_error_names_the_output_position) {
  std::string message;
  try {
    chosen({}, {kNan}, {0, 0, 0});
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  CHECK(message.find("output token 3") != std::string::npos);
}

TEST(bad_options_are_refused_by_name) {
  const Floats logits = {1, 2};
  CHECK_THROWS(chosen(with([](auto& o) { o.temperature = 0; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.temperature = kNan; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.temperature = kInfinity; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.top_k = -1; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.top_p = 0; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.top_p = 1.5; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.min_p = -0.1; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.min_p = 1.5; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.typical_p = 0; }), logits), std::invalid_argument);
  CHECK_THROWS(chosen(with([](auto& o) { o.typical_p = 2; }), logits), std::invalid_argument);
}

TEST(distribution_without_sampling_is_the_softmax_of_the_processed_scores) {
  const auto options = with([](auto& o) { o.suppress_tokens = {2}, o.temperature = 5, o.top_k = 1; });
  const Floats p = distribution(options, {std::log(1.0f), std::log(3.0f), 50});
  CHECK_NEAR(p[0], 0.25, 1e-6);
  CHECK_NEAR(p[1], 0.75, 1e-6);
  CHECK_EQ(p[2], 0.0f);
}

TEST(filters_come_in_the_order_temperature_top_k_top_p_min_p) {
  // At temperature 2 the weights of logits 2 log(w) are w: 8, 4, 2, 1, 1.
  Floats logits;
  for (float weight : {8.0f, 4.0f, 2.0f, 1.0f, 1.0f}) logits.push_back(2 * std::log(weight));
  const auto options =
      with([](auto& o) { o.do_sample = true, o.temperature = 2, o.top_k = 3, o.top_p = 0.86; });
  const Floats p = distribution(options, logits);  // of 14: 8 + 4 = 12 reach 0.857, so the third is needed
  CHECK_NEAR(p[0], 8 / 14.0, 1e-6);
  CHECK_NEAR(p[2], 2 / 14.0, 1e-6);
  CHECK_EQ(p[3], 0.0f);
  const Floats q = distribution(with([](auto& o) {
                                  o.do_sample = true, o.temperature = 2, o.top_k = 3, o.top_p = 0.85,
                                  o.min_p = 0.3;
                                }),
                                logits);
  CHECK_NEAR(q[0], 8 / 12.0, 1e-6);
  CHECK_NEAR(q[1], 4 / 12.0, 1e-6);
  CHECK_EQ(q[2], 0.0f);
}

TEST(frequencies_follow_the_distribution) {
  const Floats logits = random_normal(40, 1.5f, 2);
  const SamplingOptions variants[] = {
      with([](auto& o) { o.do_sample = true; }),
      with([](auto& o) { o.do_sample = true, o.temperature = 0.7f, o.top_k = 10; }),
      with([](auto& o) { o.do_sample = true, o.top_p = 0.8, o.min_p = 0.05; }),
  };
  constexpr int kDraws = 20000;
  uint64_t seed = 3;
  for (const SamplingOptions& options : variants) {
    const Floats probabilities = distribution(options, logits);
    const std::vector<int> counts = frequencies(options, seed++, logits, kDraws);
    double chi_squared = 0;
    int kept = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double expected = kDraws * static_cast<double>(probabilities[i]);
      if (expected == 0) CHECK_EQ(counts[i], 0);
      if (expected == 0) continue;
      chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
      ++kept;
    }
    CHECK(chi_squared < kept + 5 * std::sqrt(2.0 * kept));
  }
}

TEST(a_draw_depends_on_seed_and_position_alone) {
  const Floats logits = random_normal(5000, 1, 6);
  const auto options = with([](auto& o) { o.do_sample = true; });
  Tokens in_order;
  TokenChooser first = chooser(options, logits.size(), 9);
  for (size_t i = 0; i < 20; ++i)
    in_order.push_back(first.choose(logits, {{}, in_order}, nullptr, false).token);
  TokenChooser second = chooser(options, logits.size(), 9);
  for (size_t i = 20; i-- > 0;) {  // backwards, with another prompt
    const Tokens prompt = {1, 2, 3};
    const TokenHistory history{prompt, std::span(in_order).first(i)};
    CHECK_EQ(second.choose(logits, history, nullptr, false).token, in_order[i]);
  }
  TokenChooser third = chooser(options, logits.size(), 10);
  Tokens different;
  for (size_t i = 0; i < 20; ++i)
    different.push_back(third.choose(logits, {{}, different}, nullptr, false).token);
  CHECK(different != in_order);
}

TEST(logprobs_are_those_of_the_raw_logits) {
  const Floats logits = random_normal(50257, 3, 8);
  double total = 0;
  for (float logit : logits) total += std::exp(static_cast<double>(logit));
  const auto options = with([](auto& o) { o.do_sample = true, o.temperature = 0.3f, o.top_k = 4; });
  const auto choice = chooser(options, logits.size(), 1).choose(logits, {}, nullptr, true);
  const double expected = static_cast<double>(logits[static_cast<size_t>(choice.token)]) - std::log(total);
  CHECK_NEAR(choice.logprob, expected, 1e-5);
  Floats all(logits.size());
  log_softmax(logits, all);
  CHECK_EQ(all[static_cast<size_t>(choice.token)], choice.logprob);
  double sum = 0;
  for (float value : all) sum += std::exp(static_cast<double>(value));
  CHECK_NEAR(sum, 1, 1e-5);
}

TEST(choosing_never_allocates) {
  constexpr int kSteps = 64;
  const Floats logits = random_normal(50257, 3, 12);
  const std::vector<uint32_t> allowed(50257 / 32 + 1, 0xffffff0f);
  const auto everything = with([](auto& o) {
    o.do_sample = true, o.top_k = 2000, o.top_p = 0.95, o.min_p = 0.001, o.typical_p = 0.9;
    o.repetition_penalty = 1.2f, o.presence_penalty = 0.1f, o.frequency_penalty = 0.1f,
    o.no_repeat_ngram_size = 2;
    o.min_new_tokens = 5, o.suppress_tokens = {1, 2}, o.bad_words = {{3}, {4, 5}}, o.logit_bias = {{7, 1.0f}};
    o.forced_prefix = {11};
  });
  const Tokens prompt(100, 17), eos = {50256};
  for (const SamplingOptions& options : {SamplingOptions{}, everything}) {
    TokenChooser tokens(std::make_shared<const SamplingOptions>(options), 0, eos, 50257, 200);
    TopLogprobs top(50257, 5);
    Tokens output;
    output.reserve(kSteps);
    const int64_t before = allocations();
    for (int i = 0; i < kSteps; ++i) {
      output.push_back(tokens.choose(logits, {prompt, output}, allowed.data(), true).token);
      top.find(logits);
    }
    CHECK_EQ(allocations() - before, 0);
  }
}

namespace {

// What linear() tells of logits.
Floats maxima_of(const Floats& logits) {
  Floats maxima(static_cast<size_t>(maxima_floats(static_cast<int64_t>(logits.size()))), -kInfinity);
  for (size_t i = 0; i < logits.size(); ++i) {
    float& largest = maxima[i / kMaximaColumns * kMaximaLanes + i % kMaximaLanes];
    largest = std::isfinite(logits[i]) ? std::max(largest, logits[i]) : kNan;
  }
  return maxima;
}

}  // namespace

TEST(maxima_change_no_choice) {
  const auto chosen_by = [](const Floats& logits, std::span<const float> maxima, bool sampled,
                            const uint32_t* allowed = nullptr) {
    const SamplingOptions options = with([sampled](SamplingOptions& o) { o.do_sample = sampled; });
    return chooser(options, logits.size()).choose(logits, {}, allowed, false, nullptr, maxima).token;
  };
  for (int64_t size : {1, 255, 256, 257, 1000}) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      Floats logits = random_normal(size, 2.0f, seed);
      if (seed % 2 == 1) logits.back() = logits.front() = 50.0f;  // the first of equals is chosen
      const Floats maxima = maxima_of(logits);
      for (bool sampled : {false, true}) {
        CHECK_EQ(chosen_by(logits, maxima, sampled), chosen_by(logits, {}, sampled));
      }
    }
  }
  // They say nothing of scores that something changes, and of such as hold an infinity.
  Floats logits = random_normal(600, 1.0f, 3);
  logits[300] = 40.0f;
  std::vector<uint32_t> allowed(19, ~0u);
  allowed[300 / 32] &= ~(1u << 300 % 32);
  CHECK_EQ(chosen_by(logits, maxima_of(logits), false), 300);
  CHECK_EQ(chosen_by(logits, maxima_of(logits), false, allowed.data()),
           chosen_by(logits, {}, false, allowed.data()));
  logits[20] = -kInfinity;
  CHECK_EQ(chosen_by(logits, maxima_of(logits), false), 300);
  logits[20] = kNan;
  CHECK_THROWS(chosen_by(logits, maxima_of(logits), false), std::runtime_error);
}
