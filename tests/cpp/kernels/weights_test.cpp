// The converter's interface to packing: the same bytes as the kernels', for any threads and strides.
#include "gpt2fast/weights.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/packing.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/parallel.h"

using namespace gpt2fast;
using gpt2fast::testing::kWeightFormats;
using gpt2fast::testing::random_normal;

namespace {

constexpr int64_t kIn = 70, kOut = 37;

}  // namespace

TEST(packing_gives_the_kernels_bytes_for_any_threads_and_strides) {
  const std::vector<float> w = random_normal(kIn * kOut, 1, 1);
  std::vector<float> transposed(w.size());
  for (int64_t k = 0; k < kIn; ++k) {
    for (int64_t n = 0; n < kOut; ++n) {
      transposed[static_cast<size_t>(n * kIn + k)] = w[static_cast<size_t>(k * kOut + n)];
    }
  }
  for (const WeightFormat format : kWeightFormats) {
    std::vector<uint8_t> expected(packed_weight_bytes(format, kIn, kOut)), bytes(expected.size());
    pack_columns(format, w.data(), kOut, 1, kIn, kOut, expected.data(), Serial());
    for (const int threads : {1, 3}) {
      pack_weight(format, w.data(), kOut, 1, kIn, kOut, threads, bytes.data());
      CHECK(bytes == expected);
    }
    pack_weight(format, transposed.data(), 1, kIn, kIn, kOut, 2, bytes.data());
    CHECK(bytes == expected);
  }
}

TEST(columns_are_unpacked) {
  const std::vector<float> w = random_normal(kIn * kOut, 1, 2);
  const double tolerances[] = {0, 0.02, 0.06, 0.4};
  for (const WeightFormat format : kWeightFormats) {
    std::vector<uint8_t> bytes(packed_weight_bytes(format, kIn, kOut));
    pack_weight(format, w.data(), kOut, 1, kIn, kOut, 1, bytes.data());
    for (const int64_t column : {0, 16, 36}) {
      std::vector<float> unpacked(kIn);
      unpack_column(format, bytes.data(), kIn, column, unpacked.data());
      for (int64_t k = 0; k < kIn; ++k) {
        CHECK_NEAR(unpacked[static_cast<size_t>(k)], w[static_cast<size_t>(k * kOut + column)],
                   tolerances[static_cast<int>(format)]);
      }
    }
  }
}

TEST(weights_that_cannot_be_packed_are_refused) {
  std::vector<float> w(kIn * kOut, 1.0f);
  w[100] = std::numeric_limits<float>::infinity();
  std::vector<uint8_t> bytes(packed_weight_bytes(WeightFormat::kFloat32, kIn, kOut));
  for (const WeightFormat format : kWeightFormats) {
    CHECK_THROWS(pack_weight(format, w.data(), kOut, 1, kIn, kOut, 2, bytes.data()), std::invalid_argument);
  }
  CHECK_THROWS(packed_weight_bytes(WeightFormat::kInt8, 0, 16), std::invalid_argument);
  CHECK_THROWS(packed_weight_bytes(WeightFormat::kInt8, 16, -1), std::invalid_argument);
  CHECK_THROWS(packed_weight_bytes(static_cast<WeightFormat>(4), 16, 16), std::invalid_argument);
}
