// How a text gets its slot, and what is already known of its beginning.
#include "engine/admission.h"

#include <vector>

#include "support/by_hand.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

using namespace testing;

// A text that holds a slot.
class Holder final : public Participant {
 public:
  Holder(ByHand& engine, Tokens tokens, int64_t cached_length, uint64_t scope = 0)
      : tokens_(std::move(tokens)), cached_length_(cached_length), scope_(scope) {
    slot_ = engine.slots.acquire({}, {.reuses = false}, 0).slot;
    const std::vector<float> keys(tokens_.begin(), tokens_.begin() + cached_length);
    engine.model.cache().write(0, slot_, 0, cached_length, keys.data(), keys.data());
    engine.holders.push_back(this);
  }
  Admitted admit(Admission&) override { return Admitted::kYes; }
  bool has_slot() const override { return true; }
  void release(SlotPool&) override {}
  SlotContents contents() const override {
    ++asked;
    return {slot_, tokens_, cached_length_, scope_};
  }
  Readiness readiness() override { return ready; }
  bool decodes() override { return false; }
  int64_t pending() override { return 0; }
  void plan(StepPlan&) override {}
  void use(const StepResults&) override {}
  bool done() const override { return false; }
  void end(FinishReason) override {}

  Readiness ready = Readiness::kReady;
  mutable int asked = 0;

 private:
  Tokens tokens_;
  int64_t cached_length_;
  uint64_t scope_;
  int64_t slot_ = -1;
};

Admission::Grant acquire(ByHand& engine, const Tokens& tokens, Sharing sharing = {},
                         const Prefix* prefix = nullptr) {
  return Admission(engine.model.cache(), engine.slots, engine.holders).acquire(tokens, sharing, prefix, 0);
}

Tokens held(ByHand& engine, int64_t slot, int64_t length) {
  std::vector<float> keys(static_cast<size_t>(length));
  std::vector<float> values(keys);
  engine.model.cache().read(0, slot, 0, length, keys.data(), values.data());
  return {keys.begin(), keys.end()};
}

TEST(without_a_free_slot_there_is_none) {
  ByHand engine(1);
  const Holder holder(engine, range(0, 20), 20);
  CHECK(acquire(engine, range(0, 20)).admitted == Admitted::kNoSlot);
  Admission admission(engine.model.cache(), engine.slots, engine.holders);
  CHECK_EQ(admission.free_slots(), 0);
  CHECK_EQ(admission.acquire_empty(0), -1);
}

TEST(a_live_text_lends_what_it_has_of_the_beginning) {
  ByHand engine(2);
  const Holder holder(engine, range(0, 12), 12);
  const Tokens text = joined(range(0, 10), {20, 21});
  const Admission::Grant grant = acquire(engine, text);
  CHECK(grant.admitted == Admitted::kYes);
  CHECK_EQ(grant.cached_length, 10);
  CHECK(held(engine, grant.slot, 10) == range(0, 10));
}

TEST(the_last_token_is_left_to_compute) {
  ByHand engine(2);
  const Holder holder(engine, range(0, 12), 12);
  CHECK_EQ(acquire(engine, range(0, 12)).cached_length, 11);
}

TEST(the_one_that_has_most_lends) {
  ByHand engine(4);
  const Tokens idle_text = range(0, 8);
  const int64_t idle = engine.slots.acquire({}, {.reuses = false}, 0).slot;
  engine.slots.release(idle, idle_text);
  const Holder little(engine, joined(range(0, 6), {20}), 7);
  const Admission::Grant from_idle = acquire(engine, range(0, 14));
  CHECK_EQ(from_idle.slot, idle);
  CHECK_EQ(from_idle.cached_length, 8);
  const Holder much(engine, range(0, 13), 13);
  CHECK_EQ(acquire(engine, range(0, 14)).cached_length, 13);
}

TEST(a_live_text_of_another_scope_lends_nothing_and_is_not_waited_for) {
  ByHand engine(5);
  const Holder whole(engine, range(0, 12), 12, 1);
  const Holder reading(engine, range(100, 130), 0, 1);
  CHECK_EQ(acquire(engine, range(0, 12), {.scope = 2}).cached_length, 0);
  CHECK(acquire(engine, range(100, 130), {.scope = 2}).admitted == Admitted::kYes);
  CHECK(acquire(engine, range(100, 130), {.scope = 1}).admitted == Admitted::kLater);
  CHECK_EQ(acquire(engine, range(0, 12), {.scope = 1}).cached_length, 11);
}

TEST(what_another_text_is_about_to_compute_is_waited_for) {
  ByHand engine(2);
  Holder reading(engine, range(0, 20), 10);
  CHECK(acquire(engine, range(0, 20)).admitted == Admitted::kLater);
  CHECK_EQ(engine.slots.free(), 1);
  // But not where little is shared, by who shares nothing, or for a text that does not go on.
  const Admission::Grant little = acquire(engine, joined(range(0, 15), {0, 0}));
  CHECK(little.admitted == Admitted::kYes);
  CHECK_EQ(little.cached_length, 10);
  engine.slots.release(little.slot, {});
  const Admission::Grant alone = acquire(engine, range(0, 20), {.reuses = false});
  CHECK(alone.admitted == Admitted::kYes);
  CHECK_EQ(alone.cached_length, 0);
  engine.slots.release(alone.slot, {});
  reading.ready = Readiness::kPaused;
  CHECK_EQ(acquire(engine, range(0, 20)).cached_length, 10);
}

TEST(a_text_that_a_hook_works_on_is_left_alone) {
  ByHand engine(2);
  Holder away(engine, range(0, 20), 20);
  away.ready = Readiness::kAway;
  CHECK_EQ(acquire(engine, range(0, 20)).cached_length, 0);
  CHECK_EQ(away.asked, 0);
}

TEST(a_stored_prefix_is_restored_where_it_is_longer) {
  ByHand engine(3);
  Prefix prefix{.tokens = range(0, 8), .layers = {std::vector<float>(16)}};
  for (size_t i = 0; i < 16; ++i) prefix.layers[0][i] = static_cast<float>(i % 8);
  const Admission::Grant restored = acquire(engine, joined(range(0, 6), {20, 21}), {}, &prefix);
  CHECK_EQ(restored.cached_length, 6);
  CHECK(held(engine, restored.slot, 6) == range(0, 6));
  CHECK_EQ(acquire(engine, range(0, 8), {}, &prefix).cached_length, 7);
  const Holder holder(engine, range(0, 12), 12);
  engine.slots.release(restored.slot, {});
  CHECK_EQ(acquire(engine, range(0, 12), {}, &prefix).cached_length, 11);
}

TEST(queries_and_hits_are_counted_in_tokens) {
  ByHand engine(4);
  const Holder holder(engine, range(0, 12), 12);
  Admission admission(engine.model.cache(), engine.slots, engine.holders);
  admission.acquire(range(0, 10), {}, nullptr, 0);
  admission.acquire(range(5, 3), {}, nullptr, 0);
  admission.acquire(range(0, 10), {.reuses = false}, nullptr, 0);
  CHECK_EQ(admission.prefix_queries(), 13);
  CHECK_EQ(admission.prefix_hits(), 9);
}

}  // namespace
}  // namespace gpt2fast
