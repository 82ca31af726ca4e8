// linear(): the promise that a row's bits depend on the row and the weights alone.
#include "support/linear_testing.h"
#include "support/recorded_runs.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

TEST(every_instruction_set_gives_the_same_bits) {
  for (WeightFormat format : kWeightFormats) {
    for (const Shape& shape : kShapes) {
      const Problem problem(format, shape.in_features, shape.out_features);
      const std::vector<float> x = random_normal(shape.rows * shape.in_features, 1.0f, 9);
      const std::vector<float> residual = random_normal(shape.rows * shape.out_features, 1.0f, 10);
      const std::vector<float> expected = run(problem.fused(x, residual), Isa::kPortable);
      for (Isa isa : available_isas()) {
        CHECK_EQ(count_different(run(problem.fused(x, residual), isa), expected), 0);
      }
    }
  }
}

// Tiles of 2 to 16 rows, one to thirty of them; pairs of blocks of 128 that lack half a block or more; pairs
// of bf16 values that lack one; single panels.
TEST(every_instruction_set_gives_the_same_bits_with_tiles_of_any_height) {
  for (const auto& [format, in, out] :
       {std::tuple<WeightFormat, int64_t, int64_t>{WeightFormat::kBFloat16, 129, 40},
        {WeightFormat::kInt8, 64, 16},
        {WeightFormat::kInt8, 128, 40},
        {WeightFormat::kInt8, 321, 65},
        {WeightFormat::kInt8, 512, 48},
        {WeightFormat::kInt8, 700, 33},
        {WeightFormat::kInt4, 321, 65},
        {WeightFormat::kInt4, 512, 48}}) {
    const Problem problem(format, in, out);
    for (const int64_t rows : {2, 3, 5, 6, 9, 12, 13, 14, 16, 17, 31, 32, 33, 50, 129, 150}) {
      const std::vector<float> x = random_normal(rows * in, 1.0f, 30);
      const std::vector<float> residual = random_normal(rows * out, 1.0f, 31);
      const std::vector<float> expected = run(problem.fused(x, residual), Isa::kPortable);
      for (Isa isa : available_isas()) {
        for (const int threads : {1, 3}) {
          const ThreadParallel parallel(threads);
          CHECK_EQ(count_different(run(problem.fused(x, residual), isa, parallel), expected), 0);
        }
      }
    }
  }
}

TEST(a_row_has_the_same_bits_whatever_its_company) {
  const int64_t in = 200, out = 75, rows = 40;
  const std::vector<float> x = random_normal(rows * in, 1.0f, 11);
  const std::vector<float> residual = random_normal(rows * out, 1.0f, 12);
  for (WeightFormat format : kWeightFormats) {
    const Problem problem(format, in, out);
    for (Isa isa : available_isas()) {
      const std::vector<float> all = run(problem.fused(x, residual), isa);
      for (int64_t first = 0, count = 1; first + count <= rows; first += count, ++count) {
        const std::vector<float> part(x.begin() + first * in, x.begin() + (first + count) * in);
        const std::vector<float> rest(residual.begin() + first * out,
                                      residual.begin() + (first + count) * out);
        const std::vector<float> expected(all.begin() + first * out, all.begin() + (first + count) * out);
        CHECK_EQ(count_different(run(problem.fused(part, rest), isa), expected), 0);
      }
    }
  }
}

TEST(rows_of_several_cache_groups_have_the_same_bits) {
  const int64_t in = 3072, out = 20, rows = 130, last = 3;
  const std::vector<float> x = random_normal(rows * in, 1.0f, 23);
  for (WeightFormat format : kWeightFormats) {
    const Problem problem(format, in, out);
    const std::vector<float> all = run(problem.arguments(x), active_isa());
    const std::vector<float> part(x.end() - last * in, x.end());
    const std::vector<float> expected(all.end() - last * out, all.end());
    CHECK_EQ(count_different(run(problem.arguments(part), active_isa()), expected), 0);
  }
}

TEST(thread_count_does_not_change_bits) {
  const Shape shapes[] = {{1, 768, 2304}, {300, 192, 16}, {70, 768, 770}, {2, 3072, 768}};
  for (WeightFormat format : kWeightFormats) {
    for (const Shape& shape : shapes) {
      const Problem problem(format, shape.in_features, shape.out_features);
      const std::vector<float> x = random_normal(shape.rows * shape.in_features, 1.0f, 13);
      const std::vector<float> residual = random_normal(shape.rows * shape.out_features, 1.0f, 14);
      const LinearArguments a = problem.fused(x, residual);
      const std::vector<float> expected = run(a, active_isa());
      for (int threads : {2, 3, 7, 64})
        CHECK_EQ(count_different(run(a, active_isa(), ThreadParallel(threads)), expected), 0);
    }
  }
}

TEST(a_thread_is_woken_for_32768_weights_or_a_group_of_columns) {
  const auto woken = [](const Shape& shape, int threads, bool maxima = false) {
    const Problem problem(WeightFormat::kInt8, shape.in_features, shape.out_features);
    const std::vector<float> x = random_normal(shape.rows * shape.in_features, 1.0f, 17);
    std::vector<float> largest(static_cast<size_t>(shape.rows * maxima_floats(shape.out_features)));
    LinearArguments a = problem.arguments(x);
    if (maxima) a.maxima = largest.data();
    const RecordedRuns pool(threads);
    run(a, active_isa(), pool);
    return pool.woken();
  };
  using Woken = std::vector<int64_t>;
  CHECK(woken({1, 256, 256}, 64) == Woken({}));
  CHECK(woken({1, 256, 272}, 64) == Woken({3}));
  CHECK(woken({1, 256, 1024}, 64) == Woken({8}));
  CHECK(woken({1, 256, 1024}, 3) == Woken({3}));
  CHECK(woken({8, 256, 1024}, 64) == Woken({8}));  // still read once
  CHECK(woken({9, 256, 1024}, 64) == Woken({16}));
  CHECK(woken({1, 1024, 1100}, 64, true) == Woken({5}));  // 35 threads' weights in 5 groups of columns
}

TEST(residual_may_be_the_output) {
  const Problem problem(WeightFormat::kInt8, 70, 40);
  const std::vector<float> x = random_normal(3 * 70, 1.0f, 15);
  const std::vector<float> residual = random_normal(3 * 40, 1.0f, 16);
  const std::vector<float> expected = run(problem.fused(x, residual), active_isa());
  std::vector<float> y = residual;
  LinearArguments a = problem.fused(x, y);
  a.y = y.data();
  const TestWorkspace workspace(linear_workspace(a.format, a.rows, a.in_features, 1, kernels()));
  linear(a, Serial(), workspace.parts(), kernels());
  CHECK_EQ(count_different(y, expected), 0);
}

TEST(a_value_that_is_not_finite_spoils_its_row_alone) {
  const int64_t in = 150, out = 40;
  for (WeightFormat format : kWeightFormats) {
    const Problem problem(format, in, out);
    for (const auto& [isa, rows] : sets_and_rows({5, 20})) {
      const std::vector<float> clean = random_normal(rows * in, 1.0f, 17);
      const std::vector<float> expected = run(problem.arguments(clean), isa);
      for (float bad : {kNan, kInfinity, -kInfinity}) {
        for (int64_t position : {int64_t{0}, int64_t{70}, in - 1}) {
          std::vector<float> x = clean;
          x[static_cast<size_t>(2 * in + position)] = bad;
          const std::vector<float> y = run(problem.arguments(x), isa);
          for (int64_t i = 0; i < rows * out; ++i) {
            const auto index = static_cast<size_t>(i);
            CHECK(i / out == 2 ? !std::isfinite(y[index]) : y[index] == expected[index]);
          }
        }
      }
    }
  }
}
