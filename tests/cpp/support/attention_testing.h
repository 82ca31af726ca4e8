// Steps of attention on caches of their own, and the same in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/attention.h"
#include "kernels/simd_portable.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

namespace gpt2fast::testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

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
    return step(parts, machine.isa, ThreadParallel(machine.threads), layer);
  }

  std::vector<float> step(const std::vector<Part>& parts, Isa isa, const Parallel& parallel,
                          int64_t layer = 0) {
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
    const TestWorkspace workspace(attention_workspace(arguments, parallel.threads(), kernels(isa)));
    cached_attention(arguments, parallel, workspace.parts(), kernels(isa));
    return y;
  }

 private:
  CacheShape shape_;
  AlignedBytes bytes_;
};

inline CacheShape make_shape(int64_t heads, int64_t head_dim, int64_t positions, CacheFormat format) {
  CacheShape shape;
  shape.heads = heads;
  shape.head_dim = head_dim;
  shape.positions = positions;
  shape.format = format;
  return shape;
}

inline std::vector<float> random_qkv(const CacheShape& shape, int64_t tokens, uint32_t seed,
                                     float deviation = 1.5f) {
  return random_normal(tokens * 3 * shape.heads * shape.head_dim, deviation, seed);
}

// One sequence alone, in steps of the given sizes, in a cache that starts out full of NaNs.
inline std::vector<float> run_alone(const CacheShape& shape, const std::vector<float>& qkv,
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
inline std::vector<double> rounded(const CacheShape& shape, const float* x, bool is_query = false) {
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
inline std::vector<double> reference(const CacheShape& shape, const std::vector<float>& qkv, int64_t token,
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
inline double tolerance(const CacheShape& shape, double largest) {
  return largest * (shape.format == CacheFormat::kInt8 ? 1e-4 : 1e-6);
}

inline void check_against_reference(const CacheShape& shape, const std::vector<float>& qkv,
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

inline std::vector<int64_t> ones(int64_t count) {
  return std::vector<int64_t>(static_cast<size_t>(count), 1);
}

inline constexpr CacheFormat kFloat32 = CacheFormat::kFloat32, kFloat16 = CacheFormat::kFloat16,
                             kInt8 = CacheFormat::kInt8;

}  // namespace gpt2fast::testing
