// Attention against a double-precision reference, and the promise that nothing but a token's own past changes
// its bits.
#include "kernels/attention.h"

#include "support/attention_testing.h"
#include "support/recorded_runs.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

namespace {

const CacheShape kShapes[] = {
    make_shape(2, 64, 200, kFloat16), make_shape(2, 64, 200, kFloat32), make_shape(3, 80, 130, kFloat16),
    make_shape(1, 25, 90, kFloat32),  make_shape(5, 3, 150, kFloat16),  make_shape(1, 1, 70, kFloat32),
    make_shape(1, 96, 65, kFloat16),  make_shape(1, 256, 80, kFloat16), make_shape(2, 64, 200, kInt8),
    make_shape(3, 80, 130, kInt8),    make_shape(1, 25, 90, kInt8),     make_shape(5, 3, 150, kInt8),
    make_shape(1, 1, 70, kInt8),      make_shape(1, 256, 80, kInt8),
};

}  // namespace

TEST(matches_double_precision) {
  for (const CacheShape& shape : kShapes) {
    const std::vector<float> qkv = random_qkv(shape, shape.positions, 1);
    for (Isa isa : available_isas()) {
      check_against_reference(shape, qkv, run_alone(shape, qkv, {shape.positions}, {isa, 1}));
    }
  }
}

TEST(same_bits_in_every_instruction_set) {
  for (const CacheShape& shape : kShapes) {
    const std::vector<float> qkv = random_qkv(shape, shape.positions, 2);
    const std::vector<float> expected = run_alone(shape, qkv, {shape.positions}, {Isa::kPortable, 1});
    for (Isa isa : available_isas()) {
      CHECK_EQ(count_different(expected, run_alone(shape, qkv, {shape.positions}, {isa, 1})), 0);
    }
  }
}

TEST(same_bits_however_the_prompt_is_cut) {
  for (const CacheShape& shape : kShapes) {
    const int64_t tokens = shape.positions;
    const std::vector<float> qkv = random_qkv(shape, tokens, 3);
    for (Isa isa : available_isas()) {
      const std::vector<float> expected = run_alone(shape, qkv, {tokens}, {isa, 1});
      CHECK_EQ(count_different(expected, run_alone(shape, qkv, ones(tokens), {isa, 1})), 0);
      CHECK_EQ(count_different(expected, run_alone(shape, qkv, {7, 1, 5, 12, tokens - 25}, {isa, 1})), 0);
      CHECK_EQ(count_different(expected, run_alone(shape, qkv, {63, 2, tokens - 65}, {isa, 1})), 0);
    }
  }
}

TEST(same_bits_for_any_number_of_threads) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(4, 64, 300, format);
    const std::vector<float> qkv = random_qkv(shape, 300, 4);
    for (Isa isa : available_isas()) {
      const std::vector<float> expected = run_alone(shape, qkv, {101, 198, 1}, {isa, 1});
      for (int threads : {2, 3, 7, 64}) {
        CHECK_EQ(count_different(expected, run_alone(shape, qkv, {101, 198, 1}, {isa, threads})), 0);
      }
    }
  }
}

TEST(threads_are_woken_for_heads_and_tiles_that_there_are) {
  const CacheShape shape = make_shape(4, 64, 300, kInt8);
  const std::vector<float> qkv = random_qkv(shape, 300, 5);
  Cache cache(shape, 1, 0);
  const auto woken = [&](int64_t first, int64_t count, int threads) {
    const RecordedRuns pool(threads);
    cache.step({{0, &qkv, first, count}}, active_isa(), pool);
    return pool.woken();
  };
  CHECK(woken(0, 299, 4) == std::vector<int64_t>({4}));
  CHECK(woken(299, 1, 64) == std::vector<int64_t>({4}));   // heads
  CHECK(woken(0, 128, 8) == std::vector<int64_t>({8}));    // 4 tiles of 32 rows, 4 heads
  CHECK(woken(0, 128, 64) == std::vector<int64_t>({64}));  // 16 tiles of 8 rows, 4 heads
  CHECK(woken(0, 20, 64) == std::vector<int64_t>({4}));    // too few to cut
}

TEST(same_bits_whatever_shares_the_step) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(3, 64, 200, format);
    const int64_t width = shape.heads * shape.head_dim;
    const std::vector<float> a = random_qkv(shape, 130, 5), b = random_qkv(shape, 200, 6),
                             c = random_qkv(shape, 9, 7);
    for (Isa isa : available_isas()) {
      const std::vector<float> alone_a = run_alone(shape, a, {130}, {isa, 1});
      const std::vector<float> alone_b = run_alone(shape, b, {200}, {isa, 1});
      const std::vector<float> alone_c = run_alone(shape, c, {9}, {isa, 1});
      Cache cache(shape, 4, 0xff);
      std::vector<float> together_a, together_b, together_c;
      const auto take = [width](const std::vector<float>& y, int64_t first, int64_t count,
                                std::vector<float>& into) {
        into.insert(into.end(), y.begin() + first * width, y.begin() + (first + count) * width);
      };
      std::vector<float> y = cache.step({{2, &a, 0, 129}, {0, &b, 0, 70}, {3, &c, 0, 8}}, {isa, 3});
      take(y, 0, 129, together_a), take(y, 129, 70, together_b), take(y, 199, 8, together_c);
      y = cache.step({{0, &b, 70, 130}, {3, &c, 8, 1}, {2, &a, 129, 1}}, {isa, 2});
      take(y, 0, 130, together_b), take(y, 130, 1, together_c), take(y, 131, 1, together_a);
      CHECK_EQ(count_different(alone_a, together_a), 0);
      CHECK_EQ(count_different(alone_b, together_b), 0);
      CHECK_EQ(count_different(alone_c, together_c), 0);
    }
  }
}

TEST(bad_values_stay_with_the_tokens_that_see_them) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(2, 16, 120, format);
    const int64_t width = shape.heads * shape.head_dim;
    const std::vector<float> clean = random_qkv(shape, 120, 9);
    for (float bad : {kNan, kInfinity, -kInfinity}) {
      for (int64_t part : {0, 1, 2}) {  // in the query, the key, the value of token 75, head 1
        std::vector<float> qkv = clean;
        qkv[static_cast<size_t>((75 * 3 + part) * width + shape.head_dim + 4)] = bad;
        for (Isa isa : available_isas()) {
          const std::vector<float> expected = run_alone(shape, clean, {120}, {isa, 1});
          const std::vector<float> y = run_alone(shape, qkv, {120}, {isa, 1});
          CHECK_EQ(count_different(y, run_alone(shape, qkv, ones(120), {isa, 1})), 0);
          for (int64_t token = 0; token < 120; ++token) {
            for (int64_t i = 0; i < width; ++i) {
              const size_t index = static_cast<size_t>(token * width + i);
              const bool sees = i >= shape.head_dim && (part == 0 ? token == 75 : token >= 75);
              if (!sees) CHECK(same_float(y[index], expected[index]));
              if (sees && part == 2 && i == shape.head_dim + 4) CHECK(!std::isfinite(y[index]));
              if (sees && part == 0) CHECK(std::isnan(y[index]));
              if (sees && part == 1 && std::isnan(bad)) CHECK(std::isnan(y[index]));
            }
          }
        }
      }
    }
  }
}

TEST(large_scores_do_not_overflow) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(1, 32, 150, format);
    const std::vector<float> qkv = random_qkv(shape, 150, 10, 300.0f);  // scores in the hundreds of thousands
    for (Isa isa : available_isas()) {
      const std::vector<float> y = run_alone(shape, qkv, {150}, {isa, 1});
      CHECK(std::all_of(y.begin(), y.end(), [](float value) { return std::isfinite(value); }));
      // The weight is all on the best key, so outputs are values.
      const std::vector<double> expected = reference(shape, qkv, 149, 0);
      for (size_t d = 0; d < 32; ++d) CHECK_NEAR(y[149 * 32 + d], expected[d], tolerance(shape, 1000.0));
    }
  }
}

TEST(first_token_gets_its_own_value) {
  for (CacheFormat format : {kFloat32, kFloat16, kInt8}) {
    const CacheShape shape = make_shape(2, 10, 16, format);
    const std::vector<float> qkv = random_qkv(shape, 1, 11);
    for (Isa isa : available_isas()) {
      const std::vector<float> y = run_alone(shape, qkv, {1}, {isa, 1});
      for (size_t i = 0; i < 20; ++i) {
        const double value = rounded(shape, &qkv[40 + i / 10 * 10])[i % 10];
        CHECK_NEAR(static_cast<double>(y[i]), value, format == kInt8 ? 1e-6 : 0.0);
      }
    }
  }
}

// The smallest and the largest vectors, and such as are zero, beside each other.
TEST(int8_scales_far_apart) {
  const CacheShape shape = make_shape(1, 32, 130, kInt8);
  std::vector<float> qkv = random_qkv(shape, 130, 15);
  for (int64_t token = 0; token < 130; ++token) {
    const float factors[] = {0.0f, 1e-40f, 1e-30f, 1.0f, 1e30f};
    for (int64_t d = 0; d < 32; ++d) {
      qkv[static_cast<size_t>(token * 96 + 64 + d)] *= factors[token % 5];
      if (token % 7 == 0) qkv[static_cast<size_t>(token * 96 + 32 + d)] *= 1e-38f;
    }
  }
  const std::vector<float> portable = run_alone(shape, qkv, {130}, {Isa::kPortable, 1});
  for (Isa isa : available_isas()) {
    CHECK_EQ(count_different(portable, run_alone(shape, qkv, ones(130), {isa, 1})), 0);
  }
  for (int64_t token : {0, 3, 4, 129}) {
    const std::vector<double> expected = reference(shape, qkv, token, 0);
    for (size_t d = 0; d < 32; ++d) {
      CHECK_NEAR(portable[static_cast<size_t>(token) * 32 + d], expected[d],
                 tolerance(shape, token < 4 ? 6.0 : 6e30));
    }
  }
}
