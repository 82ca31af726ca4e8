// Outputs that are summed up: the same bits as from the outputs themselves, and near sums in double.
#include "kernels/output_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kernel_table.h"
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

using Floats = std::vector<float>;

// A head, and for each row one output that is wanted.
struct Head {
  LinearArguments arguments;
  AlignedBytes packed;
  Floats bias;
  std::vector<int32_t> columns;

  Head(WeightFormat format, int64_t in, int64_t out)
      : packed(packed_weight_bytes(format, in, out)), bias(random_normal(out, 0.5f, 2)) {
    const Floats w = random_normal(in * out, 0.2f, 1);
    pack_columns(format, w.data(), out, 1, in, out, packed.data(), Serial());
    arguments.in_features = in;
    arguments.out_features = out;
    arguments.format = format;
    arguments.weight = packed.data();
    arguments.bias = bias.data();
  }

  void set_rows(const Floats& x) {
    arguments.x = x.data();
    arguments.rows = static_cast<int64_t>(x.size()) / arguments.in_features;
    columns.clear();
    for (int64_t row = 0; row < arguments.rows; ++row) {
      columns.push_back(
          static_cast<int32_t>((row * 7919 + arguments.out_features - 1) % arguments.out_features));
    }
  }
};

struct Sums {
  Floats wanted, maxima, sums;

  bool operator==(const Sums& other) const {
    return count_different(wanted, other.wanted) == 0 && count_different(maxima, other.maxima) == 0 &&
           count_different(sums, other.sums) == 0;
  }
};

void run(const LinearArguments& a, Isa isa, const Parallel& parallel) {
  const TestWorkspace workspace(
      linear_workspace(a.format, a.rows, a.in_features, parallel.threads(), kernels(isa)));
  linear(a, parallel, workspace.parts(), kernels(isa));
}

Sums summed(const Head& head, Isa isa, const Parallel& parallel = Serial()) {
  LinearArguments a = head.arguments;
  const auto blocks = static_cast<size_t>(divide_up(a.out_features, kVocabularyBlock));
  const auto rows = static_cast<size_t>(a.rows);
  Sums sums{Floats(rows, -7.0f), Floats(rows * blocks, -7.0f), Floats(rows * blocks, -7.0f)};
  a.output_sums = {head.columns.data(), sums.wanted.data(), sums.maxima.data(), sums.sums.data()};
  run(a, isa, parallel);
  return sums;
}

Floats outputs(const Head& head, Isa isa) {
  LinearArguments a = head.arguments;
  Floats y(static_cast<size_t>(a.rows * a.out_features));
  a.y = y.data();
  run(a, isa, Serial());
  return y;
}

// From outputs in memory.
Sums sums_of(const Head& head, const Floats& y) {
  Sums sums;
  const LinearArguments& a = head.arguments;
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* outputs = y.data() + row * a.out_features;
    sums.wanted.push_back(outputs[head.columns[static_cast<size_t>(row)]]);
    for (int64_t begin = 0; begin < a.out_features; begin += kVocabularyBlock) {
      const BlockExpSum block =
          kernels(Isa::kPortable)
              .vocabulary.exp_sum_block(outputs + begin, std::min(kVocabularyBlock, a.out_features - begin));
      sums.maxima.push_back(block.max);
      sums.sums.push_back(block.sum);
    }
  }
  return sums;
}

}  // namespace

TEST(sums_are_those_of_the_outputs_for_every_format_and_instruction_set) {
  for (WeightFormat format : kWeightFormats) {
    for (const auto& [in, out] :
         {std::pair<int64_t, int64_t>{1, 1}, {70, 15}, {64, 256}, {200, 257}, {130, 791}}) {
      Head head(format, in, out);
      for (const int64_t rows : {1, 2, 5, 16, 31, 33, 70, 150}) {
        const Floats x = random_normal(rows * in, 1.0f, 3);
        head.set_rows(x);
        const Sums expected = sums_of(head, outputs(head, Isa::kPortable));
        for (Isa isa : available_isas()) {
          for (const int threads : {1, 3}) CHECK(summed(head, isa, ThreadParallel(threads)) == expected);
        }
      }
    }
  }
}

TEST(a_rows_sums_have_the_same_bits_whatever_its_company) {
  const int64_t in = 100, out = 600, rows = 45;
  const Floats x = random_normal(rows * in, 1.0f, 4);
  for (WeightFormat format : kWeightFormats) {
    Head head(format, in, out);
    for (Isa isa : available_isas()) {
      head.set_rows(x);
      const Sums all = summed(head, isa);
      const std::vector<int32_t> columns = head.columns;
      for (int64_t first = 0, count = 1; first + count <= rows; first += count, ++count) {
        const Floats some(x.begin() + first * in, x.begin() + (first + count) * in);
        head.set_rows(some);
        std::copy_n(columns.begin() + first, count, head.columns.begin());
        const Sums part = summed(head, isa);
        const auto same = [&](const Floats& whole, const Floats& own, int64_t width) {
          return count_different(own, Floats(whole.begin() + first * width,
                                             whole.begin() + (first + count) * width)) == 0;
        };
        CHECK(same(all.wanted, part.wanted, 1));
        CHECK(same(all.maxima, part.maxima, 3) && same(all.sums, part.sums, 3));
      }
    }
  }
}

TEST(their_sum_is_near_the_one_in_double) {
  const int64_t in = 96, out = 5000, rows = 20;
  const Floats x = random_normal(rows * in, 1.0f, 5);
  for (WeightFormat format : kWeightFormats) {
    Head head(format, in, out);
    head.set_rows(x);
    for (Isa isa : available_isas()) {
      const Floats y = outputs(head, isa);
      const Sums sums = summed(head, isa);
      for (int64_t row = 0; row < rows; ++row) {
        const float* maxima = sums.maxima.data() + row * 20;
        const float max = *std::max_element(maxima, maxima + 20);
        double expected = 0;
        for (int64_t i = 0; i < out; ++i) {
          expected +=
              std::exp(static_cast<double>(y[static_cast<size_t>(row * out + i)]) - static_cast<double>(max));
        }
        const double sum = kernels(isa).vocabulary.add_exp_sums(maxima, sums.sums.data() + row * 20, 20, max);
        CHECK_NEAR(std::log(sum), std::log(expected), 2e-7);
      }
    }
  }
}

TEST(a_value_that_is_not_finite_spoils_its_rows_sums_alone) {
  const int64_t in = 80, out = 300;
  for (WeightFormat format : kWeightFormats) {
    Head head(format, in, out);
    for (Isa isa : available_isas()) {
      for (const int64_t rows : {3, 40}) {
        Floats x = random_normal(rows * in, 1.0f, 6);
        head.set_rows(x);
        const Sums clean = summed(head, isa);
        x[static_cast<size_t>(2 * in + 5)] = std::numeric_limits<float>::quiet_NaN();
        const Sums spoilt = summed(head, isa);
        for (size_t i = 0; i < spoilt.sums.size(); ++i) {
          CHECK(i / 2 == 2 ? std::isnan(spoilt.sums[i]) : spoilt.sums[i] == clean.sums[i]);
        }
      }
    }
  }
}
