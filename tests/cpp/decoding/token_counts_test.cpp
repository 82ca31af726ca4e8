// Counts of a sequence that grows, is rewound, and is replaced by another.
#include "decoding/token_counts.h"

#include <map>
#include <utility>
#include <vector>

#include "support/counted_allocations.h"
#include "support/testing.h"

using namespace gpt2fast;

namespace {

using Tokens = std::vector<int32_t>;

void check_counts(const TokenCounts& counts, const Tokens& prompt, const Tokens& output) {
  std::map<int32_t, int32_t> expected;
  Tokens distinct;
  for (const Tokens& tokens : {prompt, output}) {
    for (const int32_t token : tokens) {
      if (token >= 0 && token < 6 && expected[token]++ == 0) distinct.push_back(token);
    }
  }
  for (int32_t token = 0; token < 6; ++token) CHECK_EQ(counts.count(token), expected[token]);
  CHECK(Tokens(counts.distinct().begin(), counts.distinct().end()) == distinct);
}

const std::vector<std::pair<Tokens, Tokens>> kHistories = {
    {{0, 1}, {}},     {{0, 1}, {2}}, {{0, 1}, {2, 2, 3}}, {{0, 1}, {2}},
    {{0, 1}, {4, 4}}, {{5}, {1, 1}}, {{5, 1, 1}, {0, 3}}, {{5}, {1, 1, 0, 3}},
    {{}, {}},         {{}, {3}},     {{9, 3}, {-1, 3}},   {{9, 3}, {}}};

}  // namespace

TEST(counts_equal_those_of_the_whole_sequence) {
  TokenCounts counts(6, 100);
  for (const auto& [prompt, output] : kHistories) {
    counts.update(prompt, output);
    check_counts(counts, prompt, output);
  }
}

TEST(updates_never_allocate) {
  TokenCounts counts(6, 100);
  const int64_t before = allocations();
  for (const auto& [prompt, output] : kHistories) counts.update(prompt, output);
  CHECK_EQ(allocations(), before);
}
