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
  const auto first = pool.acquire(prompt, {});
  const auto second = pool.acquire(prompt, {});
  CHECK(first.slot >= 0 && second.slot >= 0 && first.slot != second.slot);
  CHECK_EQ(pool.acquire(prompt, {}).slot, -1);
  pool.release(first.slot, {});
  CHECK_EQ(pool.acquire(prompt, {}).slot, first.slot);
}

TEST(of_empty_slots_the_one_that_was_emptied_last_keeps_its_memory) {
  KvCache cache = small_cache(4);
  SlotPool pool(cache, 4 * cache.bytes_per_position());
  const auto acquired = [&] { return pool.acquire({}, {.reuses = false}).slot; };
  const int64_t first = acquired();
  pool.release(first, range(0, 5));  // more than is remembered, so it is emptied
  CHECK_EQ(acquired(), first);
  const int64_t second = acquired();
  pool.release(second, range(0, 5));
  CHECK_EQ(acquired(), second);  // as the first is in use
  pool.release(second, range(0, 1));
  const int64_t third = acquired();
  pool.release(third, range(10, 3));
  pool.release(first, range(20, 1));  // the second is forgotten, which was used longest ago
  CHECK_EQ(acquired(), second);
  pool.release(second, range(30, 4));  // and now both others are
  CHECK_EQ(pool.acquire(range(30, 4), {}).slot, second);
  CHECK_EQ(acquired(), first);
}

TEST(slots_are_counted) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 0);
  CHECK_EQ(pool.size(), 2);
  CHECK_EQ(pool.free(), 2);
  const int64_t slot = pool.acquire({}, {.reuses = false}).slot;
  CHECK_EQ(pool.free(), 1);
  pool.release(slot, {});
  CHECK_EQ(pool.free(), 2);
}

TEST(a_slot_is_given_back_once) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 0);
  const int64_t slot = pool.acquire({}, {.reuses = false}).slot;
  pool.release(slot, {});
  CHECK_THROWS(pool.release(slot, {}), std::logic_error);
  CHECK_EQ(pool.free(), 1);
}

TEST(a_common_prefix_is_taken_over) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  const auto first = pool.acquire(tokens, {});
  CHECK_EQ(first.cached_length, 0);
  pool.release(first.slot, tokens);
  auto longer = range(0, 20);
  const auto second = pool.acquire(longer, {});
  CHECK_EQ(second.cached_length, 10);
  pool.release(second.slot, tokens);
  CHECK_EQ(pool.acquire(longer, {.reuses = false}).cached_length, 0);
}

TEST(a_prefix_of_another_scope_is_not_taken_over) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  pool.release(pool.acquire(tokens, {.scope = 1}).slot, tokens, 1);
  const auto other = pool.acquire(tokens, {.scope = 2});
  CHECK_EQ(other.cached_length, 0);
  pool.release(other.slot, tokens, 2);
  CHECK_EQ(pool.acquire(tokens, {.scope = 1}).cached_length, 9);
  CHECK_EQ(pool.acquire(tokens, {.scope = 2}).cached_length, 9);
}

TEST(the_last_prompt_token_is_always_left_to_compute) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  pool.release(pool.acquire(tokens, {}).slot, tokens);
  CHECK_EQ(pool.acquire(tokens, {}).cached_length, 9);
}

TEST(a_long_sequence_keeps_its_slot_and_lends_a_copy) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 40);
  const auto first = pool.acquire(tokens, {});
  fill(cache, first.slot, 40, 7.0f);
  pool.release(first.slot, tokens);
  auto branch = range(0, 10);
  branch.push_back(99);
  const auto second = pool.acquire(branch, {});
  CHECK(second.slot != first.slot);
  CHECK_EQ(second.cached_length, 10);
  for (int64_t layer = 0; layer < 2; ++layer) {
    CHECK(keys_of(cache, layer, second.slot, 10) == keys_of(cache, layer, first.slot, 10));
  }
  pool.release(second.slot, {});
  CHECK_EQ(pool.acquire(tokens, {}).cached_length, 39);
}

TEST(the_budget_forgets_the_least_recently_used) {
  KvCache cache = small_cache(2);
  SlotPool pool(cache, 15 * cache.bytes_per_position());
  const auto a = range(0, 10);
  const auto b = range(100, 10);
  const auto slot_a = pool.acquire(a, {}).slot;
  const auto slot_b = pool.acquire(b, {}).slot;
  pool.release(slot_a, a);
  pool.release(slot_b, b);
  CHECK_EQ(pool.acquire(b, {}).cached_length, 9);
  CHECK_EQ(pool.acquire(a, {}).cached_length, 0);
}

// Whether a slot's memory still holds what was written there: memory that was given back reads as zeros.
bool holds_something(const KvCache& cache, int64_t slot) {
  const char* bytes = static_cast<const char*>(cache.data()) + slot * cache.shape().slot_bytes();
  return std::any_of(bytes, bytes + cache.shape().slot_bytes(), [](char byte) { return byte != 0; });
}

TEST(one_empty_slot_keeps_its_memory) {
  KvCache cache({.heads = 2, .head_dim = 64, .positions = 64, .format = CacheFormat::kFloat32}, 3);
  SlotPool pool(cache, 0);
  const auto prompt = range(0, 64);
  const std::vector<float> ones(2 * 64 * 64, 1.0f);
  const auto used = [&](int64_t slot) {
    cache.write(0, slot, 0, 64, ones.data(), ones.data());
    pool.release(slot, prompt);
  };
  const int64_t first = pool.acquire(prompt, {}).slot;
  const int64_t second = pool.acquire(prompt, {}).slot;
  used(first);
  CHECK(holds_something(cache, first));
  used(second);
  CHECK(!holds_something(cache, first));
  CHECK(holds_something(cache, second));
  CHECK_EQ(pool.acquire(prompt, {}).slot, second);  // rather than one without memory
  used(second);
  CHECK(holds_something(cache, second));
  pool.clear_idle();
  CHECK(!holds_something(cache, second));
}

TEST(the_slot_with_most_memory_keeps_it) {
  KvCache cache({.heads = 2, .head_dim = 64, .positions = 128, .format = CacheFormat::kFloat32}, 2);
  SlotPool pool(cache, 0);
  const auto long_text = range(0, 128), short_text = range(0, 64);
  const std::vector<float> ones(2 * 128 * 64, 1.0f);
  const int64_t first = pool.acquire(long_text, {}).slot;
  const int64_t second = pool.acquire(short_text, {}).slot;
  cache.write(0, first, 0, 128, ones.data(), ones.data());
  cache.write(0, second, 0, 64, ones.data(), ones.data());
  pool.release(first, long_text);
  pool.release(second, short_text);
  CHECK(holds_something(cache, first));
  CHECK(!holds_something(cache, second));
  // A short text in the slot does not make it forget how much memory it has.
  CHECK_EQ(pool.acquire(short_text, {}).slot, first);
  CHECK_EQ(pool.acquire(short_text, {}).slot, second);
  cache.write(0, second, 0, 64, ones.data(), ones.data());
  pool.release(first, short_text);
  pool.release(second, short_text);
  CHECK(holds_something(cache, first));
  CHECK(!holds_something(cache, second));
}

TEST(clearing_forgets_everything_idle) {
  KvCache cache = small_cache(1);
  SlotPool pool(cache, 1 << 20);
  const auto tokens = range(0, 10);
  pool.release(pool.acquire(tokens, {}).slot, tokens);
  pool.clear_idle();
  CHECK_EQ(pool.acquire(tokens, {}).cached_length, 0);
}

}  // namespace
}  // namespace gpt2fast
