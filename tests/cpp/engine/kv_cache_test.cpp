// The cache of all sequences: slots that don't touch each other, copies, restored prefixes, given-back
// memory.
#include "engine/kv_cache.h"

#include <algorithm>
#include <vector>

#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::count_different;
using gpt2fast::testing::random_normal;

namespace {

using Floats = std::vector<float>;

constexpr CacheShape kShape = {
    .layers = 2, .heads = 2, .head_dim = 16, .positions = 100, .format = CacheFormat::kFloat32};

size_t half_size(int64_t length) { return static_cast<size_t>(kShape.heads * length * kShape.head_dim); }

// Keys, then values.
Floats read(const KvCache& cache, int64_t layer, int64_t slot, int64_t first, int64_t length) {
  Floats both(2 * half_size(length));
  cache.read(layer, slot, first, length, both.data(), both.data() + half_size(length));
  return both;
}

Floats fill(KvCache& cache, int64_t layer, int64_t slot, int64_t length, uint32_t seed) {
  const Floats both = random_normal(static_cast<int64_t>(2 * half_size(length)), 1, seed);
  cache.write(layer, slot, 0, length, both.data(), both.data() + half_size(length));
  return both;
}

// As many heads and layers as the largest GPT-2 has.
constexpr CacheShape kLargeShape = {
    .layers = 48, .heads = 25, .head_dim = 64, .positions = 40, .format = CacheFormat::kFloat32};

TEST(a_cache_of_large_blocks_holds_what_is_written) {
  KvCache cache(kLargeShape, 2);
  const int64_t size = 25 * 40 * 64;
  const Floats keys = random_normal(size, 1, 3), values = random_normal(size, 1, 4);
  cache.write(47, 1, 0, 40, keys.data(), values.data());
  cache.copy(1, 0, 0, 40);
  Floats found_keys(keys.size()), found_values(values.size());
  cache.read(47, 0, 0, 40, found_keys.data(), found_values.data());
  CHECK_EQ(count_different(found_keys, keys), 0);
  CHECK_EQ(count_different(found_values, values), 0);
}

bool is_zero(const Floats& values) {
  return std::ranges::all_of(values, [](float x) { return x == 0; });
}

}  // namespace

TEST(sizes_follow_from_the_shape) {
  const KvCache cache(kShape, 3);
  CHECK_EQ(cache.slots(), int64_t{3});
  CHECK_EQ(cache.layers(), int64_t{2});
  CHECK_EQ(cache.bytes_per_position(), int64_t{2 * 2 * 2 * 16 * 4});       // keys and values, layers, heads
  CHECK_EQ(cache.bytes_per_slot(), int64_t{2 * 64} * 2 * 2 * 2 * 16 * 4);  // two blocks of 64 positions
}

TEST(slots_and_layers_are_separate) {
  KvCache cache(kShape, 3);
  const Floats written = fill(cache, 1, 1, 100, 1);
  CHECK_EQ(count_different(read(cache, 1, 1, 0, 100), written), 0);
  CHECK(is_zero(read(cache, 0, 1, 0, 100)));
  CHECK(is_zero(read(cache, 1, 0, 0, 100)));
  CHECK(is_zero(read(cache, 1, 2, 0, 100)));
}

TEST(a_copy_takes_all_layers) {
  KvCache cache(kShape, 2);
  for (const int64_t layer : {0, 1}) fill(cache, layer, 0, 100, static_cast<uint32_t>(layer + 2));
  cache.copy(0, 1, 0, 80);
  for (const int64_t layer : {0, 1}) {
    CHECK_EQ(count_different(read(cache, layer, 1, 0, 80), read(cache, layer, 0, 0, 80)), 0);
    CHECK(is_zero(read(cache, layer, 1, 80, 20)));
  }
}

TEST(a_restored_prefix_is_the_beginning_of_what_is_stored) {
  KvCache cache(kShape, 2);
  const int64_t stored = 50;
  const Floats both = random_normal(static_cast<int64_t>(2 * half_size(stored)), 1, 4);
  cache.write(0, 0, 0, stored, both.data(), both.data() + half_size(stored));
  for (const int64_t length : {1, 30, 50}) {
    cache.restore(0, 1, length, stored, both.data(), both.data() + half_size(stored));
    CHECK_EQ(count_different(read(cache, 0, 1, 0, length), read(cache, 0, 0, 0, length)), 0);
  }
}

TEST(a_discarded_slot_gives_its_memory_back_and_leaves_others) {
  // Slots of whole pages, whatever their size.
  KvCache cache({.layers = 1, .heads = 8, .head_dim = 64, .positions = 64, .format = CacheFormat::kFloat32},
                3);
  CHECK_EQ(cache.bytes_per_slot() % 65536, int64_t{0});
  const auto slot = [&](int64_t index) {
    return static_cast<uint8_t*>(cache.data()) + index * cache.bytes_per_slot();
  };
  std::fill_n(slot(0), 3 * cache.bytes_per_slot(), uint8_t{7});
  cache.discard(1);
  CHECK(std::all_of(slot(0), slot(1), [](uint8_t byte) { return byte == 7; }));
  CHECK(std::all_of(slot(1), slot(2), [](uint8_t byte) { return byte == 0; }));
  CHECK(std::all_of(slot(2), slot(3), [](uint8_t byte) { return byte == 7; }));
}
