// LayerNorm against double precision, and its bits across instruction sets, batches and threads.
#include "kernels/layer_norm.h"

#include <limits>

#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

namespace {

constexpr float kEpsilon = 1e-5f;

struct Affine {
  std::vector<float> gamma, beta;
  explicit Affine(int64_t width)
      : gamma(random_normal(width, 1.0f, 91)), beta(random_normal(width, 1.0f, 92)) {}
};

std::vector<float> run(const std::vector<float>& x, int64_t width, const Affine& affine, Isa isa,
                       int threads = 1) {
  std::vector<float> y(x.size());
  layer_norm(x.data(), static_cast<int64_t>(x.size()) / width, width, affine.gamma.data(), affine.beta.data(),
             kEpsilon, y.data(), ThreadParallel(threads), kernels(isa));
  return y;
}

std::vector<double> reference(const float* x, size_t width, const Affine& affine) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < width; ++i) mean += x[i] / static_cast<double>(width);
  for (size_t i = 0; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(width);
  std::vector<double> y;
  for (size_t i = 0; i < width; ++i) {
    y.push_back((x[i] - mean) / std::sqrt(variance + double{kEpsilon}) * affine.gamma[i] + affine.beta[i]);
  }
  return y;
}

}  // namespace

TEST(matches_double_precision) {
  for (int64_t width : {1, 2, 15, 16, 17, 48, 100, 768, 1023, 1600}) {
    const Affine affine(width);
    for (float offset : {0.0f, 50.0f}) {
      std::vector<float> x = random_normal(3 * width, 2.0f, static_cast<uint32_t>(width));
      for (float& value : x) value += offset;
      for (Isa isa : available_isas()) {
        const std::vector<float> y = run(x, width, affine, isa);
        for (size_t row = 0; row < 3; ++row) {
          const size_t start = row * static_cast<size_t>(width);
          const std::vector<double> expected = reference(&x[start], static_cast<size_t>(width), affine);
          double largest = 0;
          for (size_t i = 0; i < expected.size(); ++i) {
            const double error = std::abs(y[start + i] - expected[i]) / (1 + std::abs(expected[i]));
            largest = error <= largest ? largest : error;
          }
          CHECK(largest <= (offset == 0.0f ? 2e-6 : 2e-5));
        }
      }
    }
  }
}

TEST(same_bits_in_every_instruction_set_batch_and_thread_count) {
  for (int64_t width : {1, 16, 25, 768, 1601}) {
    const Affine affine(width);
    const std::vector<float> x = random_normal(70 * width, 3.0f, 5);
    const std::vector<float> expected = run(x, width, affine, Isa::kPortable);
    for (Isa isa : available_isas()) {
      CHECK_EQ(count_different(expected, run(x, width, affine, isa)), 0);
      CHECK_EQ(count_different(expected, run(x, width, affine, isa, 3)), 0);
      const std::vector<float> last(x.end() - width, x.end());
      CHECK_EQ(count_different({expected.end() - width, expected.end()}, run(last, width, affine, isa)), 0);
    }
  }
}

TEST(works_in_place) {
  const Affine affine(100);
  const std::vector<float> x = random_normal(500, 1.0f, 6);
  for (Isa isa : available_isas()) {
    std::vector<float> y = x;
    layer_norm(y.data(), 5, 100, affine.gamma.data(), affine.beta.data(), kEpsilon, y.data(), Serial(),
               kernels(isa));
    CHECK_EQ(count_different(run(x, 100, affine, isa), y), 0);
  }
}

TEST(constant_rows_give_beta) {
  const Affine affine(64);
  for (Isa isa : available_isas()) {
    for (float constant : {0.0f, 3.0f, -1e30f, 1e-40f}) {
      const std::vector<float> y = run(std::vector<float>(64, constant), 64, affine, isa);
      CHECK_EQ(count_different(affine.beta, y), 0);
    }
  }
}

TEST(bad_rows_give_nan_and_leave_others_alone) {
  for (int64_t width : {20, 64}) {
    const Affine affine(width);
    const std::vector<float> clean = random_normal(3 * width, 1.0f, 7);
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = clean;
      x[static_cast<size_t>(2 * width - 1)] = bad;
      for (Isa isa : available_isas()) {
        const std::vector<float> expected = run(clean, width, affine, isa), y = run(x, width, affine, isa);
        for (size_t i = 0; i < y.size(); ++i) {
          if (i / static_cast<size_t>(width) == 1) {
            CHECK(std::isnan(y[i]));
          } else {
            CHECK_EQ(y[i], expected[i]);
          }
        }
      }
    }
  }
}
