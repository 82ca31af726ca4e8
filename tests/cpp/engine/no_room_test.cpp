// Participants for whom a step has no tokens, or no row of logits, left: they add nothing, and lose nothing.
#include <memory>
#include <utility>
#include <vector>

#include "engine/beam_generation.h"
#include "engine/continuation_reader.h"
#include "engine/draft_writer.h"
#include "engine/live_sequence.h"
#include "engine/text_reader.h"
#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

// The participant wants all that is left of its prompt, and the logits behind it.
void check_adds_nothing(ByHand& engine, Participant& participant) {
  CHECK(engine.admit(participant) == Admitted::kYes);
  const int64_t pending = participant.pending();
  for (const auto& [tokens, rows] : {std::pair<int64_t, int64_t>(0, 8), std::pair<int64_t, int64_t>(8, 0)}) {
    StepPlan plan(8, rows, 4);
    plan.open(tokens, 0);
    participant.plan(plan);
    CHECK(plan.empty());
    CHECK_EQ(participant.pending(), pending);
  }
}

TEST(a_text_waits_for_room) {
  ByHand engine;
  LiveSequence text({range(0, 5), 0, nullptr}, length(6), engine.options, false,
                    std::make_shared<Waker>([] {}));
  check_adds_nothing(engine, text);
  engine.run(text);
  CHECK(text.result().tokens == FakeModel::greedy(range(0, 5), 6));
}

TEST(beams_wait_for_room) {
  ByHand engine;
  const auto options = length(4);
  options->num_beams = 2;
  BeamGeneration beams({range(0, 5), 0, nullptr}, options, engine.options);
  check_adds_nothing(engine, beams);
  engine.run(beams);
  CHECK(beams.results()[0].tokens == expected_beams(range(0, 5), *options)[0].tokens);
}

TEST(readers_of_continuations_wait_for_room) {
  ByHand engine;
  const auto work = std::make_shared<ContinuationWork>(
      ContinuationsRequest{.prompt = range(0, 5), .continuations = {range(3, 4)}, .prefix = nullptr});
  ContinuationReader reader(work, true);
  check_adds_nothing(engine, reader);
  engine.run(reader);
  CHECK(work->scores[0].chosen == scores_of(joined(range(0, 5), range(3, 4)), 5));
}

TEST(readers_of_logits_wait_for_room) {
  ByHand engine;
  std::vector<float> logits(5 * FakeModel::kVocabulary);
  const Tokens tokens = range(0, 5);
  LogitsReader reader(tokens, std::nullopt, logits.data());
  check_adds_nothing(engine, reader);
  engine.run(reader);
  const std::vector<float> last(logits.end() - FakeModel::kVocabulary, logits.end());
  CHECK(last == FakeModel::scores_after(tokens));
}

TEST(writers_of_drafts_wait_for_room) {
  ByHand engine;
  const auto exchange = std::make_shared<DraftExchange>(std::make_shared<Waker>([] {}));
  DraftWriter writer(exchange, *length(20), 0, engine.options, 100);
  exchange->request({range(0, 5), {}}, 3);
  check_adds_nothing(engine, writer);
  engine.run(writer);
  Tokens draft;
  exchange->take(draft);
  CHECK(draft == FakeModel::greedy(range(0, 5), 3));
}

}  // namespace
}  // namespace gpt2fast
