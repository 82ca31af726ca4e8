// How much of a prompt a step may take, by the times that steps have taken.
#include "engine/step_budget.h"

#include "support/testing.h"

namespace gpt2fast {
namespace {

TEST(some_tokens_are_read_while_no_times_are_known) {
  CHECK_EQ(StepBudget(128, 2.0).prompt_tokens(4), 16);
  CHECK_EQ(StepBudget(8, 2.0).prompt_tokens(4), 8);
  StepBudget half(128, 2.0);
  half.observe(4, 0, 1.0);
  CHECK_EQ(half.prompt_tokens(4), 16);
  StepBudget empty(128, 2.0);
  empty.observe(0, 0, 1.0);  // of a step of nothing
  empty.observe(0, 32, 2.0);
  CHECK_EQ(empty.prompt_tokens(4), 16);
}

TEST(prompts_lengthen_a_step_by_the_slowdown) {
  for (const auto& [slowdown, tokens] : {std::pair(2.0, 16), std::pair(1.5, 8), std::pair(3.0, 32)}) {
    StepBudget budget(128, slowdown);
    budget.observe(4, 0, 1.0);
    budget.observe(0, 32, 2.0);  // 1 / 16 s a token
    CHECK_EQ(budget.prompt_tokens(4), tokens);
  }
}

TEST(one_token_at_least_and_a_whole_step_at_most) {
  StepBudget none(128, 1.0);
  none.observe(4, 0, 1.0);
  none.observe(0, 32, 2.0);
  CHECK_EQ(none.prompt_tokens(4), 1);
  StepBudget endless(128, 1e9);
  endless.observe(4, 0, 1.0);
  endless.observe(0, 32, 2.0);
  CHECK_EQ(endless.prompt_tokens(4), 128);
}

TEST(a_mixed_step_tells_what_its_prompt_tokens_took) {
  StepBudget budget(128, 2.0);
  budget.observe(4, 8, 9.0);  // of no use as long as nothing is known of decoding alone
  CHECK_EQ(budget.prompt_tokens(4), 16);
  budget.observe(4, 0, 1.0);
  CHECK_EQ(budget.prompt_tokens(4), 16);
  budget.observe(4, 8, 1.5);  // half a second for 8 tokens
  CHECK_EQ(budget.prompt_tokens(4), 16);
  budget.observe(4, 8, 1.0);              // as fast as without: one of about ten measurements
  CHECK_EQ(budget.prompt_tokens(4), 15);  // 17 if the step had not come as a surprise
}

TEST(one_step_that_is_held_up_changes_little) {
  StepBudget budget(128, 2.0);
  budget.observe(4, 0, 1.0);
  budget.observe(0, 32, 2.0);
  budget.observe(4, 0, 100.0);  // counts as 1.5 s
  CHECK_EQ(budget.prompt_tokens(4), 16);
  budget.observe(0, 32, 100.0);  // as 3 s
  CHECK_EQ(budget.prompt_tokens(4), 16);
  budget.observe(4, 16, 100.0);
  CHECK_EQ(budget.prompt_tokens(4), 11);
}

TEST(steps_of_uncertain_length_get_less) {
  StepBudget budget(128, 2.0);
  budget.observe(4, 0, 1.0);
  budget.observe(4, 16, 2.0);
  CHECK_EQ(budget.prompt_tokens(4), 16);
  for (int i = 0; i < 100; ++i) {
    budget.observe(4, 16, 2.0 * 1.25);
    budget.observe(4, 16, 2.0 * 0.75);
  }
  // A quarter longer or shorter: aims at 2 / (1 + 2 / 4) times a step without prompts instead of twice.
  CHECK(budget.prompt_tokens(4) >= 5 && budget.prompt_tokens(4) <= 6);
  for (int i = 0; i < 100; ++i) budget.observe(4, 16, 2.0);
  CHECK(budget.prompt_tokens(4) >= 15);
}

TEST(a_machine_that_has_become_slower_is_followed) {
  StepBudget budget(128, 2.0);
  budget.observe(0, 32, 2.0);
  budget.observe(4, 0, 0.5);
  CHECK_EQ(budget.prompt_tokens(4), 8);
  for (int i = 0; i < 60; ++i) budget.observe(4, 0, 2.0);
  CHECK_EQ(budget.prompt_tokens(4), 31);
  for (int i = 0; i < 60; ++i) budget.observe(4, 32, 18.0);  // half a second a token
  CHECK_EQ(budget.prompt_tokens(4), 3);  // 2 s at most, a little less as steps still surprise
}

TEST(the_nearest_number_of_texts_counts) {
  StepBudget budget(128, 2.0);
  budget.observe(0, 32, 2.0);
  budget.observe(2, 0, 0.5);
  budget.observe(10, 0, 2.0);
  CHECK_EQ(budget.prompt_tokens(1), 8);
  CHECK_EQ(budget.prompt_tokens(5), 8 + 3);
  CHECK_EQ(budget.prompt_tokens(7), 32);
  CHECK_EQ(budget.prompt_tokens(50), 32 + 40);
  CHECK_EQ(budget.prompt_tokens(500), 128);
}

TEST(more_texts_than_were_ever_decoded_alone_do_not_make_prompts_seem_slow) {
  StepBudget budget(128, 2.0);
  budget.observe(0, 32, 2.0);
  budget.observe(1, 0, 1.0);
  for (int i = 0; i < 100; ++i) budget.observe(17, 16, 3.0);  // 32 tokens more than the one, 1 / 16 s each
  CHECK_EQ(budget.prompt_tokens(17), 32);
}

TEST(a_crowd_of_prompts_counts_as_decoded_but_for_one) {
  StepBudget budget(128, 2.0);
  budget.observe(0, 32, 2.0);
  budget.observe(1, 0, 0.25);
  budget.observe(4, 0, 0.5);
  budget.observe(32, 0, 2.0);
  CHECK_EQ(budget.prompt_tokens(1), 4);
  CHECK_EQ(budget.prompt_tokens(1, 1), 4);
  CHECK_EQ(budget.prompt_tokens(1, 4), 8);
  CHECK_EQ(budget.prompt_tokens(4, 1), 8);
  CHECK_EQ(budget.prompt_tokens(1, 32), 32);
  CHECK_EQ(budget.prompt_tokens(31, 2), 32);
}

TEST(times_are_running_means) {
  StepBudget budget(1000, 2.0);
  budget.observe(0, 1, 0.0625);
  budget.observe(1, 0, 1.0);
  CHECK_EQ(budget.prompt_tokens(1), 16);
  budget.observe(1, 0, 1.25);  // 1 + (1.25 - 1) / 10
  budget.observe(0, 1, 0.03125);
  CHECK_EQ(budget.prompt_tokens(1), 17);  // 1.025 / (0.0625 - 0.003125)
}

}  // namespace
}  // namespace gpt2fast
