// How linear() prepares rows: it applies the LayerNorm, then rounds to int8 in blocks for integer formats,
// and interleaves the rows of a tile.
#pragma once

#include <limits>

#include "kernels/layer_norm_kernel.h"
#include "kernels/linear_task.h"
#include "kernels/simd.h"

namespace gpt2fast {

inline constexpr int kBlockValues = 64;

// Mixes values: multiplies them by H / order, see packing.h. None becomes larger than the largest was.
template <typename V, int order>
GPT2FAST_INLINE void mix(V* parts) {
  const V factor = V::set1(1.0f / order);
  GPT2FAST_UNROLL for (int i = 0; i < order; ++i) parts[i] = parts[i] * factor;
  GPT2FAST_UNROLL for (int step = 1; step < order; step *= 2) {
    GPT2FAST_UNROLL for (int i = 0; i < order; ++i) {
      if (i & step) continue;
      const V low = parts[i], high = parts[i + step];
      parts[i] = low + high;
      parts[i + step] = low - high;
    }
  }
}

// What becomes of a row's values for int8 weights, and how weights are multiplied by them. An instruction set
// may bring its own, as Ops::Int8Rows.
template <typename Ops>
struct PlainInt8Rows {
  using Weights = typename Ops::Int8Weights;
  static constexpr int64_t kValueBytes = 1;  // a prepared value's
  // A row's correction is so many times the sum of its values.
  static constexpr int32_t kCorrection = -128;

  static GPT2FAST_INLINE typename Ops::Sums start(int32_t correction) { return Ops::start_int8(correction); }
  static GPT2FAST_INLINE Weights load(const uint8_t* p) { return Ops::load_int8(p); }
  static GPT2FAST_INLINE typename Ops::Sums dot(typename Ops::Sums sums, const Weights& w, const uint8_t* x) {
    return Ops::dot_int8(sums, w, reinterpret_cast<const int8_t*>(x));
  }
};

template <typename Ops>
struct Int8RowsOf {
  using Type = PlainInt8Rows<Ops>;
};
template <typename Ops>
  requires requires { typename Ops::Int8Rows; }
struct Int8RowsOf<Ops> {
  using Type = typename Ops::Int8Rows;
};
template <typename Ops>
using Int8Rows = typename Int8RowsOf<Ops>::Type;

// Whether a row's values become other bytes.
template <typename Ops>
inline constexpr bool kRearrangesInt8 = requires { typename Ops::Int8Rows; };

// Stores one block of each of a tile's rows, which are `stride` bytes apart, four values of each row in turn.
template <typename Ops>
struct InterleavedRows {
  static GPT2FAST_INLINE void arrange(const int8_t* rows, int64_t stride, int64_t height, uint8_t* out) {
    if (height == 1) {
      memcpy(out, rows, kBlockValues);
      return;
    }
    for (int64_t r = 0; r < height; ++r, rows += stride, out += 4) {
      // Unrolled further, it would run out of registers for addresses.
      _Pragma("GCC unroll 4") for (int64_t i = 0; i < kBlockValues; i += 4)
          memcpy(out + i * height, rows + i, 4);
    }
  }
};

// The same for an instruction set's own Int8Rows.
template <typename Ops>
struct InterleavedInt8Rows {
  static GPT2FAST_INLINE void arrange(const int8_t* rows, int64_t stride, int64_t height, uint8_t* out) {
    if constexpr (kRearrangesInt8<Ops>) {
      constexpr int64_t kBytes = 4 * Int8Rows<Ops>::kValueBytes;
      for (int64_t r = 0; r < height; ++r)
        Ops::Int8Rows::arrange(rows + r * stride, height * kBytes, out + r * kBytes);
    } else {
      InterleavedRows<Ops>::arrange(rows, stride, height, out);
    }
  }
};

// Stores one block of each of a tile's rows, row after row.
struct WholeRows {
  static GPT2FAST_INLINE void arrange(const int8_t* rows, int64_t stride, int64_t height, uint8_t* out) {
    for (int64_t r = 0; r < height; ++r) memcpy(out + r * kBlockValues, rows + r * stride, kBlockValues);
  }
};

// Consecutive blocks of a row, at most kLanes. What is computed once a block (its scale, its sums) is a lane
// of a vector: done block by block, it would mostly wait for horizontal sums and divisions.
template <typename Ops>
class RowBlocks {
  using V = Vec<typename Ops::Tag>;

 public:
  // x holds the blocks' `count` values.
  GPT2FAST_INLINE RowBlocks(const float* x, int64_t count, WeightFormat format)
      : count_((count + kBlockValues - 1) / kBlockValues),
        together_(format == WeightFormat::kInt8 ? kInt8RowBlocks : 1),
        value_bytes_(format == WeightFormat::kInt8 ? Int8Rows<Ops>::kValueBytes : 1),
        format_(format) {
    for (int64_t b = 0; b < count_; b += kInt8RowBlocks) {
      const float* blocks = x + b * kBlockValues;
      const int64_t left = count - b * kBlockValues;
      if (format == WeightFormat::kInt8 && count_ - b >= kInt8RowBlocks) {
        load_blocks<static_cast<int>(kInt8RowBlocks), true>(blocks, left, b);
      } else {
        for (int64_t i = 0; i < kInt8RowBlocks && b + i < count_; ++i) {
          const float* block = blocks + i * kBlockValues;
          if (format == WeightFormat::kInt8) {
            load_blocks<1, true>(block, left - i * kBlockValues, b + i);
          } else {
            load_blocks<1, false>(block, left - i * kBlockValues, b + i);
          }
        }
      }
    }
  }

  // Rounds row `row` of a tile of `height` rows, and writes its scales and corrections, see LinearTask. A
  // block that holds a NaN or an infinity becomes NaN as a whole, so that the row's outputs do.
  GPT2FAST_INLINE void round(int8_t* rounded, int64_t row, int64_t height, uint8_t* tile_blocks,
                             int64_t scaled_bytes) {
    alignas(64) float inverses[kLanes], scales[kLanes];
    find_scales(inverses, scales);
    for (int64_t b = 0; b < count_; ++b) {
      V parts[4];
      const V inverse = V::set1(inverses[b]);
      for (int i = 0; i < 4; ++i) {
        const V part = V::load(values_ + b * kBlockValues + kLanes * i);
        parts[i] = inverses[b] > 0.0f ? part * inverse : V::zero();
      }
      int8_t* values = rounded + b * kBlockValues;
      typename Ops::Sums sums = Ops::round_to_int8(parts, values);
      if constexpr (kRearrangesInt8<Ops>) {
        if (format_ == WeightFormat::kInt8) sums = Ops::Int8Rows::sums_for_correction(values);
      }
      Ops::to_float(sums).store(lanes_[b]);
    }
    alignas(64) float first_sums[kLanes], second_sums[kLanes];
    sum_values(first_sums, second_sums);
    for (int64_t b = 0; b < count_; b += together_, tile_blocks += height * scaled_bytes) {
      float* tile_scales =
          reinterpret_cast<float*>(tile_blocks + together_ * kBlockValues * value_bytes_ * height);
      int32_t* corrections = reinterpret_cast<int32_t*>(tile_scales + height);
      tile_scales[row] = scales[b];
      const int32_t first = static_cast<int32_t>(first_sums[b]),
                    second = static_cast<int32_t>(second_sums[b]);
      if (format_ == WeightFormat::kInt8) {
        static_assert(kInt8RowBlocks == 2);  // beyond count_ sums are 0
        corrections[row] = Int8Rows<Ops>::kCorrection *
                           (first + second + static_cast<int32_t>(first_sums[b + 1] + second_sums[b + 1]));
      } else {
        corrections[row] = int4_correction(first);
        corrections[height + row] = int4_correction(second);
      }
    }
  }

 private:
  static GPT2FAST_INLINE int32_t int4_correction(int32_t sum) {
    if constexpr (requires { Ops::int4_correction(sum); }) {
      return Ops::int4_correction(sum);
    } else {
      return -sum & 0xffff;
    }
  }

  // Loads blocks that are mixed together, from block `first` on; x has `left` values.
  template <int blocks, bool mixes>
  GPT2FAST_INLINE void load_blocks(const float* x, int64_t left, int64_t first) {
    constexpr int kParts = kBlockValues / kLanes;
    V parts[blocks * kParts];
    GPT2FAST_UNROLL for (int i = 0; i < blocks * kParts; ++i) {
      const int64_t begin = kLanes * i;
      parts[i] =
          left >= blocks * kBlockValues ? V::load(x + begin) : V::load_partial(x + begin, left - begin);
    }
    if (mixes) mix<V, blocks * kParts>(parts);
    for (int b = 0; b < blocks; ++b) {
      const V* block = parts + b * kParts;
      for (int i = 0; i < kParts; ++i) block[i].store(values_ + (first + b) * kBlockValues + kLanes * i);
      Ops::max_magnitude(Ops::max_magnitude(abs(block[0]), abs(block[1])),
                         Ops::max_magnitude(abs(block[2]), abs(block[3])))
          .store(lanes_[first + b]);
    }
  }

  // A block that becomes zero gets an inverse that is not above zero.
  GPT2FAST_INLINE void find_scales(float* inverses, float* scales) const {
    V largest[kLanes];
    load_lanes(largest);
    V magnitude = largest[0];
    for (int i = 1; i < kLanes; ++i) magnitude = Ops::max_magnitude(magnitude, largest[i]);
    if (together_ == kInt8RowBlocks) magnitude = largest_of_pairs(magnitude);
    const V smallest = V::set1(0x1p-110f);  // its reciprocal is still a float; smaller blocks count as zero
    const V steps = V::set1(127.0f);
    select_less(magnitude, smallest, V::zero(), steps / magnitude).store(inverses);

    // Int8 weights were mixed by H / 2, rows by H / 8 (or H / 4); H H = 8 (or 4) leaves a half.
    const V unit = V::set1(format_ == WeightFormat::kInt8 ? 2.0f : 1.0f);
    const V scale = select_less(magnitude, smallest, V::zero(), magnitude / steps * unit);
    const V infinity = V::set1(std::numeric_limits<float>::infinity());
    const V nan = V::set1(std::numeric_limits<float>::quiet_NaN());
    select_less(magnitude, infinity, scale, nan).store(scales);
  }

  // The larger of each pair of lanes, in both. Values have no sign: compared as integers, a NaN is the
  // largest.
  static GPT2FAST_INLINE V largest_of_pairs(V values) {
    static_assert(kInt8RowBlocks == 2);
    alignas(64) float floats[kLanes];
    uint32_t lanes[kLanes];
    values.store(floats);
    memcpy(lanes, floats, sizeof(lanes));
    for (int i = 0; i < kLanes; i += 2)
      lanes[i] = lanes[i + 1] = lanes[i] > lanes[i + 1] ? lanes[i] : lanes[i + 1];
    memcpy(floats, lanes, sizeof(lanes));
    return V::load(floats);
  }

  // Sums the values of each block's two halves.
  GPT2FAST_INLINE void sum_values(float* first_sums, float* second_sums) const {
    V sums[kLanes];  // each lane the sum of four values
    load_lanes(sums);
    for (int i = 1; i < 8; ++i) {
      sums[0] = sums[0] + sums[i];
      sums[8] = sums[8] + sums[8 + i];
    }
    sums[0].store(first_sums);
    sums[8].store(second_sums);
  }

  // Lane b of vectors[i] becomes lanes_[b][i].
  GPT2FAST_INLINE void load_lanes(V (&vectors)[kLanes]) const {
    for (int b = 0; b < kLanes; ++b) vectors[b] = b < count_ ? V::load(lanes_[b]) : V::zero();
    transpose(vectors);
  }

  int64_t count_;
  int64_t together_;     // blocks that share a scale
  int64_t value_bytes_;  // a prepared value's
  WeightFormat format_;
  alignas(64) float values_[kLanes * kBlockValues];
  alignas(64) float lanes_[kLanes][kLanes];
};

// Calls write(x, height, row, out) for every row, with x after the LayerNorm and `out` the start of the tile
// whose row `row` it becomes.
template <typename Ops, typename Write>
GPT2FAST_INLINE void prepare_rows(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared,
                                  const Write& write) {
  const LinearArguments& a = task.arguments;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* x = a.x + row * a.in_features;
    if (a.gamma != nullptr) {
      layer_norm_row<typename Ops::Tag>(x, a.in_features, a.gamma, a.beta, a.epsilon, scratch);
      x = scratch;
    }
    const int64_t tile = task.tiles.tile_of(row);
    const int64_t first_row = task.tiles.begin(tile);
    write(x, task.tiles.height(tile), row - first_row, prepared + task.offset(first_row));
  }
}

// Rounds and arranges `rows`, which are those of whole tiles.
template <typename Ops, typename Int8Arrangement = InterleavedInt8Rows<Ops>,
          typename Int4Arrangement = InterleavedRows<Ops>>
void quantize_rows(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  static_assert(Ops::kInt8Rows <= kMaxTileRows && Ops::kInt4Rows <= kMaxTileRows);
  const LinearArguments& a = task.arguments;
  const bool int8 = a.format == WeightFormat::kInt8;
  const int64_t value_bytes = int8 ? Int8Rows<Ops>::kValueBytes : 1;
  const int64_t scaled_bytes = int8 ? int8_scaled_bytes(value_bytes) : kInt4ScaledBytes;
  const int64_t together = int8 ? kInt8RowBlocks : 1;  // blocks of 64 with one scale
  const int64_t blocks = (a.in_features + kBlockValues - 1) / kBlockValues, width = blocks * kBlockValues;
  int8_t* rounded = reinterpret_cast<int8_t*>(scratch + scratch_row_floats(a.in_features));
  prepare_rows<Ops>(task, rows, scratch, prepared,
                    [&](const float* x, int64_t height, int64_t row, uint8_t* out) {
                      constexpr int64_t kValues = kLanes * kBlockValues;
                      for (int64_t k = 0; k < a.in_features; k += kValues) {
                        const int64_t count = a.in_features - k < kValues ? a.in_features - k : kValues;
                        uint8_t* tile_blocks = out + k / kBlockValues / together * height * scaled_bytes;
                        RowBlocks<Ops>(x + k, count, a.format)
                            .round(rounded + row * width + k, row, height, tile_blocks, scaled_bytes);
                      }
                      if (row + 1 < height) return;
                      for (int64_t b = 0; b < blocks; ++b) {
                        uint8_t* scaled = out + b / together * height * scaled_bytes;
                        const auto arrange = int8 ? Int8Arrangement::arrange : Int4Arrangement::arrange;
                        arrange(rounded + b * kBlockValues, width, height,
                                scaled + b % together * kBlockValues * value_bytes * height);
                      }
                    });
}

// Rounds to the nearest bf16. What is below the smallest normal number becomes zero, as the instructions for
// bf16 take it; a NaN stays one.
GPT2FAST_INLINE float rounded_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t sign = bits & 0x80000000u, magnitude = bits & 0x7fffffffu;
  const uint32_t nearest = (magnitude + 0x7fffu + (magnitude >> 16 & 1u)) & 0xffff0000u;
  const uint32_t finite = magnitude < 0x00800000u ? 0 : nearest;
  bits = sign | (magnitude > 0x7f800000u ? magnitude : finite);
  memcpy(&x, &bits, sizeof(x));
  return x;
}

template <typename Ops, bool to_bf16 = false>
void interleave_rows(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  const int64_t in_features = task.arguments.in_features;
  prepare_rows<Ops>(task, rows, scratch, prepared,
                    [&](const float* x, int64_t height, int64_t row, uint8_t* out) {
                      if constexpr (to_bf16) {
                        for (int64_t k = 0; k < in_features; ++k) scratch[k] = rounded_to_bf16(x[k]);
                        x = scratch;
                      }
                      float* values = reinterpret_cast<float*>(out) + row;
                      for (int64_t k = 0; k < in_features; ++k) values[k * height] = x[k];
                    });
}

}  // namespace gpt2fast
