// Continuations of one prompt: read once, side by side, each with the scores that it has alone.
#include "engine/continuation_reader.h"

#include <vector>

#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

std::shared_ptr<ContinuationWork> work_on(Tokens prompt, std::vector<Tokens> continuations,
                                          std::shared_ptr<const Prefix> prefix = nullptr) {
  return std::make_shared<ContinuationWork>(ContinuationsRequest{
      .prompt = std::move(prompt), .continuations = std::move(continuations), .prefix = std::move(prefix)});
}

void check_scores(const ContinuationWork& work) {
  const Tokens& prompt = work.request.prompt;
  for (size_t i = 0; i < work.scores.size(); ++i) {
    CHECK(work.scores[i].chosen == scores_of(joined(prompt, work.request.continuations[i]), prompt.size()));
  }
}

TEST(single_tokens_need_not_be_read) {
  const auto work = work_on(range(0, 3), {{1}, {2, 3}, {4}, {5}, {6, 7}, {8}});
  CHECK_EQ(work->take_next(), 1);
  CHECK_EQ(work->take_next(), 4);
  CHECK_EQ(work->next, size_t{6});
  CHECK_EQ(work->take_next(), -1);
  CHECK_EQ(work_on(range(0, 3), {{1}, {2}})->take_next(), -1);
}

TEST(one_reader_reads_the_prompt_and_all_continuations) {
  for (const int64_t room : {8, 3, 1}) {
    ByHand engine(1);
    const auto work = work_on(range(0, 11), {range(3, 1), range(4, 7), range(5, 2), range(9, 12), {1}});
    ContinuationReader reader(work, true);
    CHECK(engine.admit(reader) == Admitted::kYes);
    CHECK_EQ(reader.pending(), 11);
    int64_t tokens = 0;
    while (!reader.done()) tokens += engine.step(reader, room);
    CHECK_EQ(tokens, 11 + 6 + 1 + 11);  // of no continuation the last token
    check_scores(*work);
  }
}

TEST(others_wait_for_the_prompt_and_then_help) {
  ByHand engine(2);
  const auto work = work_on(range(0, 7), {range(4, 9), range(5, 9), range(6, 3)});
  ContinuationReader first(work, true);
  ContinuationReader helper(work, false);
  CHECK(engine.admit(helper) == Admitted::kLater);
  CHECK(engine.admit(first) == Admitted::kYes);
  CHECK(engine.admit(helper) == Admitted::kLater);
  engine.step(first);
  CHECK(engine.admit(helper) == Admitted::kYes);
  while (!first.done() || !helper.done()) {
    if (!first.done()) engine.step(first, 3);
    if (!helper.done()) CHECK(engine.step(helper, 3) <= 3);
  }
  check_scores(*work);
}

TEST(a_helper_without_work_is_done_before_it_has_a_slot) {
  ByHand engine(1);
  const auto work = work_on(range(0, 7), {range(4, 3)});
  ContinuationReader first(work, true);
  ContinuationReader helper(work, false);
  engine.admit(first);
  engine.step(first);
  CHECK(!helper.done());
  CHECK(engine.admit(helper) == Admitted::kNoSlot);
  engine.step(first);
  CHECK(first.done() && helper.done());
  engine.release(helper);
  check_scores(*work);
}

TEST(a_helper_finds_nothing_left_to_read) {
  ByHand engine(2);
  const auto work = work_on(range(0, 7), {range(4, 3)});
  ContinuationReader first(work, true);
  ContinuationReader helper(work, false);
  engine.admit(first);
  engine.step(first);
  CHECK(engine.admit(helper) == Admitted::kYes);
  CHECK_EQ(first.pending(), 2);
  CHECK(helper.done());
  CHECK_EQ(helper.pending(), 0);
  CHECK_EQ(engine.step(helper), 0);
  engine.run(first);
  check_scores(*work);
}

TEST(the_prompt_stays_for_later_calls) {
  ByHand engine(1);
  const Tokens prompt = range(0, 9);
  for (const int64_t read : {9, 1}) {  // the second time, all but the last token is known
    const auto work = work_on(prompt, {{5, 6}, {7, 8}});
    ContinuationReader reader(work, true);
    engine.admit(reader);
    CHECK_EQ(reader.pending(), read);
    while (!reader.done()) engine.step(reader);
    engine.release(reader);
    check_scores(*work);
  }
}

TEST(a_stored_prefix_is_not_read) {
  ByHand engine(1);
  auto prefix = std::make_shared<Prefix>(Prefix{.tokens = range(0, 5), .layers = {std::vector<float>(10)}});
  for (size_t i = 0; i < 10; ++i) prefix->layers[0][i] = static_cast<float>(i % 5);
  const auto work = work_on(range(0, 9), {{5, 6}}, prefix);
  ContinuationReader reader(work, true);
  engine.admit(reader);
  CHECK_EQ(reader.pending(), 4);
  while (!reader.done()) engine.step(reader);
  check_scores(*work);
}

TEST(a_reader_that_is_ended_is_done) {
  ByHand engine(1);
  ContinuationReader reader(work_on(range(0, 11), {range(4, 7)}), true);
  engine.admit(reader);
  engine.step(reader, 4);
  CHECK(!reader.done());
  reader.end(FinishReason::kTime);
  CHECK(reader.done());
  engine.release(reader);
  CHECK_EQ(engine.slots.free(), 1);
}

}  // namespace
}  // namespace gpt2fast
