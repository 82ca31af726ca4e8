// linear(): every format and instruction set against a double-precision reference.
#include "kernels/linear.h"

#include "support/linear_testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

TEST(matches_the_reference) {
  for (WeightFormat format : kWeightFormats) {
    for (const Shape& shape : kShapes) {
      const Problem problem(format, shape.in_features, shape.out_features);
      const std::vector<float> x = random_normal(shape.rows * shape.in_features, 1.0f, 5);
      for (Isa isa : available_isas()) {
        const LinearArguments a = problem.arguments(x);
        check_against_reference(a, run(a, isa));
      }
    }
  }
}

TEST(matches_the_reference_with_everything_fused) {
  for (WeightFormat format : kWeightFormats) {
    for (const Shape& shape : kShapes) {
      const Problem problem(format, shape.in_features, shape.out_features);
      const std::vector<float> x = random_normal(shape.rows * shape.in_features, 2.0f, 6);
      const std::vector<float> residual = random_normal(shape.rows * shape.out_features, 1.0f, 7);
      for (Isa isa : available_isas()) {
        LinearArguments a = problem.fused(x, residual);
        for (Activation activation :
             {Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf, Activation::kRelu}) {
          a.activation = activation;
          check_against_reference(a, run(a, isa));
        }
      }
    }
  }
}

TEST(quantized_activations_stay_near_the_exact_product) {
  const int64_t in = 768, out = 64, rows = 4;
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const Problem problem(format, in, out);
    const std::vector<float> x = random_normal(rows * in, 1.0f, 8);
    const std::vector<float> y = run(problem.arguments(x), active_isa());
    std::vector<float> column(static_cast<size_t>(in));
    double difference = 0, norm = 0;
    for (int64_t n = 0; n < out; ++n) {
      unpack_column(format, problem.packed.data(), in, n, column.data());
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t k = 0; k < in; ++k) {
          sum += static_cast<double>(x[static_cast<size_t>(r * in + k)]) *
                 static_cast<double>(column[static_cast<size_t>(k)]);
        }
        const double error = sum - static_cast<double>(y[static_cast<size_t>(r * out + n)]);
        difference += error * error;
        norm += sum * sum;
      }
    }
    CHECK(std::sqrt(difference / norm) < 0.008);
  }
}

TEST(zero_rows_and_zero_weights_give_the_bias) {
  const int64_t in = 130, out = 20;
  for (WeightFormat format : kWeightFormats) {
    for (bool zero_weight : {false, true}) {
      const Problem problem(format, in, out, zero_weight ? 0.0f : 1.0f);
      const std::vector<float> x = random_normal(2 * in, zero_weight ? 1.0f : 0.0f, 18);
      for (Isa isa : available_isas()) {
        LinearArguments a = problem.arguments(x);
        a.bias = problem.bias.data();
        const std::vector<float> y = run(a, isa);
        for (size_t i = 0; i < y.size(); ++i) CHECK_EQ(y[i], problem.bias[i % static_cast<size_t>(out)]);
      }
    }
  }
}

TEST(huge_tiny_and_subnormal_activations) {
  const int64_t in = 100, out = 20;
  for (WeightFormat format : kWeightFormats) {
    const Problem problem(format, in, out);
    for (float magnitude : {1e32f, 1e-30f, 1e-41f}) {
      std::vector<float> x = random_normal(20 * in, 1.0f, 19);
      for (float& value : x) value *= magnitude;
      const std::vector<float> expected = run(problem.arguments(x), Isa::kPortable);
      for (Isa isa : available_isas()) {
        const LinearArguments a = problem.arguments(x);
        const std::vector<float> y = run(a, isa);
        CHECK_EQ(count_different(y, expected), 0);
        check_against_reference(a, y);
      }
    }
  }
}

TEST(huge_and_tiny_weights) {
  for (WeightFormat format : kWeightFormats) {
    for (float deviation : {1e30f, 1e-25f}) {
      const Problem problem(format, 100, 20, deviation);
      const std::vector<float> x = random_normal(3 * 100, 1.0f, 20);
      for (Isa isa : available_isas()) {
        LinearArguments a = problem.arguments(x);
        const std::vector<float> y = run(a, isa);
        double norm = 0;
        for (float value : y) norm += std::abs(static_cast<double>(value));
        CHECK_NEAR(norm / 60 / static_cast<double>(deviation), 8.0, 4.0);
      }
    }
  }
}

TEST(any_bytes_are_a_weight) {
  std::mt19937 engine(21);
  for (WeightFormat format : kWeightFormats) {
    const int64_t in = 130, out = 40;
    Problem problem(format, in, out);
    const std::vector<float> x = random_normal(20 * in, 1.0f, 22);
    for (int repeat = 0; repeat < 20; ++repeat) {
      for (size_t i = 0; i < problem.packed.size(); ++i)
        problem.packed.data()[i] = static_cast<uint8_t>(engine());
      const std::vector<float> expected = run(problem.arguments(x), Isa::kPortable);
      for (Isa isa : available_isas()) CHECK_EQ(count_different(run(problem.arguments(x), isa), expected), 0);
    }
  }
}

// The largest magnitudes of both factors at once: rows that round to 127 and -127, after int8's mixing, and
// weights of nothing but the lowest or the highest bytes.
TEST(the_largest_products_are_exact) {
  const int64_t in = 256, out = 48, rows = 11;
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    Problem problem(format, in, out);
    std::vector<float> x;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t block = 0; block < in; block += 128) {
        std::vector<float> signs(128);
        for (size_t i = 0; i < signs.size(); ++i) {
          const bool negative = row % 3 == 0 ? i % 2 == 1 : row % 3 == 1;
          signs[i] = negative ? -127.0f : 127.0f;
        }
        if (format == WeightFormat::kInt8) signs = mixed(signs, 1.0f);
        x.insert(x.end(), signs.begin(), signs.end());
      }
    }
    for (const auto& [even, odd] : {std::pair<int, int>{0, 0}, {255, 255}, {0, 255}, {255, 0}, {1, 255}}) {
      uint8_t* panel = problem.packed.data();
      const size_t panel_bytes = packed_panel_bytes(format, in);
      const size_t header =
          format == WeightFormat::kInt8 ? 64 : 128;  // column scales, the first block's scales
      for (int64_t p = 0; p < out / kPanelColumns; ++p, panel += panel_bytes) {
        for (size_t i = header; i < (format == WeightFormat::kInt8 ? panel_bytes : header + 512); ++i)
          panel[i] = static_cast<uint8_t>(i % 2 == 0 ? even : odd);
      }
      const std::vector<float> expected = run(problem.arguments(x), Isa::kPortable);
      for (Isa isa : available_isas()) CHECK_EQ(count_different(run(problem.arguments(x), isa), expected), 0);
    }
  }
}

TEST(no_rows_is_no_work) {
  const Problem problem(WeightFormat::kInt4, 64, 16);
  CHECK(run(problem.arguments({}), active_isa()).empty());
}

TEST(tells_the_largest_outputs_of_every_256_columns) {
  const float kNowhere = 1e30f;
  for (WeightFormat format : kWeightFormats) {
    for (int64_t out_features : {1, 255, 256, 300, 1001}) {
      Problem problem(format, 70, out_features);
      // Below zero, as what pads the last columns is not.
      for (float& bias : problem.bias) bias -= 5.0f;
      for (int64_t rows : {1, 3, 33}) {
        std::vector<float> x = random_normal(rows * problem.in_features, 1.0f, 5);
        x[static_cast<size_t>(rows / 2 * problem.in_features)] = kNan;
        for (Isa isa : available_isas()) {
          LinearArguments a = problem.arguments(x);
          a.bias = problem.bias.data();
          std::vector<float> maxima(static_cast<size_t>(rows * maxima_floats(out_features)), kNowhere);
          a.maxima = maxima.data();
          const std::vector<float> y = run(a, isa, ThreadParallel(3));
          for (int64_t row = 0; row < rows; ++row) {
            for (int64_t column = 0; column < out_features; column += kMaximaColumns) {
              const auto outputs = y.begin() + row * out_features + column;
              const auto end = outputs + std::min(kMaximaColumns, out_features - column);
              const auto told =
                  maxima.begin() + row * maxima_floats(out_features) + column / kMaximaColumns * kMaximaLanes;
              const bool has_nan = std::any_of(told, told + kMaximaLanes, [](float m) { return m != m; });
              CHECK_EQ(has_nan, row == rows / 2);
              if (!has_nan)
                CHECK_EQ(*std::max_element(told, told + kMaximaLanes), *std::max_element(outputs, end));
            }
          }
        }
      }
    }
  }
}
