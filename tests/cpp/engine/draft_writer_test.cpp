// Drafts: requests go to the assistant's engine, drafts of its model come back.
#include "engine/draft_writer.h"

#include <vector>

#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

struct Desk {
  explicit Desk(int64_t slots = 2)
      : engine(slots),
        exchange(std::make_shared<DraftExchange>(std::make_shared<Waker>([this] { ++deliveries; }))),
        writer(exchange, *length(20), 0, engine.options, 100) {}

  void request(const Tokens& prompt, const Tokens& output, int64_t wanted) {
    exchange->request({prompt, output}, wanted);
  }
  Tokens taken() {
    Tokens draft;
    exchange->take(draft);
    return draft;
  }
  // Makes steps until the draft is delivered; returns how many tokens they had.
  int64_t work() {
    int64_t tokens = 0;
    while (exchange->is_drafting()) tokens += engine.step(writer);
    return tokens;
  }

  int deliveries = 0;
  ByHand engine;
  std::shared_ptr<DraftExchange> exchange;
  DraftWriter writer;
};

TEST(a_request_is_taken_once) {
  Desk desk;
  Tokens prompt, output;
  int64_t wanted = 0;
  CHECK(!desk.exchange->take_request(prompt, output, wanted));
  desk.request({1, 2}, {3}, 4);
  CHECK(desk.exchange->is_drafting());
  CHECK(desk.exchange->has_request());
  CHECK(desk.exchange->take_request(prompt, output, wanted));
  CHECK(prompt == (Tokens{1, 2}));
  CHECK(output == (Tokens{3}));
  CHECK_EQ(wanted, 4);
  CHECK(!desk.exchange->has_request());
  CHECK(desk.exchange->is_drafting());
  desk.exchange->deliver(Tokens{8, 9});
  CHECK(!desk.exchange->is_drafting());
  CHECK_EQ(desk.deliveries, 1);
  CHECK(desk.taken() == (Tokens{8, 9}));
  desk.request({1, 2}, {3}, 0);  // nothing is wanted
  CHECK(!desk.exchange->is_drafting());
  CHECK(desk.taken().empty());
}

TEST(no_drafts_come_after_the_end) {
  Desk desk;
  desk.request({1}, {}, 4);
  desk.exchange->end();
  CHECK(!desk.exchange->is_drafting());
  CHECK_EQ(desk.deliveries, 1);
  desk.request({1}, {}, 4);
  CHECK(!desk.exchange->is_drafting());
  CHECK(desk.taken().empty());
}

TEST(a_writer_waits_for_its_request) {
  Desk desk;
  CHECK(desk.writer.readiness() == Readiness::kPaused);
  CHECK(desk.engine.admit(desk.writer) == Admitted::kLater);
  desk.request({1}, {}, 4);
  CHECK(desk.writer.readiness() == Readiness::kReady);
  CHECK(desk.engine.admit(desk.writer) == Admitted::kYes);
  CHECK(desk.writer.has_slot());
  CHECK(!desk.writer.done());
}

TEST(a_draft_is_what_the_assistant_would_say) {
  Desk desk;
  const Tokens prompt = range(0, 11);
  const Tokens said = FakeModel::greedy(prompt, 20);
  desk.request(prompt, {}, 4);
  desk.engine.admit(desk.writer);
  CHECK_EQ(desk.work(), 11 + 3);
  CHECK(desk.taken() == Tokens(said.begin(), said.begin() + 4));
  CHECK_EQ(desk.deliveries, 1);
  CHECK(desk.writer.readiness() == Readiness::kPaused);

  // All of it was right, and one token more came: of those, two have not been read.
  desk.request(prompt, {said.begin(), said.begin() + 5}, 3);
  CHECK_EQ(desk.work(), 2 + 2);
  CHECK(desk.taken() == Tokens(said.begin() + 5, said.begin() + 8));

  // Nothing of it was right: what was read of it does not count.
  const Tokens other{said[0], said[1], said[2], said[3], said[4], (said[5] + 1) % 24};
  desk.request(prompt, other, 2);
  CHECK_EQ(desk.work(), 1 + 1);
  CHECK(desk.taken() == FakeModel::greedy(joined(prompt, other), 2));
}

TEST(drafts_have_the_texts_own_options_and_seed) {
  ByHand engine;
  const auto options = length(20);
  options->sampling.do_sample = true;
  options->sampling.suppress_tokens = {0, 1, 2, 3, 4, 5};
  const Tokens prompt = range(0, 5);
  Tokens expected;
  TokenChooser chooser(std::make_shared<const SamplingOptions>(options->sampling), 7, {},
                       FakeModel::kVocabulary, 100);
  for (int i = 0; i < 6; ++i) {
    const std::vector<float> scores = FakeModel::scores_after(joined(prompt, expected));
    expected.push_back(chooser.choose(scores, {prompt, expected}, nullptr, false).token);
  }
  const auto exchange = std::make_shared<DraftExchange>(std::make_shared<Waker>([] {}));
  DraftWriter writer(exchange, *options, 7, engine.options, 100);
  exchange->request({prompt, std::span(expected).first(1)}, 5);
  engine.admit(writer);
  while (exchange->is_drafting()) engine.step(writer);
  Tokens draft;
  exchange->take(draft);
  CHECK(draft == Tokens(expected.begin() + 1, expected.end()));
}

TEST(without_a_slot_there_is_no_draft) {
  Desk desk(1);
  desk.engine.slots.acquire({}, {.reuses = false}, 0);
  desk.request(range(0, 5), {}, 4);
  CHECK(desk.engine.admit(desk.writer) == Admitted::kNoSlot);
  CHECK(desk.exchange->is_drafting());
  CHECK(!desk.writer.refused());
  CHECK(!desk.exchange->is_drafting());
  CHECK(desk.taken().empty());
  CHECK_EQ(desk.deliveries, 1);
}

TEST(a_writer_that_nobody_asks_does_nothing) {
  Desk desk;
  desk.writer.refused();
  CHECK_EQ(desk.deliveries, 0);
  desk.request(range(0, 5), {}, 2);
  desk.engine.admit(desk.writer);
  desk.work();
  CHECK_EQ(desk.writer.pending(), 0);
  CHECK_EQ(desk.engine.step(desk.writer), 0);
  CHECK_EQ(desk.deliveries, 1);
}

TEST(where_no_token_is_allowed_there_is_no_draft) {
  ByHand engine;
  const auto options = length(20);
  options->sampling.suppress_tokens = range(0, FakeModel::kVocabulary);
  const auto exchange = std::make_shared<DraftExchange>(std::make_shared<Waker>([] {}));
  DraftWriter writer(exchange, *options, 0, engine.options, 100);
  exchange->request({range(0, 5), {}}, 3);
  engine.admit(writer);
  CHECK_EQ(engine.step(writer), 5);
  CHECK(!exchange->is_drafting());
  Tokens draft{1};
  exchange->take(draft);
  CHECK(draft.empty());
}

TEST(drafts_end_at_the_end_of_the_assistants_context) {
  Desk desk;
  desk.request(range(0, 45), {}, 9);
  desk.engine.admit(desk.writer);
  desk.work();
  CHECK(desk.taken() == FakeModel::greedy(range(0, 45), 3));
  desk.request(range(0, 48), {}, 9);
  CHECK_EQ(desk.writer.pending(), 0);
  CHECK(!desk.exchange->is_drafting());
  CHECK(desk.taken().empty());
}

TEST(a_writer_that_lost_its_slot_reads_the_text_again) {
  Desk desk;
  desk.request(range(0, 11), {}, 4);
  desk.engine.admit(desk.writer);
  desk.work();
  desk.engine.release(desk.writer);
  desk.engine.slots.clear_idle();
  CHECK(!desk.writer.has_slot());
  const Tokens said = FakeModel::greedy(range(0, 11), 5);
  desk.request(range(0, 11), {said.begin(), said.begin() + 2}, 3);
  CHECK(desk.engine.admit(desk.writer) == Admitted::kYes);
  CHECK_EQ(desk.work(), 13 + 2);
  CHECK(desk.taken() == Tokens(said.begin() + 2, said.end()));
}

TEST(a_writer_that_is_ended_delivers) {
  Desk desk;
  desk.request(range(0, 11), {}, 4);
  desk.engine.admit(desk.writer);
  desk.engine.step(desk.writer);
  desk.writer.end(FinishReason::kCancelled);
  CHECK(desk.writer.done());
  CHECK(!desk.exchange->is_drafting());
  CHECK_EQ(desk.deliveries, 1);
}

}  // namespace
}  // namespace gpt2fast
