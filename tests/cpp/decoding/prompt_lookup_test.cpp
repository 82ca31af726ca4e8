// Draft proposals: what they hold, how they adapt, and that they cost no allocation.
#include "decoding/prompt_lookup.h"

#include <numeric>
#include <stdexcept>
#include <vector>

#include "decoding/random.h"
#include "support/counted_allocations.h"
#include "support/testing.h"

using namespace gpt2fast;

namespace {

using Tokens = std::vector<int32_t>;

Tokens proposal(PromptLookup& lookup, int64_t limit = 100) {
  const auto draft = lookup.propose(limit);
  return {draft.begin(), draft.end()};
}

}  // namespace

TEST(proposes_what_followed_the_same_pair) {
  PromptLookup lookup(10, 100);
  lookup.append(Tokens{1, 2, 3, 4, 5, 6, 7, 9, 1, 2});
  CHECK(proposal(lookup) == (Tokens{3, 4, 5, 6}));
  CHECK(proposal(lookup, 2) == (Tokens{3, 4}));
  CHECK(proposal(lookup, 0).empty());
}

TEST(prefers_the_longest_agreement_then_the_latest) {
  PromptLookup longest(2, 100);
  longest.append(Tokens{7, 1, 2, 50, 51, 8, 1, 2, 60, 61, 7, 1, 2});
  CHECK(proposal(longest) == (Tokens{50, 51}));
  PromptLookup latest(2, 100);
  latest.append(Tokens{5, 1, 2, 50, 51, 6, 1, 2, 60, 61, 7, 1, 2});
  CHECK(proposal(latest) == (Tokens{60, 61}));
}

TEST(a_draft_beyond_the_text_repeats_itself) {
  PromptLookup lookup(8, 100);
  lookup.append(Tokens{1, 2, 3, 1, 2, 3});
  CHECK(proposal(lookup) == (Tokens{1, 2, 3, 1}));
}

TEST(proposes_nothing_for_new_or_short_text) {
  PromptLookup lookup(8, 100);
  CHECK(proposal(lookup).empty());
  lookup.append(Tokens{1});
  CHECK(proposal(lookup).empty());
  lookup.append(Tokens{2, 3, 4, 5});
  CHECK(proposal(lookup).empty());
}

TEST(grows_when_right_and_shrinks_when_wrong) {
  PromptLookup lookup(16, 200);
  Tokens cycle(40);
  std::iota(cycle.begin(), cycle.end(), 0);
  lookup.append(cycle);
  lookup.append(Tokens{0, 1});
  CHECK_EQ(proposal(lookup).size(), size_t{4});
  lookup.accept(4);
  lookup.append(Tokens{2, 3, 4, 5});
  CHECK_EQ(proposal(lookup).size(), size_t{8});
  lookup.accept(8);
  lookup.append(Tokens{6, 7, 8, 9, 10, 11, 12, 13});
  CHECK_EQ(proposal(lookup).size(), size_t{16});
  lookup.accept(2);
  CHECK_EQ(proposal(lookup).size(), size_t{3});
}

TEST(wrong_drafts_raise_the_agreement_that_is_needed) {
  PromptLookup lookup(4, 200);
  lookup.append(Tokens{90, 1, 2, 50, 91, 1, 2});
  CHECK(!proposal(lookup).empty());
  lookup.accept(0);
  CHECK(proposal(lookup).empty());  // two tokens agree, three are needed now
  lookup.append(Tokens{60, 92, 93, 91, 1, 2});
  CHECK(!proposal(lookup).empty());  // 91 1 2 agree
  lookup.accept(1);
  lookup.append(Tokens{94, 1, 2});
  CHECK(!proposal(lookup).empty());  // after a right one two are enough again
}

TEST(drafts_that_are_always_wrong_take_little) {
  constexpr int64_t kSteps = 1024;
  for (int32_t max_draft : {1, 8, 32}) {
    PromptLookup lookup(max_draft, 2 * kSteps);
    lookup.append(Tokens(kSteps, 1));  // agrees with itself everywhere
    int64_t drafted = 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      drafted += static_cast<int64_t>(proposal(lookup).size());
      lookup.accept(0);
      lookup.append(Tokens{1});
    }
    // An eighth of a step each: a step at the start, and one in 64 later.
    CHECK(drafted > kSteps / 16);
    CHECK(drafted <= 8 + kSteps / 8);
  }
}

TEST(saved_steps_pay_for_one_full_draft) {
  PromptLookup lookup(16, 4000);
  lookup.append(Tokens(2000, 7));
  for (size_t length : {4, 8, 16, 16, 16}) {
    CHECK_EQ(proposal(lookup).size(), length);
    lookup.accept(static_cast<int64_t>(length));
  }
  int64_t drafted = 0;
  for (int step = 0; step < 7; ++step) {
    drafted += static_cast<int64_t>(proposal(lookup).size());
    lookup.accept(0);
  }
  CHECK_EQ(drafted, int64_t{16});
}

TEST(bad_limits_are_refused) {
  CHECK_THROWS(PromptLookup(-1, 10), std::invalid_argument);
  CHECK_THROWS(PromptLookup(1, -1), std::invalid_argument);
  PromptLookup lookup(4, 3);
  lookup.append(Tokens{1, 2, 3});
  CHECK_THROWS(lookup.append(Tokens{4}), std::length_error);
}

TEST(drafts_never_allocate) {
  constexpr int kLength = 2000;
  PromptLookup lookup(16, kLength);
  const int64_t before = allocations();
  for (int step = 0; step < kLength; ++step) {
    const auto token = static_cast<int32_t>(uniform_draw(5, static_cast<uint64_t>(step)) * 6);
    lookup.append({&token, 1});
    const auto draft = lookup.propose(8);
    lookup.accept(static_cast<int64_t>(draft.size()) * (step % 2));
  }
  CHECK_EQ(allocations() - before, 0);
}
