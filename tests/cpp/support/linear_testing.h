// Problems for linear(), and their results in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/linear.h"
#include "kernels/linear_rows_kernel.h"
#include "kernels/packing.h"
#include "support/kernel_testing.h"
#include "support/testing.h"

namespace gpt2fast::testing {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline bool is_quantized(WeightFormat format) {
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

inline std::vector<float> run(LinearArguments a, Isa isa, const Parallel& parallel = Serial()) {
  std::vector<float> y(static_cast<size_t>(a.rows * a.out_features), -7.0f);
  const TestWorkspace workspace(
      linear_workspace(a.format, a.rows, a.in_features, parallel.threads(), kernels(isa)));
  a.y = y.data();
  linear(a, parallel, workspace.parts(), kernels(isa));
  return y;
}

// Values times the Hadamard matrix of order size / 16 over their sixteenths, and a factor.
inline std::vector<float> mixed(std::vector<float> values, float factor) {
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
inline std::vector<double> quantized_row(const std::vector<float>& row, WeightFormat format) {
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

inline double activate(Activation activation, double x) {
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
inline void check_against_reference(const LinearArguments& a, const std::vector<float>& y) {
  const auto in = static_cast<size_t>(a.in_features);
  std::vector<std::vector<double>> rows;
  for (int64_t r = 0; r < a.rows; ++r) {
    std::vector<float> row(a.x + r * a.in_features, a.x + (r + 1) * a.in_features);
    if (a.gamma != nullptr)
      layer_norm_row<Portable>(row.data(), a.in_features, a.gamma, a.beta, a.epsilon, row.data());
    if (a.format == WeightFormat::kBFloat16) {
      for (float& value : row) value = rounded_to_bf16(value);
    }
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
inline std::vector<std::pair<Isa, int64_t>> sets_and_rows(const std::vector<int64_t>& rows) {
  std::vector<std::pair<Isa, int64_t>> all;
  for (Isa isa : available_isas()) {
    for (int64_t count : rows) all.emplace_back(isa, count);
  }
  return all;
}

// Tails of every kind: one row, column or feature; blocks, panels and register tiles that are not full.
inline constexpr Shape kShapes[] = {{1, 1, 1},    {3, 1, 17},    {2, 63, 15},   {1, 64, 16},
                                    {5, 65, 33},  {7, 128, 48},  {8, 100, 1},   {9, 32, 50},
                                    {13, 257, 7}, {17, 192, 95}, {40, 96, 112}, {1, 1030, 70}};

}  // namespace gpt2fast::testing
