// The vectorised passes against loops over single elements, and their bits across instruction sets.
#include "kernels/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/kernel_table.h"
#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::available_isas;
using gpt2fast::testing::count_different;
using gpt2fast::testing::random_normal;

namespace {

using Floats = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 33, 255, 256, 257, 1023, 1024, 1040, 5000, 50257};

Floats padded(int64_t count) { return Floats(static_cast<size_t>(count + kVocabularyPadding)); }

// Runs `check` for every size and instruction set, with random normals of that size.
template <typename Check>
void for_all(Check check) {
  for (int64_t count : kSizes) {
    const Floats x = random_normal(count, 3.0f, static_cast<uint32_t>(count));
    for (Isa isa : available_isas()) check(kernels(isa).vocabulary, x, count);
  }
}

}  // namespace

TEST(find_max_gives_the_first_greatest) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    const auto expected = std::max_element(x.begin(), x.end());
    const Extremum found = passes.find_max(x.data(), count);
    CHECK(found.is_regular);
    CHECK_EQ(found.value, *expected);
    CHECK_EQ(found.index, expected - x.begin());
    Floats ties = x;
    ties[static_cast<size_t>(count / 2)] = ties.back() = 100;
    CHECK_EQ(passes.find_max(ties.data(), count).index, count / 2);
  });
}

TEST(find_max_reports_nan_and_infinity_anywhere) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    for (size_t place : {size_t{0}, static_cast<size_t>(count / 2), static_cast<size_t>(count - 1)}) {
      for (float value : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
        Floats irregular = x;
        irregular[place] = value;
        CHECK(!passes.find_max(irregular.data(), count).is_regular);
      }
    }
    const Floats lowest(x.size(), -kInfinity);
    const Extremum found = passes.find_max(lowest.data(), count);
    CHECK(found.is_regular && found.value == -kInfinity && found.index == 0);
  });
}

TEST(column_maxima_partition_the_array) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    for (int64_t length : {1, 3, 64}) {
      Floats maxima = padded(count);
      const auto columns = static_cast<size_t>(passes.column_maxima(x.data(), count, length, maxima.data()));
      Floats expected(columns, -kInfinity);
      for (size_t i = 0; i < x.size(); ++i) {
        float& column = expected[i / (16 * static_cast<size_t>(length)) * 16 + i % 16];
        column = std::max(column, x[i]);
      }
      CHECK_EQ(
          count_different(expected, Floats(maxima.begin(), maxima.begin() + static_cast<int64_t>(columns))),
          0);
    }
  });
}

TEST(exponentials_and_sums_are_near_those_in_double) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    const float max = *std::max_element(x.begin(), x.end());
    Floats weights = x, sums(x.size());
    passes.exp_weights(x.data(), count, max, 0.7f, weights.data());
    double total = 0, plain = 0, logs = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double s = (static_cast<double>(x[i]) - static_cast<double>(max)) / static_cast<double>(0.7f);
      CHECK_NEAR(weights[i], std::exp(s), (3e-7 - 2e-7 * s) * std::exp(s));  // s itself is rounded
      total += std::exp(s);
      logs += std::exp(s) * s;
      plain += std::exp(static_cast<double>(x[i]) - static_cast<double>(max));
    }
    CHECK_EQ(*std::max_element(weights.begin(), weights.end()), 1.0f);
    CHECK_NEAR(passes.sum_blocks(weights.data(), count, sums.data()), total, 1e-6 * total);
    CHECK_NEAR(passes.exp_sum(x.data(), count, max), plain, 1e-6 * plain);
    CHECK_NEAR(passes.weighted_log(x.data(), weights.data(), count, max, 0.7f), logs, 1e-5 - 1e-6 * logs);
  });
}

TEST(a_sum_of_exponentials_is_that_of_its_blocks) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    Floats maxima, sums;
    for (int64_t begin = 0; begin < count; begin += kVocabularyBlock) {
      const int64_t size = std::min(kVocabularyBlock, count - begin);
      const BlockExpSum block = passes.exp_sum_block(x.data() + begin, size);
      CHECK_EQ(block.max, *std::max_element(x.begin() + begin, x.begin() + begin + size));
      maxima.push_back(block.max);
      sums.push_back(block.sum);
    }
    const float max = *std::max_element(x.begin(), x.end());
    const auto blocks = static_cast<int64_t>(maxima.size());
    CHECK_EQ(passes.add_exp_sums(maxima.data(), sums.data(), blocks, max),
             passes.exp_sum(x.data(), count, max));
  });
}

TEST(a_block_of_exponentials_shows_what_is_not_finite) {
  for (Isa isa : available_isas()) {
    const VocabularyKernels& passes = kernels(isa).vocabulary;
    for (const int64_t count : {1, 16, 37, 256}) {
      Floats x(static_cast<size_t>(count), -kInfinity);
      const BlockExpSum nothing = passes.exp_sum_block(x.data(), count);
      CHECK_EQ(nothing.max, std::numeric_limits<float>::lowest());
      CHECK_EQ(nothing.sum, 0.0f);
      x.back() = 3;
      const BlockExpSum one = passes.exp_sum_block(x.data(), count);
      CHECK(one.max == 3 && one.sum == 1);
      for (const float bad : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
        x.front() = bad;
        CHECK(std::isnan(passes.exp_sum_block(x.data(), count).sum));
      }
    }
  }
}

TEST(weights_of_minus_infinity_are_zero) {
  for (Isa isa : available_isas()) {
    const VocabularyKernels& passes = kernels(isa).vocabulary;
    const Floats x = {0, -kInfinity, -1000};
    Floats weights(3);
    passes.exp_weights(x.data(), 3, 0, 1, weights.data());
    CHECK(weights == (Floats{1, 0, 0}));
    CHECK_EQ(passes.weighted_log(x.data(), weights.data(), 3, 0, 1), 0.0);
  }
}

TEST(compact_keeps_what_lies_between) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    const Floats y = random_normal(count, 1.0f, 7);
    for (auto [low, high] :
         {std::pair{-1.0f, 2.0f}, {-kInfinity, kInfinity}, {50.0f, 60.0f}, {x[0], kInfinity}}) {
      std::vector<int32_t> expected;
      for (size_t i = 0; i < x.size(); ++i) {
        if (low <= x[i] && x[i] < high) expected.push_back(static_cast<int32_t>(i));
      }
      std::vector<int32_t> ids(x.size() + kVocabularyPadding);
      Floats first = padded(count), second = padded(count);
      std::copy(x.begin(), x.end(), first.begin());  // compacted in place
      const auto kept = static_cast<size_t>(passes.compact({.keys = first.data(),
                                                            .count = count,
                                                            .low = low,
                                                            .high = high,
                                                            .ids_out = ids.data(),
                                                            .first = first.data(),
                                                            .first_out = first.data(),
                                                            .second = y.data(),
                                                            .second_out = second.data()}));
      CHECK_EQ(kept, expected.size());
      int wrong = 0;
      for (size_t i = 0; i < kept; ++i) {
        const auto id = static_cast<size_t>(expected[i]);
        wrong += ids[i] != expected[i] || first[i] != x[id] || second[i] != y[id];
      }
      CHECK_EQ(wrong, 0);
    }
  });
}

TEST(compact_takes_given_ids) {
  for (Isa isa : available_isas()) {
    const Floats keys(20, 1.0f);
    std::vector<int32_t> ids(20 + kVocabularyPadding);
    std::iota(ids.begin(), ids.end(), 100);
    CHECK_EQ(kernels(isa).vocabulary.compact({.keys = keys.data(),
                                              .count = 20,
                                              .low = 1,
                                              .high = 2,
                                              .ids = ids.data(),
                                              .ids_out = ids.data()}),
             20);
    CHECK(ids[0] == 100 && ids[19] == 119);
  }
}

TEST(weigh_above_sums_from_each_threshold_up) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    Floats weights(x.size());
    passes.exp_weights(x.data(), count, 10, 1, weights.data());
    const float thresholds[kVocabularyThresholds] = {-kInfinity, -4, -1, x[0], 1, 6, kInfinity};
    double totals[kVocabularyThresholds];
    passes.weigh_above(x.data(), weights.data(), count, thresholds, totals);
    for (int t = 0; t < kVocabularyThresholds; ++t) {
      double expected = 0;
      for (size_t i = 0; i < x.size(); ++i)
        expected += x[i] >= thresholds[t] ? static_cast<double>(weights[i]) : 0;
      CHECK_NEAR(totals[t], expected, 1e-6 * expected);
    }
  });
}

TEST(forbid_follows_the_bits) {
  for_all([](const VocabularyKernels& passes, const Floats& x, int64_t count) {
    std::vector<uint32_t> allowed(static_cast<size_t>((count + 31) / 32));
    for (size_t i = 0; i < allowed.size(); ++i) allowed[i] = static_cast<uint32_t>(i + 1) * 0x9E3779B9u;
    Floats scores = x;
    passes.forbid(scores.data(), count, allowed.data());
    int wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const bool bit = (allowed[i / 32] >> (i % 32) & 1u) != 0;
      wrong += scores[i] != (bit ? x[i] : -kInfinity);
    }
    CHECK_EQ(wrong, 0);
  });
}

TEST(every_instruction_set_gives_the_same_bits) {
  for (int64_t count : kSizes) {
    const Floats x = random_normal(count, 3.0f, 1);
    const auto results = [&](Isa isa) {
      const VocabularyKernels& passes = kernels(isa).vocabulary;
      Floats weights(x.size()), distances(x.size()), lowered(x.size()), sums(x.size());
      passes.exp_weights(x.data(), count, 12, 0.9f, weights.data());
      passes.negative_distance(x.data(), count, 12, 0.9f, -3, distances.data());
      passes.subtract(x.data(), count, 1.0 / 3, lowered.data());
      const float thresholds[kVocabularyThresholds] = {-3, -2, -1, 0, 1, 2, 3};
      std::vector<double> totals(kVocabularyThresholds);
      passes.weigh_above(x.data(), weights.data(), count, thresholds, totals.data());
      totals.push_back(passes.sum_blocks(weights.data(), count, sums.data()));
      totals.push_back(passes.exp_sum(x.data(), count, 12));
      const BlockExpSum block = passes.exp_sum_block(x.data(), std::min(count, kVocabularyBlock));
      sums.push_back(block.max);
      sums.push_back(block.sum);
      totals.push_back(passes.weighted_log(x.data(), weights.data(), count, 12, 0.9f));
      Floats all;
      for (const Floats* part : {&weights, &distances, &lowered, &sums})
        all.insert(all.end(), part->begin(), part->end());
      for (double total : totals) {  // both halves of the double
        const auto bits = std::bit_cast<uint64_t>(total);
        all.push_back(static_cast<float>(bits >> 40));
        all.push_back(static_cast<float>(bits >> 20 & 0xfffff));
        all.push_back(static_cast<float>(bits & 0xfffff));
      }
      return all;
    };
    const Floats expected = results(Isa::kPortable);
    for (Isa isa : available_isas()) CHECK_EQ(count_different(results(isa), expected), 0);
  }
}
