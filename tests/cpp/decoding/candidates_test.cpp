// The filters against ones that sort the whole vocabulary in double precision.
#include "decoding/candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::available_isas;
using gpt2fast::testing::random_normal;

namespace {

using Floats = std::vector<float>;
using Ids = std::vector<int32_t>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float max_of(const Floats& scores) { return *std::max_element(scores.begin(), scores.end()); }

Ids ids_of(Candidates& candidates) {
  Ids ids;
  for (int64_t i = 0; i < candidates.count(); ++i) ids.push_back(candidates.id(i));
  return ids;
}

// Applies `filter` to fresh candidates of every instruction set, and checks that they agree.
template <typename Filter>
Ids filtered(const Floats& scores, Filter filter) {
  Ids first;
  for (Isa isa : available_isas()) {
    Candidates candidates(static_cast<int64_t>(scores.size()), kernels(isa).vocabulary);
    candidates.reset(scores, max_of(scores));
    filter(candidates);
    if (isa == Isa::kPortable) first = ids_of(candidates);
    CHECK(ids_of(candidates) == first);
  }
  return first;
}

Ids by_score(const Floats& scores) {  // best first, then lower ids
  Ids ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  return ids;
}

std::vector<double> softmax(const Floats& scores, float temperature) {
  std::vector<double> probabilities(scores.size());
  const double max = static_cast<double>(max_of(scores));
  double total = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    probabilities[i] = std::exp((static_cast<double>(scores[i]) - max) / static_cast<double>(temperature));
    total += probabilities[i];
  }
  for (double& p : probabilities) p /= total;
  return probabilities;
}

Ids sorted(Ids ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

Ids top_k_by_sort(const Floats& scores, size_t k) {
  const float kth = scores[static_cast<size_t>(by_score(scores)[k - 1])];
  Ids kept;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] >= kth) kept.push_back(static_cast<int32_t>(i));
  }
  return kept;
}

Ids top_p_by_sort(const Floats& scores, float temperature, double top_p) {
  const std::vector<double> probabilities = softmax(scores, temperature);
  Ids kept;
  double before = 0;
  for (int32_t id : by_score(scores)) {
    if (before >= top_p) break;
    kept.push_back(id);
    before += probabilities[static_cast<size_t>(id)];
  }
  return sorted(kept);
}

Ids typical_by_sort(const Floats& scores, double mass) {
  const std::vector<double> probabilities = softmax(scores, 1);
  double entropy = 0;
  for (double p : probabilities) entropy -= p > 0 ? p * std::log(p) : 0;
  Floats closeness(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    closeness[i] = static_cast<float>(-std::fabs(-std::log(probabilities[i]) - entropy));
  }
  Ids kept;
  double before = 0;
  for (int32_t id : by_score(closeness)) {
    if (before >= mass) break;
    kept.push_back(id);
    before += probabilities[static_cast<size_t>(id)];
  }
  return sorted(kept);
}

}  // namespace

TEST(top_k_equals_a_sort) {
  for (int64_t count : {1, 5, 100, 1000, 5000, 50257}) {
    const Floats scores = random_normal(count, 2.0f, 3);
    for (int64_t k : {1, 2, 17, 50, 800, 1024, 1025, 4000, 60000}) {
      const Ids kept = filtered(scores, [k](Candidates& c) { c.keep_top_k(k); });
      CHECK(kept == top_k_by_sort(scores, static_cast<size_t>(std::min(k, count))));
    }
  }
}

TEST(top_k_keeps_all_that_tie_with_the_last) {
  Floats scores(3000);
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i % 10);
  for (int64_t k : {1, 300, 301, 1500, 2000}) {
    CHECK(filtered(scores, [k](Candidates& c) { c.keep_top_k(k); }) ==
          top_k_by_sort(scores, static_cast<size_t>(k)));
  }
}

TEST(top_k_leaves_out_minus_infinity) {
  Floats scores(3000, -kInfinity);
  scores[7] = 1;
  scores[2000] = -5;
  CHECK(filtered(scores, [](Candidates& c) { c.keep_top_k(50); }) == (Ids{7, 2000}));
  CHECK(filtered(scores, [](Candidates& c) { c.keep_top_k(1500); }) == (Ids{7, 2000}));
}

TEST(top_p_equals_a_sort) {
  for (int64_t count : {1, 3, 100, 129, 1000, 50257}) {
    for (float deviation : {0.5f, 3.0f, 10.0f}) {
      const Floats scores = random_normal(count, deviation, 5);
      for (double top_p : {0.01, 0.5, 0.9, 0.97}) {
        const Ids kept = filtered(scores, [top_p](Candidates& c) { c.weigh(0.8f), c.keep_top_p(top_p); });
        const Ids expected = top_p_by_sort(scores, 0.8f, top_p);
        // Where tens of thousands of tokens are kept, roundings of the sums may move the border by a token or
        // two.
        const auto difference = static_cast<int64_t>(kept.size()) - static_cast<int64_t>(expected.size());
        CHECK(std::abs(difference) <= static_cast<int64_t>(expected.size() / 10000));
        if (difference == 0) CHECK(kept == expected);
      }
    }
  }
}

TEST(top_p_splits_ties_for_the_lower_ids) {
  for (int64_t count : {8, 4096}) {
    const Floats equal(static_cast<size_t>(count), -3.5f);
    const Ids kept = filtered(equal, [](Candidates& c) { c.weigh(1), c.keep_top_p(0.25); });
    Ids expected(static_cast<size_t>(count / 4));
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(kept == expected);
  }
  const Floats two = {0, 1, 1, 0, 1, 0};
  CHECK(filtered(two, [](Candidates& c) { c.weigh(1), c.keep_top_p(0.3); }) == (Ids{1, 2}));
  const Floats behind_the_best = {1, 2, 1, 1};
  CHECK(filtered(behind_the_best, [](Candidates& c) { c.weigh(1), c.keep_top_p(0.6); }) == (Ids{0, 1}));
}

TEST(top_p_works_on_what_top_k_left) {
  // Among the three best the probabilities are 0.5, 0.3, 0.2.
  Floats scores(100, 0.0f);
  scores[10] = std::log(2.0f) + 5;
  scores[20] = std::log(5.0f) + 5;
  scores[30] = std::log(3.0f) + 5;
  const auto kept = [&](double top_p) {
    return filtered(scores, [top_p](Candidates& c) { c.keep_top_k(3), c.weigh(1), c.keep_top_p(top_p); });
  };
  CHECK(kept(0.45) == (Ids{20}));
  CHECK(kept(0.55) == (Ids{20, 30}));
  CHECK(kept(0.85) == (Ids{10, 20, 30}));
}

TEST(min_p_is_relative_to_the_best) {
  const Floats scores = {std::log(0.4f), std::log(0.1f), std::log(0.3f), std::log(0.2f)};
  const auto kept = [&](double min_p) {
    return filtered(scores, [min_p](Candidates& c) { c.weigh(1), c.keep_min_p(min_p); });
  };
  CHECK(kept(0.24) == (Ids{0, 1, 2, 3}));
  CHECK(kept(0.26) == (Ids{0, 2, 3}));
  CHECK(kept(0.74) == (Ids{0, 2}));
  CHECK(kept(1.0) == (Ids{0}));
}

TEST(typical_equals_a_sort) {
  for (int64_t count : {1, 2, 100, 129, 1000, 20000}) {
    for (float deviation : {1.0f, 4.0f}) {
      const Floats scores = random_normal(count, deviation, 9);
      for (double mass : {0.2, 0.7, 0.95}) {
        const Ids kept = filtered(scores, [mass](Candidates& c) { c.weigh(1), c.keep_typical(mass); });
        const Ids expected = typical_by_sort(scores, mass);
        const auto difference = static_cast<int64_t>(kept.size()) - static_cast<int64_t>(expected.size());
        CHECK(std::abs(difference) <= static_cast<int64_t>(expected.size() / 1000));
      }
    }
  }
}

TEST(typical_keeps_ties_and_drops_the_obvious) {
  const Floats equal(1000, 2.0f);
  CHECK_EQ(filtered(equal, [](Candidates& c) { c.weigh(1), c.keep_typical(0.1); }).size(), equal.size());
  // One token of probability 1/4, whose information is farther from the entropy than that of a thousand rare
  // ones.
  Floats peaked(1001, 0.0f);
  peaked[0] = std::log(1000.0f / 3);
  Ids rare(1000);
  std::iota(rare.begin(), rare.end(), 1);
  CHECK(filtered(peaked, [](Candidates& c) { c.weigh(1), c.keep_typical(0.1); }) == rare);
}

TEST(extreme_scores_leave_something_to_draw) {
  const std::vector<Floats> cases = {{5},
                                     {3e38f, -3e38f, 3e38f},
                                     {-kInfinity, -kInfinity, -3e38f},
                                     Floats(2000, -1e-30f),
                                     {0, -kInfinity, -200, -0.0f}};
  for (const Floats& scores : cases) {
    for (float temperature : {1e-30f, 1.0f, 1e30f}) {
      const Ids kept = filtered(scores, [temperature](Candidates& c) {
        c.keep_top_k(2), c.weigh(temperature), c.keep_top_p(0.5), c.keep_min_p(0.1), c.keep_typical(0.5);
        CHECK(c.count() >= 1 && c.total_weight() >= 1);
        for (double fraction : {0.0, 0.5, 1 - 0x1p-53}) CHECK(c.pick(fraction) >= 0);
      });
      const Ids best = by_score(scores);
      CHECK_EQ(scores[static_cast<size_t>(kept[0])], scores[static_cast<size_t>(best[0])]);
    }
  }
}

TEST(pick_follows_the_order_of_ids) {
  const Floats scores = {std::log(1.0f), -kInfinity, std::log(2.0f), std::log(1.0f)};
  Candidates candidates(4);
  candidates.reset(scores, max_of(scores));
  candidates.weigh(1);
  CHECK_EQ(candidates.pick(0.0), 0);
  CHECK_EQ(candidates.pick(0.24), 0);
  CHECK_EQ(candidates.pick(0.26), 2);
  CHECK_EQ(candidates.pick(0.74), 2);
  CHECK_EQ(candidates.pick(0.76), 3);
  CHECK_EQ(candidates.pick(1 - 0x1p-53), 3);
}

TEST(pick_never_gives_a_weight_of_zero) {
  for (int64_t count : {1, 300, 5000}) {
    Floats scores(static_cast<size_t>(count), -kInfinity);
    scores[static_cast<size_t>(count / 2)] = 1;
    Candidates candidates(count);
    candidates.reset(scores, 1);
    candidates.weigh(1);
    for (double fraction : {0.0, 0.3, 1 - 0x1p-53}) CHECK_EQ(candidates.pick(fraction), count / 2);
  }
}
