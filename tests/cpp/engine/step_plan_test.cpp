// A step while it is planned: who has which rows, and how much room there is.
#include "engine/step_plan.h"

#include <vector>

#include "support/testing.h"

namespace gpt2fast {
namespace {

using Tokens = std::vector<int32_t>;

Tokens copy(std::span<const int32_t> tokens) { return {tokens.begin(), tokens.end()}; }

TEST(parts_follow_one_another) {
  StepPlan plan(10, 6, 3);
  plan.open(10, 0);
  CHECK(plan.empty());
  plan.add(2, 7, Tokens{1, 2, 3}, 1);
  plan.add(0, 0, Tokens{4}, 3, Tokens{5, 6});
  plan.add_wanted(1, 5, Tokens{7, 8, 9}, Tokens{0, 2});
  CHECK(!plan.empty());
  CHECK_EQ(plan.tokens(), 9);
  CHECK_EQ(plan.parts_left(), 0);

  const auto parts = plan.parts();
  CHECK_EQ(parts.size(), size_t{3});
  CHECK_EQ(parts[0].slot, 2);
  CHECK_EQ(parts[0].cached_length, 7);
  CHECK(copy(parts[0].tokens) == (Tokens{1, 2, 3}));
  CHECK(copy(parts[0].wanted) == (Tokens{2}));
  CHECK(copy(parts[1].tokens) == (Tokens{4, 5, 6}));
  CHECK(copy(parts[1].wanted) == (Tokens{0, 1, 2}));
  CHECK(copy(parts[2].wanted) == (Tokens{0, 2}));

  const auto planned = plan.planned();
  CHECK_EQ(planned[0].first_row, 0);
  CHECK_EQ(planned[1].first_row, 1);
  CHECK_EQ(planned[2].first_row, 4);
  CHECK_EQ(planned[1].tokens, 3);
  CHECK_EQ(planned[1].wanted, 3);
  CHECK_EQ(planned[2].wanted, 2);
}

TEST(what_is_planned_is_copied) {
  StepPlan plan(4, 4, 1);
  plan.open(4, 0);
  Tokens tokens{1, 2};
  plan.add(0, 0, tokens, 1);
  tokens = {8, 9};
  CHECK(copy(plan.parts()[0].tokens) == (Tokens{1, 2}));
}

TEST(hidden_rows_are_counted_over_all_parts) {
  StepPlan plan(10, 6, 4);
  plan.open(10, 0);
  plan.add(0, 0, Tokens{1, 2, 3}, 1);  // one hidden state, that of the wanted row
  plan.add_hidden(1, 0, Tokens{4, 5}, false);
  plan.add_hidden(2, 0, Tokens{6}, true);
  CHECK_EQ(plan.planned()[1].first_hidden, 1);
  CHECK_EQ(plan.planned()[2].first_hidden, 3);
  CHECK_EQ(plan.planned()[1].wanted, 0);
  CHECK(plan.parts()[1].all_hidden);
  CHECK(!plan.parts()[0].all_hidden);
  CHECK(plan.parts()[2].wanted.empty());
  CHECK_EQ(plan.planned()[2].first_token, 5);
  CHECK(plan.parts()[2].layer_inputs);
  CHECK(!plan.parts()[1].layer_inputs);
}

TEST(scored_parts_take_no_rows) {
  StepPlan plan(10, 2, 4);
  plan.open(10, 0);
  plan.add_scored(1, 4, Tokens{1, 2, 3}, Tokens{3, 9});
  plan.add(0, 0, Tokens{4}, 1);
  plan.add_scored(2, 0, Tokens{5, 6}, Tokens{6, 7});
  plan.add_hidden(3, 0, Tokens{8}, false);
  CHECK_EQ(plan.room(), 3);
  CHECK_EQ(plan.rows(), 1);
  CHECK(copy(plan.parts()[0].wanted) == (Tokens{1, 2}));
  CHECK(copy(plan.parts()[0].scored) == (Tokens{3, 9}));
  CHECK(plan.parts()[1].scored.empty());
  CHECK(copy(plan.parts()[2].wanted) == (Tokens{0, 1}));
  CHECK(copy(plan.parts()[2].scored) == (Tokens{6, 7}));
  const auto planned = plan.planned();
  CHECK_EQ(planned[0].wanted, 2);
  CHECK_EQ(planned[0].first_row, 0);  // among the scored tokens
  CHECK_EQ(planned[2].first_row, 2);
  CHECK_EQ(planned[1].first_row, 0);  // among the logits
  CHECK_EQ(planned[3].first_hidden, 1);
  plan.open(10, 0);
  CHECK_EQ(plan.room(), 3);
  CHECK_EQ(plan.rows(), 1);
}

TEST(room_is_what_is_left_less_what_is_kept_back) {
  StepPlan plan(10, 6, 4);
  plan.open(100, 0);
  CHECK_EQ(plan.room(), 10);
  CHECK_EQ(plan.rows(), 6);
  plan.open(4, 0);
  CHECK_EQ(plan.room(), 4);
  plan.add(0, 0, Tokens{1, 2, 3}, 2);
  CHECK_EQ(plan.room(), 1);
  CHECK_EQ(plan.rows(), 4);
  plan.open(100, 2);
  CHECK_EQ(plan.room(), 5);
  CHECK_EQ(plan.rows(), 2);
  plan.open(100, 20);
  CHECK_EQ(plan.room(), 0);
  CHECK_EQ(plan.rows(), 0);
  plan.open(-3, 0);
  CHECK_EQ(plan.room(), 0);
}

TEST(a_cleared_plan_begins_anew) {
  StepPlan plan(10, 6, 2);
  plan.open(10, 0);
  plan.add_hidden(1, 0, Tokens{4, 5}, false);
  plan.add(0, 0, Tokens{1, 2, 3}, 1);
  plan.clear();
  CHECK(plan.empty());
  CHECK_EQ(plan.tokens(), 0);
  CHECK_EQ(plan.room(), 0);
  CHECK_EQ(plan.parts_left(), 2);
  plan.open(10, 0);
  plan.add_hidden(0, 0, Tokens{9}, false);
  CHECK_EQ(plan.planned()[0].first_hidden, 0);
}

}  // namespace
}  // namespace gpt2fast
