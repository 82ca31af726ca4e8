// Packed weights: sizes, round trips within the formats' error, packing in ranges of columns, refusals.
#include "kernels/packing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/packing_int4.h"
#include "support/counted_allocations.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using gpt2fast::testing::kWeightFormats;
using gpt2fast::testing::random_normal;

namespace {

std::vector<uint8_t> pack(WeightFormat format, const std::vector<float>& w, int64_t in, int64_t out,
                          const Parallel& parallel = Serial()) {
  std::vector<uint8_t> packed(packed_weight_bytes(format, in, out), uint8_t{0xcd});
  pack_columns(format, w.data(), out, 1, in, out, packed.data(), parallel);
  return packed;
}

// [in, out], like the weight that was packed.
std::vector<float> unpack(WeightFormat format, const std::vector<uint8_t>& packed, int64_t in, int64_t out) {
  std::vector<float> w(static_cast<size_t>(in * out));
  std::vector<float> column(static_cast<size_t>(in));
  for (int64_t n = 0; n < out; ++n) {
    unpack_column(format, packed.data(), in, n, column.data());
    for (int64_t k = 0; k < in; ++k) w[static_cast<size_t>(k * out + n)] = column[static_cast<size_t>(k)];
  }
  return w;
}

double relative_error(const std::vector<float>& exact, const std::vector<float>& approximate) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = static_cast<double>(exact[i]) - static_cast<double>(approximate[i]);
    difference += error * error;
    norm += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
  }
  return std::sqrt(difference / norm);
}

// Zeros and every value that 4 bits in blocks of 32 hold exactly: multiples of a power of two.
std::vector<float> small_integers(int64_t count) {
  std::vector<float> w(static_cast<size_t>(count));
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(static_cast<int>(i * 7 % 16) - 8) * 0.25f;
  return w;
}

// Counts what is allocated inside its tasks, which can't report that there is no memory.
class AllocationsOfTasks final : public Parallel {
 public:
  int threads() const override { return 2; }
  int64_t count() const { return count_; }

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    const int64_t before = allocations();
    for (int64_t i = 0; i < count; ++i) function(data, i);
    count_ += allocations() - before;
  }

 private:
  mutable int64_t count_ = 0;
};

}  // namespace

TEST(tasks_allocate_nothing) {
  const std::vector<float> w = random_normal(int64_t{130} * 70, 0.02f, 1);
  for (const WeightFormat format : kWeightFormats) {
    const AllocationsOfTasks parallel;
    pack(format, w, 130, 70, parallel);
    CHECK_EQ(parallel.count(), int64_t{0});
  }
}

TEST(sizes_are_the_documented_bits) {
  CHECK_EQ(packed_weight_bytes(WeightFormat::kFloat32, 768, 16), size_t{768 * 16 * 4});
  CHECK_EQ(packed_weight_bytes(WeightFormat::kBFloat16, 768, 16), size_t{768 * 16 * 2});
  CHECK_EQ(packed_weight_bytes(WeightFormat::kInt8, 768, 16), size_t{768 * 16 + 64});
  CHECK_EQ(packed_weight_bytes(WeightFormat::kInt4, 768, 16), size_t{768 * 8 + 12 * 64 + 64});
  CHECK(static_cast<double>(packed_weight_bytes(WeightFormat::kInt4, 768, 3072)) * 8 / (768 * 3072) < 4.6);
  for (WeightFormat format : kWeightFormats) {
    for (int64_t in : {1, 63, 64, 65}) {
      CHECK_EQ(packed_weight_bytes(format, in, 17), 2 * packed_weight_bytes(format, in, 16));
      CHECK_EQ(packed_weight_bytes(format, in, 1) % 64, size_t{0});
    }
  }
}

TEST(round_trips_stay_within_the_formats_error) {
  const double bounds[] = {0.0, 0.0025, 0.0082, 0.074};  // by WeightFormat, for random normals
  const int64_t in = 200, out = 50;
  const std::vector<float> w = random_normal(in * out, 0.02f, 1);
  for (WeightFormat format : kWeightFormats) {
    CHECK(relative_error(w, unpack(format, pack(format, w, in, out), in, out)) <=
          bounds[static_cast<int>(format)]);
  }
}

// Eight mixed rows are rounded to half a step each, and a quarter of their sum comes back; a mixed row is at
// most half the sum of the eight magnitudes.
TEST(int8_errs_by_a_step_at_most) {
  const int64_t in = 300, out = 20;
  const std::vector<float> w = random_normal(in * out, 1.0f, 2);
  const std::vector<float> packed =
      unpack(WeightFormat::kInt8, pack(WeightFormat::kInt8, w, in, out), in, out);
  for (int64_t n = 0; n < out; ++n) {
    float largest = 0;
    for (int64_t begin = 0; begin < in; begin += 128) {
      const int64_t end = std::min(in, begin + 128);
      for (int64_t i = 0; i < 16; ++i) {
        float sum = 0;
        for (int64_t k = begin + i; k < end; k += 16) sum += std::abs(w[static_cast<size_t>(k * out + n)]);
        largest = std::max(largest, sum / 2);
      }
    }
    for (int64_t k = 0; k < in; ++k) {
      const auto i = static_cast<size_t>(k * out + n);
      CHECK_NEAR(packed[i], w[i], 1.01 * static_cast<double>(largest) / 127);
    }
  }
}

TEST(int4_keeps_what_it_can_represent) {
  const int64_t in = 96, out = 16;
  const std::vector<float> w = small_integers(in * out);
  const std::vector<float> back = unpack(WeightFormat::kInt4, pack(WeightFormat::kInt4, w, in, out), in, out);
  CHECK(relative_error(w, back) < 1e-6);
}

TEST(int4_beats_rounding_to_the_range) {
  // The mean squared error of a group under plain scaling of [min, max] to 16 levels.
  const std::vector<float> w = random_normal(32 * 100, 1.0f, 3);
  double searched = 0, plain = 0;
  for (size_t group = 0; group < 100; ++group) {
    const float* x = w.data() + 32 * group;
    const double low = *std::min_element(x, x + 32), step = (*std::max_element(x, x + 32) - low) / 15;
    const float column_scale = int4_column_scale(x, 32);
    const Int4Group packed = quantize_int4_group(x, column_scale, kernels());
    const double scale =
        static_cast<double>(column_scale) * static_cast<double>(int4_minifloat(packed.scale));
    for (int k = 0; k < 32; ++k) {
      const double rounded = low + step * std::nearbyint((x[k] - low) / step);
      plain += (rounded - x[k]) * (rounded - x[k]);
      const double value = scale * (packed.values[k] - packed.zero / 16.0);
      searched += (value - x[k]) * (value - x[k]);
    }
  }
  CHECK(searched < 0.9 * plain);
}

TEST(minifloat_covers_sixteen_octaves) {
  CHECK_EQ(int4_minifloat(0), 0x1p-11f);
  CHECK_EQ(int4_minifloat(0xb0), 1.0f);
  CHECK_EQ(int4_minifloat(0xff), 31.0f);
  for (int code = 1; code < 256; ++code) {
    CHECK(int4_minifloat(static_cast<uint8_t>(code)) > int4_minifloat(static_cast<uint8_t>(code - 1)));
  }
}

// Int8 has one scale for a column: there an outlier costs the column its precision.
TEST(an_outlier_leaves_other_groups_alone) {
  const int64_t in = 128;
  for (WeightFormat format : {WeightFormat::kFloat32, WeightFormat::kBFloat16, WeightFormat::kInt4}) {
    std::vector<float> w = random_normal(in, 0.02f, 4);
    w[0] = 50.0f;
    const std::vector<float> back = unpack(format, pack(format, w, in, 1), in, 1);
    const std::vector<float> others(w.begin() + 64, w.end());
    CHECK(relative_error(others, {back.begin() + 64, back.end()}) < 0.09);
    CHECK_NEAR(back[0], 50.0, 0.2);
  }
}

TEST(an_int8_outlier_leaves_other_columns_alone) {
  const int64_t in = 128, out = 20;
  const std::vector<float> clean = random_normal(in * out, 0.02f, 8);
  std::vector<float> w = clean;
  w[5] = 50.0f;
  const std::vector<float> expected =
      unpack(WeightFormat::kInt8, pack(WeightFormat::kInt8, clean, in, out), in, out);
  const std::vector<float> back = unpack(WeightFormat::kInt8, pack(WeightFormat::kInt8, w, in, out), in, out);
  for (size_t i = 0; i < w.size(); ++i) CHECK(i % 20 == 5 || back[i] == expected[i]);
  CHECK_NEAR(back[5], 50.0, 0.4);
}

TEST(zeros_and_single_weights_are_exact_or_near) {
  for (WeightFormat format : kWeightFormats) {
    const std::vector<float> zeros(70 * 3, 0.0f);
    for (float value : unpack(format, pack(format, zeros, 70, 3), 70, 3)) CHECK_EQ(value, 0.0f);
    for (float value : {1.0f, -0.3f, 1e-20f, 3e30f, -7e-39f}) {
      const float back = unpack(format, pack(format, {value}, 1, 1), 1, 1)[0];
      CHECK_NEAR(back, value, 0.005 * std::abs(static_cast<double>(value)));
    }
  }
}

TEST(the_largest_float_stays_finite_in_bfloat16) {
  const float largest = std::numeric_limits<float>::max();
  const float back = unpack(WeightFormat::kBFloat16, pack(WeightFormat::kBFloat16, {largest}, 1, 1), 1, 1)[0];
  CHECK(std::isfinite(back));
}

TEST(column_ranges_concatenate_to_the_whole) {
  const int64_t in = 90, out = 53;
  const std::vector<float> w = random_normal(in * out, 0.02f, 5);
  for (WeightFormat format : kWeightFormats) {
    const std::vector<uint8_t> whole = pack(format, w, in, out);
    std::vector<uint8_t> parts(whole.size());
    for (int64_t first : {int64_t{0}, int64_t{16}, int64_t{48}}) {
      const int64_t end = first == 0 ? 16 : first == 16 ? 48 : out;
      uint8_t* packed =
          parts.data() + packed_panel_bytes(format, in) * static_cast<size_t>(first / kPanelColumns);
      pack_columns(format, w.data() + first, out, 1, in, end - first, packed, Serial());
    }
    CHECK(parts == whole);
  }
}

TEST(strides_and_threads_do_not_matter) {
  const int64_t in = 70, out = 40;
  const std::vector<float> w = random_normal(in * out, 0.02f, 6);
  std::vector<float> transposed(w.size());
  for (int64_t k = 0; k < in; ++k) {
    for (int64_t n = 0; n < out; ++n)
      transposed[static_cast<size_t>(n * in + k)] = w[static_cast<size_t>(k * out + n)];
  }
  for (WeightFormat format : kWeightFormats) {
    const std::vector<uint8_t> expected = pack(format, w, in, out);
    std::vector<uint8_t> packed(expected.size());
    pack_columns(format, transposed.data(), 1, in, in, out, packed.data(), Serial());
    CHECK(packed == expected);
    CHECK(pack(format, w, in, out, ThreadParallel(3)) == expected);
  }
}

TEST(weights_that_are_not_finite_are_refused) {
  for (WeightFormat format : kWeightFormats) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> w = random_normal(40 * 20, 0.02f, 7);
      w[777] = bad;
      CHECK_THROWS(pack(format, w, 40, 20), std::invalid_argument);
    }
  }
}

TEST(sizes_out_of_range_and_unknown_formats_are_refused) {
  CHECK_THROWS(packed_weight_bytes(WeightFormat::kInt8, 0, 16), std::invalid_argument);
  CHECK_THROWS(packed_weight_bytes(WeightFormat::kInt8, 16, -1), std::invalid_argument);
  CHECK_THROWS(packed_weight_bytes(WeightFormat::kInt8, kMaxFeatures + 1, 16), std::invalid_argument);
  CHECK_THROWS(packed_weight_bytes(WeightFormat::kFloat32, 16, std::numeric_limits<int64_t>::max()),
               std::invalid_argument);
  CHECK_THROWS(packed_weight_bytes(static_cast<WeightFormat>(4), 16, 16), std::invalid_argument);
}
