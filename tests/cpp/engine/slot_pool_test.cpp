// Slots: who gets which, and what is reused of earlier sequences.
#include "engine/slot_pool.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "support/testing.h"

namespace gpt2fast {
namespace {

constexpr int64_t kPositions = 64;

KvCache small_cache(int64_t slots) {
  return {{.layers = 2, .heads = 2, .head_dim = 3, .positions = kPositions, .format = CacheFormat::kFloat32},
          slots};
}

// Fills a slot with values that tell slot, layer and position apart, as a step would.
void fill(KvCache& cache, int64_t slot, int64_t length, float value) {
  for (int64_t layer = 0; layer < cache.layers(); ++layer) {
    std::vector<float> keys(static_cast<size_t>(2 * length * 3));
    for (size_t i = 0; i < keys.size(); ++i)
      keys[i] = value + static_cast<float>(i) + 1000.0f * static_cast<float>(layer);
    cache.write(layer, slot, 0, length, keys.data(), keys.data());
  }
}

std::vector<float> keys_of(const KvCache& cache, int64_t layer, int64_t slot, int64_t length) {
  std::vector<float> keys(static_cast<size_t>(2 * length * 3));
  std::vector<float> values(keys.size());
  cache.read(layer, slot, 0, length, keys.data(), values.data());
  return keys;
}

std::vector<int32_t> range(int32_t first, int32_t count) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

TEST(grants_each_slot_once) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 0);
  const auto prompt = range(0, 4);
  const auto first = pool.acquire(prompt, {}, 0);
  const auto second = pool.acquire(prompt, {}, 0);
  CHECK(first.slot >= 0 && second.slot >= 0 && first.slot != second.slot);
  CHECK_EQ(pool.acquire(prompt, {}, 0).slot, -1);
  pool.release(first.slot, {});
  CHECK_EQ(pool.acquire(prompt, {}, 0).slot, first.slot);
}

TEST(slots_are_counted) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 0);
  CHECK_EQ(pool.size(), 2);
  CHECK_EQ(pool.free(), 2);
  const int64_t slot = pool.acquire({}, {.reuses = false}, 0).slot;
  CHECK_EQ(pool.free(), 1);
  pool.release(slot, {});
  CHECK_EQ(pool.free(), 2);
}

TEST(a_slot_is_given_back_once) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 0);
  const int64_t slot = pool.acquire({}, {.reuses = false}, 0).slot;
  pool.release(slot, {});
  CHECK_THROWS(pool.release(slot, {}), std::logic_error);
  CHECK_EQ(pool.free(), 1);
}

TEST(a_common_prefix_is_taken_over) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  const auto first = pool.acquire(tokens, {}, 0);
  CHECK_EQ(first.cached_length, 0);
  pool.release(first.slot, tokens);
  auto longer = range(0, 20);
  const auto second = pool.acquire(longer, {}, 0);
  CHECK_EQ(second.cached_length, 10);
  pool.release(second.slot, tokens);
  CHECK_EQ(pool.acquire(longer, {.reuses = false}, 0).cached_length, 0);
}

TEST(a_prefix_of_another_scope_is_not_taken_over) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  pool.release(pool.acquire(tokens, {.scope = 1}, 0).slot, tokens, 1);
  const auto other = pool.acquire(tokens, {.scope = 2}, 0);
  CHECK_EQ(other.cached_length, 0);
  pool.release(other.slot, tokens, 2);
  CHECK_EQ(pool.acquire(tokens, {.scope = 1}, 0).cached_length, 9);
  CHECK_EQ(pool.acquire(tokens, {.scope = 2}, 0).cached_length, 9);
}

TEST(the_last_prompt_token_is_always_left_to_compute) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  pool.release(pool.acquire(tokens, {}, 0).slot, tokens);
  CHECK_EQ(pool.acquire(tokens, {}, 0).cached_length, 9);
}

TEST(a_long_sequence_keeps_its_slot_and_lends_a_copy) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 40);
  const auto first = pool.acquire(tokens, {}, 0);
  fill(cache, first.slot, 40, 7.0f);
  pool.release(first.slot, tokens);
  auto branch = range(0, 10);
  branch.push_back(99);
  const auto second = pool.acquire(branch, {}, 0);
  CHECK(second.slot != first.slot);
  CHECK_EQ(second.cached_length, 10);
  for (int64_t layer = 0; layer < 2; ++layer) {
    CHECK(keys_of(cache, layer, second.slot, 10) == keys_of(cache, layer, first.slot, 10));
  }
  pool.release(second.slot, {});
  CHECK_EQ(pool.acquire(tokens, {}, 0).cached_length, 39);
}

TEST(the_budget_forgets_the_least_recently_used) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 15 * cache.bytes_per_position());
  const auto a = range(0, 10);
  const auto b = range(100, 10);
  const auto slot_a = pool.acquire(a, {}, 0).slot;
  const auto slot_b = pool.acquire(b, {}, 0).slot;
  pool.release(slot_a, a);
  pool.release(slot_b, b);
  CHECK_EQ(pool.acquire(b, {}, 0).cached_length, 9);
  CHECK_EQ(pool.acquire(a, {}, 0).cached_length, 0);
}

// Whether a slot's memory still holds what was written there: memory that was given back reads as zeros.
bool holds_something(const KvCache& cache, int64_t slot) {
  const char* bytes = static_cast<const char*>(cache.data()) + slot * cache.shape().slot_bytes();
  return std::any_of(bytes, bytes + cache.shape().slot_bytes(), [](char byte) { return byte != 0; });
}

// A pool whose texts write what they hold, so that it shows where memory was given back.
struct Pages {
  explicit Pages(int64_t slots, int64_t budget_tokens)
      : cache({.heads = 2, .head_dim = 64, .positions = 1024, .format = CacheFormat::kFloat32}, slots),
        pool(cache, budget_tokens * cache.bytes_per_position()) {}

  int64_t begin(int64_t length) {
    const int64_t slot = pool.acquire({}, {.reuses = false}, length).slot;
    const std::vector<float> ones(static_cast<size_t>(2 * length * 64), 1.0f);
    cache.write(0, slot, 0, length, ones.data(), ones.data());
    return slot;
  }
  void end(int64_t slot, int32_t length) { pool.release(slot, range(0, length)); }
  bool hold(int64_t slot) const { return holds_something(cache, slot); }

  KvCache cache;
  SlotPool pool;
};

TEST(as_many_empty_slots_keep_their_memory_as_texts_ran_at_once) {
  Pages pages(4, 0);
  const int64_t first = pages.begin(64), second = pages.begin(64), third = pages.begin(64);
  for (const int64_t slot : {first, second, third}) pages.end(slot, 64);
  CHECK(pages.hold(first) && pages.hold(second) && pages.hold(third));
  std::vector<int64_t> again{pages.begin(64), pages.begin(64), pages.begin(64)};
  std::ranges::sort(again);
  CHECK(again == (std::vector<int64_t>{first, second, third}));  // and not the fourth
}

#ifndef _WIN32  // where memory may still hold what it held when it was given back
TEST(memory_of_many_texts_goes_when_few_have_run_for_a_while) {
  Pages pages(4, 0);
  std::vector<int64_t> slots;
  for (int i = 0; i < 4; ++i) slots.push_back(pages.begin(1024));
  for (const int64_t slot : slots) pages.end(slot, 1024);
  for (int i = 0; i < 8; ++i) pages.end(pages.begin(1024), 1024);  // twice as many texts as there are slots
  CHECK_EQ(std::ranges::count_if(slots, [&](int64_t slot) { return pages.hold(slot); }), 1);
}

TEST(clearing_gives_all_memory_back) {
  Pages pages(2, 100);
  const int64_t first = pages.begin(64), second = pages.begin(100);
  pages.end(first, 64);   // remembered
  pages.end(second, 90);  // the first is forgotten
  CHECK(pages.hold(first) && pages.hold(second));
  pages.pool.clear_idle();
  CHECK(!pages.hold(first) && !pages.hold(second));
}

TEST(texts_of_which_nothing_is_remembered_take_memory_too) {
  Pages pages(2, 0);
  const int64_t slot = pages.begin(200);
  pages.pool.release(slot, {});
  CHECK(pages.hold(slot));
  CHECK_EQ(pages.begin(200), slot);
  pages.pool.release(slot, {});
  pages.pool.clear_idle();
  CHECK(!pages.hold(slot));
}
#endif

TEST(a_text_gets_the_least_memory_that_suffices) {
  Pages pages(3, 0);
  const int64_t large = pages.begin(1000), small = pages.begin(100), medium = pages.begin(300);
  pages.end(large, 1000);
  pages.end(small, 100);
  pages.end(medium, 300);
  CHECK_EQ(pages.begin(200), medium);
  CHECK_EQ(pages.begin(200), large);
  CHECK_EQ(pages.begin(200), small);  // as no other is left: it gets more
}

TEST(where_none_suffices_a_text_gets_the_most_memory) {
  Pages pages(3, 0);
  const int64_t small = pages.begin(100), medium = pages.begin(300);
  pages.end(medium, 300);
  pages.end(small, 100);
  CHECK_EQ(pages.begin(500), medium);
}

TEST(what_has_to_be_forgotten_for_a_text_leaves_its_memory_to_it) {
  Pages pages(4, 1000);
  const int64_t old = pages.begin(600);
  pages.end(old, 600);
  const int64_t fresh = pages.begin(300);
  CHECK(fresh != old);  // the budget has room for both
  pages.end(fresh, 300);
  CHECK_EQ(pages.begin(500), old);  // not for this, too, so that the oldest one goes
}

TEST(a_short_text_does_not_hide_how_much_memory_a_slot_has) {
  Pages pages(2, 0);
  const int64_t slot = pages.begin(1000);
  pages.end(slot, 1000);
  CHECK_EQ(pages.begin(10), slot);
  pages.end(slot, 10);
  CHECK_EQ(pages.begin(1000), slot);
}

TEST(clearing_forgets_everything_idle) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  pool.release(pool.acquire(tokens, {}, 0).slot, tokens);
  pool.clear_idle();
  CHECK_EQ(pool.acquire(tokens, {}, 0).cached_length, 0);
}

}  // namespace
}  // namespace gpt2fast
