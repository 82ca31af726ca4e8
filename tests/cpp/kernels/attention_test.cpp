// Attention against a double-precision reference, and the promise that nothing but a token's own past changes
// its bits.
#include "kernels/attention.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/simd_portable.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What one sequence brings to a step: rows [first, first + count) of its own qkv array.
struct Part {
  int32_t slot;
  const std::vector<float>* qkv;  // [tokens, 3 * width]
  int64_t first;
  int64_t count;
  int64_t unwanted_before = 0;  // of the rows
  int64_t unwanted_behind = 0;
};

struct Machine {
  Isa isa = Isa::kPortable;
  int threads = 1;
};

class Cache {
 public:
  Cache(CacheShape shape, int64_t slots, uint8_t fill)
      : shape_(shape), bytes_(static_cast<size_t>(slots * shape.slot_bytes())) {
    std::fill_n(bytes_.data(), bytes_.size(), fill);
  }

  uint8_t* slot(int64_t index) { return bytes_.data() + index * shape_.slot_bytes(); }

  // Runs one step and returns the parts' outputs, one after another: [tokens, width].
  std::vector<float> step(const std::vector<Part>& parts, const Machine& machine, int64_t layer = 0) {
    const int64_t width = shape_.heads * shape_.head_dim;
    std::vector<float> qkv;
    std::vector<int32_t> starts = {0}, slots, lengths, begins, ends;
    for (const Part& part : parts) {
      const auto begin = part.qkv->begin() + part.first * 3 * width;
      qkv.insert(qkv.end(), begin, begin + part.count * 3 * width);
      begins.push_back(starts.back() + static_cast<int32_t>(part.unwanted_before));
      starts.push_back(starts.back() + static_cast<int32_t>(part.count));
      ends.push_back(starts.back() - static_cast<int32_t>(part.unwanted_behind));
      slots.push_back(part.slot);
      lengths.push_back(static_cast<int32_t>(part.first));
    }
    std::vector<float> y(static_cast<size_t>(starts.back() * width), kNan);
    AttentionArguments arguments;
    arguments.shape = shape_;
    arguments.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    arguments.sequences = static_cast<int64_t>(parts.size());
    arguments.qkv = qkv.data();
    arguments.sequence_starts = starts.data();
    arguments.slots = slots.data();
    arguments.cached_lengths = lengths.data();
    arguments.wanted_begins = begins.data();
    arguments.wanted_ends = ends.data();
    arguments.cache = bytes_.data() + layer * shape_.layer_stride();
    arguments.y = y.data();
    const TestWorkspace workspace(attention_workspace(arguments, machine.threads, kernels(machine.isa)));
    cached_attention(arguments, ThreadParallel(machine.threads), workspace.parts(), kernels(machine.isa));
    return y;
  }

 private:
  CacheShape shape_;
  AlignedBytes bytes_;
};

CacheShape make_shape(int64_t heads, int64_t head_dim, int64_t positions, CacheFormat format) {
  CacheShape shape;
  shape.heads = heads;
  shape.head_dim = head_dim;
  shape.positions = positions;
  shape.format = format;
  return shape;
}

std::vector<float> random_qkv(const CacheShape& shape, int64_t tokens, uint32_t seed,
                              float deviation = 1.5f) {
  return random_normal(tokens * 3 * shape.heads * shape.head_dim, deviation, seed);
}

// One sequence alone, in steps of the given sizes, in a cache that starts out full of NaNs.
std::vector<float> run_alone(const CacheShape& shape, const std::vector<float>& qkv,
                             const std::vector<int64_t>& chunks, const Machine& machine) {
  Cache cache(shape, 1, 0xff);
  std::vector<float> all;
  int64_t first = 0;
  for (int64_t chunk : chunks) {
    const std::vector<float> y = cache.step({{0, &qkv, first, chunk}}, machine);
    all.insert(all.end(), y.begin(), y.end());
    first += chunk;
  }
  return all;
}

// A key, value or, with an int8 cache, query [head_dim] as attention sees it.
std::vector<double> rounded(const CacheShape& shape, const float* x, bool is_query = false) {
  std::vector<double> result(x, x + shape.head_dim);
  if (shape.format == CacheFormat::kFloat16 && !is_query) {
    for (double& value : result) {
      value = portable::half_to_float(portable::float_to_half(static_cast<float>(value)));
    }
  }
  if (shape.format == CacheFormat::kInt8) {
    float largest = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) largest = std::max(largest, std::abs(x[d]));
    // To nearest with 8 significant bits.
    int exponent = 0;
    const double mantissa = std::frexp(largest / 127.0f, &exponent);
    const double scale = std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
    const float inverse = largest < 0x1p-93f ? 0.0f : 1.0f / static_cast<float>(scale);
    for (double& value : result) value = std::nearbyint(static_cast<float>(value) * inverse) * scale;
  }
  return result;
}

// softmax(q k^T / sqrt(head_dim)) v for one token and head.
std::vector<double> reference(const CacheShape& shape, const std::vector<float>& qkv, int64_t token,
                              int64_t head) {
  const int64_t width = shape.heads * shape.head_dim;
  const auto at = [&](int64_t t, int64_t part) {
    return rounded(shape, &qkv[static_cast<size_t>((t * 3 + part) * width + head * shape.head_dim)],
                   part == 0);
  };
  const std::vector<double> query = at(token, 0);
  std::vector<double> scores;
  for (int64_t t = 0; t <= token; ++t) {
    const std::vector<double> key = at(t, 1);
    const double score = std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
    scores.push_back(score / std::sqrt(static_cast<double>(shape.head_dim)));
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - maximum);
  std::vector<double> result(static_cast<size_t>(shape.head_dim), 0.0);
  for (int64_t t = 0; t <= token; ++t) {
    const std::vector<double> value = at(t, 2);
    for (size_t d = 0; d < value.size(); ++d) result[d] += scores[static_cast<size_t>(t)] / sum * value[d];
  }
  return result;
}

// Of an output, with values of at most `largest`: an int8 cache rounds softmax weights to 15 bits.
double tolerance(const CacheShape& shape, double largest) {
  return largest * (shape.format == CacheFormat::kInt8 ? 1e-4 : 1e-6);
}

void check_against_reference(const CacheShape& shape, const std::vector<float>& qkv,
                             const std::vector<float>& y) {
  const int64_t width = shape.heads * shape.head_dim;
  const int64_t tokens = static_cast<int64_t>(y.size()) / width;
  double largest_error = 0;
  for (int64_t token = 0; token < tokens; token += token % 7 == 0 ? 1 : 3) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      const std::vector<double> expected = reference(shape, qkv, token, head);
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const float actual = y[static_cast<size_t>(token * width + head * shape.head_dim + d)];
        const double error = std::abs(actual - expected[static_cast<size_t>(d)]);
        largest_error = error <= largest_error ? largest_error : error;
      }
    }
  }
  CHECK(largest_error <= tolerance(shape, 6.0));
}

std::vector<int64_t> ones(int64_t count) { return std::vector<int64_t>(static_cast<size_t>(count), 1); }

constexpr CacheFormat kFloat32 = CacheFormat::kFloat32, kFloat16 = CacheFormat::kFloat16,
                      kInt8 = CacheFormat::kInt8;

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
      for (int threads : {2, 3, 7}) {
        CHECK_EQ(count_different(expected, run_alone(shape, qkv, {101, 198, 1}, {isa, threads})), 0);
      }
    }
  }
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

    copy_slot(shape, cache.slot(0), cache.slot(2), 70);
    CHECK_EQ(count_different(tail, cache.step({{2, &qkv, 70, 30}}, machine)), 0);
    copy_slot(shape, cache.slot(2), cache.slot(0), 0);
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
    copy_slot(shape, cache.slot(0), cache.slot(1), 140);
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const std::vector<float> qkv = random_qkv(shape, 150, 30 + static_cast<uint32_t>(layer));
      CHECK_EQ(count_different(cache.step({{0, &qkv, 140, 10}}, {}, layer),
                               cache.step({{1, &qkv, 140, 10}}, {}, layer)),
               0);
    }
  }
}
