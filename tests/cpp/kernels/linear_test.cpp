// linear(): every format and instruction set against a double-precision reference, and the promises about
// bits.
#include "kernels/linear.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/layer_norm_kernel.h"
#include "kernels/packing.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using gpt2fast::testing::AlignedBytes;
using gpt2fast::testing::available_isas;
using gpt2fast::testing::count_different;
using gpt2fast::testing::kWeightFormats;
using gpt2fast::testing::random_normal;
using gpt2fast::testing::TestWorkspace;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool is_quantized(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// A weight of random normals with everything that linear() may be given beside it.
struct Problem {
  WeightFormat format;
  int64_t in_features;
  int64_t out_features;
  AlignedBytes packed;
  std::vector<float> bias;
  std::vector<float> gamma;
  std::vector<float> beta;

  Problem(WeightFormat weight_format, int64_t in, int64_t out, float deviation = 0.02f)
      : format(weight_format),
        in_features(in),
        out_features(out),
        packed(packed_weight_bytes(weight_format, in, out)),
        bias(random_normal(out, 0.1f, 2)),
        gamma(random_normal(in, 1.0f, 3)),
        beta(random_normal(in, 0.1f, 4)) {
    const std::vector<float> w = random_normal(in * out, deviation, 1);
    pack_columns(format, w.data(), out, 1, in, out, packed.data(), Serial());
  }

  LinearArguments arguments(const std::vector<float>& x) const {
    LinearArguments a;
    a.rows = static_cast<int64_t>(x.size()) / in_features;
    a.in_features = in_features;
    a.out_features = out_features;
    a.format = format;
    a.x = x.data();
    a.weight = packed.data();
    return a;
  }

  LinearArguments fused(const std::vector<float>& x, const std::vector<float>& residual) const {
    LinearArguments a = arguments(x);
    a.activation = Activation::kGeluTanh;
    a.bias = bias.data();
    a.gamma = gamma.data();
    a.beta = beta.data();
    a.residual = residual.data();
    return a;
  }
};

std::vector<float> run(LinearArguments a, Isa isa, const Parallel& parallel = Serial()) {
  std::vector<float> y(static_cast<size_t>(a.rows * a.out_features), -7.0f);
  const TestWorkspace workspace(
      linear_workspace(a.format, a.rows, a.in_features, parallel.threads(), kernels(isa)));
  a.y = y.data();
  linear(a, parallel, workspace.parts(), kernels(isa));
  return y;
}

// Values times the Hadamard matrix of order size / 16 over their sixteenths, and a factor.
std::vector<float> mixed(std::vector<float> values, float factor) {
  for (float& value : values) value *= factor;
  for (size_t step = 16; step < values.size(); step *= 2) {
    const std::vector<float> before = values;
    for (size_t i = 0; i < values.size(); ++i) {
      const bool upper = (i & step) != 0;
      values[i] = upper ? before[i - step] - before[i] : before[i] + before[i + step];
    }
  }
  return values;
}

// A row as the quantised formats see it: whole blocks of 64, for int8 two at a time and mixed, rounded to 255
// steps, and mixed back. What rounding leaves beyond the row's end counts too.
std::vector<double> quantized_row(const std::vector<float>& row, WeightFormat format) {
  const bool mixes = format == WeightFormat::kInt8;
  std::vector<double> result((row.size() + 63) / 64 * 64);
  for (size_t begin = 0, size = 0; begin < result.size(); begin += size) {
    size = std::min<size_t>(mixes ? 128 : 64, result.size() - begin);
    std::vector<float> block(row.begin() + static_cast<std::ptrdiff_t>(begin),
                             row.begin() + static_cast<std::ptrdiff_t>(std::min(row.size(), begin + size)));
    block.resize(size);
    if (mixes) block = mixed(block, 16.0f / static_cast<float>(size));
    float largest = 0;
    for (float value : block) largest = std::max(largest, std::abs(value));
    if (largest < 0x1p-110f) continue;
    for (float& value : block) value = std::nearbyint(value * (127.0f / largest));
    if (mixes) block = mixed(block, 1.0f);
    const double scale = static_cast<double>(largest / 127.0f);
    for (size_t i = 0; i < size; ++i) result[begin + i] = scale * static_cast<double>(block[i]);
  }
  return result;
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    default:
      return x;
  }
}

// Checks outputs against sums in double over the unpacked weights and the quantised activations, within the
// rounding that a chain of float additions can have.
void check_against_reference(const LinearArguments& a, const std::vector<float>& y) {
  const auto in = static_cast<size_t>(a.in_features);
  std::vector<std::vector<double>> rows;
  for (int64_t r = 0; r < a.rows; ++r) {
    std::vector<float> row(a.x + r * a.in_features, a.x + (r + 1) * a.in_features);
    if (a.gamma != nullptr)
      layer_norm_row<Portable>(row.data(), a.in_features, a.gamma, a.beta, a.epsilon, row.data());
    rows.push_back(is_quantized(a.format) ? quantized_row(row, a.format)
                                          : std::vector<double>(row.begin(), row.end()));
  }
  const size_t stored = rows.empty() ? in : rows[0].size();  // whole blocks of the integer formats
  std::vector<float> column(stored);
  for (int64_t n = 0; n < a.out_features; ++n) {
    unpack_column(a.format, a.weight, static_cast<int64_t>(stored), n, column.data());
    for (int64_t r = 0; r < a.rows; ++r) {
      double sum = 0, magnitude = 0;
      for (size_t k = 0; k < stored; ++k) {
        const double product = rows[static_cast<size_t>(r)][k] * static_cast<double>(column[k]);
        sum += product;
        magnitude += std::abs(product);
      }
      const double terms =
          is_quantized(a.format) ? static_cast<double>(in / 64 + 8) : static_cast<double>(in + 2);
      double tolerance = 0x1p-24 * terms * magnitude;
      if (a.bias != nullptr) sum += static_cast<double>(a.bias[n]);
      sum = activate(a.activation, sum);
      tolerance = 1.2 * tolerance +
                  4e-7 * std::max(1.0, std::abs(sum)) * (a.activation == Activation::kNone ? 0.5 : 4.0);
      if (a.residual != nullptr) sum += static_cast<double>(a.residual[r * a.out_features + n]);
      tolerance += 0x1p-23 * std::abs(sum);
      CHECK_NEAR(y[static_cast<size_t>(r * a.out_features + n)], sum, tolerance);
    }
  }
}

struct Shape {
  int64_t rows, in_features, out_features;
};

// Each instruction set with each number of rows.
std::vector<std::pair<Isa, int64_t>> sets_and_rows(const std::vector<int64_t>& rows) {
  std::vector<std::pair<Isa, int64_t>> all;
  for (Isa isa : available_isas()) {
    for (int64_t count : rows) all.emplace_back(isa, count);
  }
  return all;
}

// Tails of every kind: one row, column or feature; blocks, panels and register tiles that are not full.
constexpr Shape kShapes[] = {{1, 1, 1},    {3, 1, 17},    {2, 63, 15},   {1, 64, 16},
                             {5, 65, 33},  {7, 128, 48},  {8, 100, 1},   {9, 32, 50},
                             {13, 257, 7}, {17, 192, 95}, {40, 96, 112}, {1, 1030, 70}};

}  // namespace

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

// Tiles of 2 to 16 rows, one to thirty of them; pairs of blocks of 128 that lack half a block or more; single
// panels.
TEST(every_instruction_set_gives_the_same_bits_with_tiles_of_any_height) {
  for (const auto& [format, in, out] :
       {std::tuple<WeightFormat, int64_t, int64_t>{WeightFormat::kInt8, 64, 16},
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
      for (int threads : {2, 3, 7})
        CHECK_EQ(count_different(run(a, active_isa(), ThreadParallel(threads)), expected), 0);
    }
  }
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
