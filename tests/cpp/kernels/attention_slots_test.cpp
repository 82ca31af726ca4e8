// What attention leaves in slots: the keys and values of its tokens, for later steps, exports and copies.
#include "support/attention_testing.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

TEST(rewound_positions_do_not_matter) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(2, 40, 100, format);
    const std::vector<float> qkv = random_qkv(shape, 100, 8);
    const std::vector<float> poison(qkv.size(), kNan);
    for (Isa isa : available_isas()) {
      const std::vector<float> expected = run_alone(shape, qkv, {100}, {isa, 1});
      Cache cache(shape, 1, 0xff);
      cache.step({{0, &poison, 0, 100}}, {isa, 1});
      std::vector<float> all;
      for (int64_t first = 0; first < 100; first += 10) {
        const std::vector<float> y = cache.step({{0, &qkv, first, 10}}, {isa, 1});
        all.insert(all.end(), y.begin(), y.end());
        if (first < 90) cache.step({{0, &poison, first + 10, 100 - first - 10}}, {isa, 1});
      }
      CHECK_EQ(count_different(expected, all), 0);
    }
  }
}

TEST(slots_read_back_what_a_step_wrote) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(3, 20, 50, format);
    const int64_t width = shape.heads * shape.head_dim;
    const std::vector<float> qkv = random_qkv(shape, 41, 12);
    Cache cache(shape, 2, 0xff);
    cache.step({{1, &qkv, 0, 41}}, {active_isa(), 1});
    std::vector<float> keys(static_cast<size_t>(30 * width)), values(keys);
    read_slot(shape, cache.slot(1), 11, 30, keys.data(), values.data());
    int64_t wrong = 0;
    for (int64_t head = 0; head < 3; ++head) {
      for (int64_t t = 0; t < 30; ++t) {
        const float* source = &qkv[static_cast<size_t>((t + 11) * 3 * width + head * 20)];
        const std::vector<double> key = rounded(shape, source + width);
        const std::vector<double> value = rounded(shape, source + 2 * width);
        for (size_t d = 0; d < 20; ++d) {
          const size_t plain = static_cast<size_t>((head * 30 + t) * 20) + d;
          wrong += keys[plain] != key[d];
          wrong += values[plain] != value[d];
        }
      }
    }
    CHECK_EQ(wrong, 0);
  }
}

TEST(a_slot_survives_export_import_and_copy) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(2, 24, 100, format);
    const std::vector<float> qkv = random_qkv(shape, 100, 13);
    const Machine machine = {active_isa(), 1};
    const std::vector<float> expected = run_alone(shape, qkv, {70, 30}, machine);
    const std::vector<float> tail(expected.begin() + 70 * 48, expected.end());

    Cache cache(shape, 3, 0xff);
    cache.step({{0, &qkv, 0, 70}}, machine);
    std::vector<float> keys(2 * 70 * 24), values(keys);
    read_slot(shape, cache.slot(0), 0, 70, keys.data(), values.data());
    write_slot(shape, keys.data(), values.data(), 0, 70, cache.slot(1));
    CHECK_EQ(count_different(tail, cache.step({{1, &qkv, 70, 30}}, machine)), 0);

    copy_slot(shape, cache.slot(0), cache.slot(2), 0, 70);
    CHECK_EQ(count_different(tail, cache.step({{2, &qkv, 70, 30}}, machine)), 0);
    copy_slot(shape, cache.slot(2), cache.slot(0), 0, 0);
    CHECK_EQ(count_different(tail, cache.step({{0, &qkv, 70, 30}}, machine)), 0);
  }
}

// What a saved prefix relies on.
TEST(an_int8_cache_survives_export_as_float16) {
  const CacheShape shape = make_shape(2, 64, 100, kInt8);
  const std::vector<float> qkv = random_qkv(shape, 100, 14);
  const Machine machine = {active_isa(), 1};
  const std::vector<float> expected = run_alone(shape, qkv, {70, 30}, machine);
  const std::vector<float> tail(expected.begin() + 70 * 128, expected.end());

  Cache cache(shape, 2, 0xff);
  cache.step({{0, &qkv, 0, 70}}, machine);
  std::vector<float> keys(2 * 70 * 64), values(keys);
  read_slot(shape, cache.slot(0), 0, 70, keys.data(), values.data());
  for (float& x : keys) x = portable::half_to_float(portable::float_to_half(x));
  for (float& x : values) x = portable::half_to_float(portable::float_to_half(x));
  write_slot(shape, keys.data(), values.data(), 0, 70, cache.slot(1));
  CHECK_EQ(count_different(tail, cache.step({{1, &qkv, 70, 30}}, machine)), 0);
}

TEST(unwanted_tokens_leave_keys_and_values_alone) {
  for (CacheFormat format : {kFloat32, kInt8}) {
    const CacheShape shape = make_shape(3, 32, 260, format);
    const int64_t width = shape.heads * shape.head_dim;
    const std::vector<float> a = random_qkv(shape, 250, 16), b = random_qkv(shape, 20, 17);
    for (Isa isa : available_isas()) {
      for (int threads : {1, 3}) {
        const Machine machine = {isa, threads};
        Cache whole(shape, 2, 0xff), some(shape, 2, 0xff);
        const std::vector<float> expected = whole.step({{0, &a, 0, 240}, {1, &b, 0, 20}}, machine);
        const std::vector<float> y = some.step({{0, &a, 0, 240, 130, 7}, {1, &b, 0, 20, 20, 0}}, machine);
        for (int64_t token = 0; token < 260; ++token) {
          const bool wanted = token >= 130 && token < 233;
          for (int64_t i = token * width; i < (token + 1) * width; ++i) {
            const size_t index = static_cast<size_t>(i);
            CHECK(wanted ? same_float(y[index], expected[index]) : std::isnan(y[index]));
          }
        }
        CHECK_EQ(
            count_different(whole.step({{0, &a, 240, 10}}, machine), some.step({{0, &a, 240, 10}}, machine)),
            0);
      }
    }
  }
}

// Threads append the tiles of a prompt in any order, and tiles may begin at odd positions.
TEST(positions_are_appended_in_any_order) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(1, 32, 40, format);
    const std::vector<float> x = random_normal(40 * 32, 1.0f, 18);
    Cache expected(shape, 1, 0x7f), actual(shape, 1, 0x7f);
    write_slot(shape, x.data(), x.data(), 0, 40, expected.slot(0));
    for (int64_t first : {27, 13, 14, 0}) {
      const int64_t end = first == 27 ? 40 : first == 13 ? 14 : first == 14 ? 27 : 13;
      write_slot(shape, x.data() + first * 32, x.data() + first * 32, first, end - first, actual.slot(0));
    }
    CHECK(std::equal(expected.slot(0), expected.slot(0) + shape.slot_bytes(), actual.slot(0)));
  }
}

TEST(layers_share_a_slot_and_are_copied_together) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape alone = make_shape(3, 32, 150, format);
    CacheShape shape = alone;
    shape.layers = 3;
    Cache cache(shape, 2, 0xff);
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const std::vector<float> qkv = random_qkv(shape, 150, 30 + static_cast<uint32_t>(layer));
      Cache own(alone, 1, 0xff);
      CHECK_EQ(count_different(own.step({{0, &qkv, 0, 140}}, {}), cache.step({{0, &qkv, 0, 140}}, {}, layer)),
               0);
    }
    copy_slot(shape, cache.slot(0), cache.slot(1), 0, 140);
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const std::vector<float> qkv = random_qkv(shape, 150, 30 + static_cast<uint32_t>(layer));
      CHECK_EQ(count_different(cache.step({{0, &qkv, 140, 10}}, {}, layer),
                               cache.step({{1, &qkv, 140, 10}}, {}, layer)),
               0);
    }
  }
}
