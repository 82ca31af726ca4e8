// How linear() prepares rows: LayerNorm, then for integer formats rounding to int8 in blocks, else
// interleaving.
#pragma once

#include <limits>

#include "kernels/layer_norm_kernel.h"
#include "kernels/linear_variants.h"
#include "kernels/simd.h"

namespace gpt2fast {

inline constexpr int kBlockValues = 64;

// The quarters of a block times H / 4, see packing.h: none becomes larger than the largest was.
template <typename V>
GPT2FAST_INLINE void mix_quarters(V (&parts)[4]) {
  const V quarter = V::set1(0.25f);
  for (V& part : parts) part = part * quarter;
  const V sum_low = parts[0] + parts[1], difference_low = parts[0] - parts[1];
  const V sum_high = parts[2] + parts[3], difference_high = parts[2] - parts[3];
  parts[0] = sum_low + sum_high;
  parts[1] = difference_low + difference_high;
  parts[2] = sum_low - sum_high;
  parts[3] = difference_low - difference_high;
}

// The values of a block, four at a time, `stride` bytes apart. Unrolled further, compilers would run out of
// registers for addresses.
GPT2FAST_INLINE void scatter_fours(const int8_t* values, uint8_t* out, int64_t stride) {
  _Pragma("GCC unroll 1") for (int i = 0; i < kBlockValues; i += 16, out += 4 * stride) {
    memcpy(out, values + i, 4);
    memcpy(out + stride, values + i + 4, 4);
    memcpy(out + 2 * stride, values + i + 8, 4);
    memcpy(out + 3 * stride, values + i + 12, 4);
  }
}

// Consecutive blocks of a row, at most kLanes. What is worked out for a whole block is a lane of a vector:
// one by one, blocks would mostly wait for their horizontal sums and divisions.
template <typename Ops>
class RowBlocks {
  using V = Vec<typename Ops::Tag>;

 public:
  // x: the blocks' `count` values.
  GPT2FAST_INLINE RowBlocks(const float* x, int64_t count, WeightFormat format)
      : count_((count + kBlockValues - 1) / kBlockValues), format_(format) {
    for (int64_t b = 0; b < count_; ++b) {
      const float* block = x + b * kBlockValues;
      const int64_t left = count - b * kBlockValues;
      V parts[4];
      for (int i = 0; i < 4; ++i) {
        const int64_t begin = kLanes * i;
        parts[i] =
            left >= kBlockValues ? V::load(block + begin) : V::load_partial(block + begin, left - begin);
      }
      if (format == WeightFormat::kInt8) mix_quarters(parts);
      for (int i = 0; i < 4; ++i) parts[i].store(values_ + b * kBlockValues + kLanes * i);
      Ops::max_magnitude(Ops::max_magnitude(abs(parts[0]), abs(parts[1])),
                         Ops::max_magnitude(abs(parts[2]), abs(parts[3])))
          .store(lanes_[b]);
    }
  }

  // Writes row `row` of a tile of `height` rows, see LinearTask. A block that holds a NaN or an infinity
  // becomes NaN as a whole, so that the row's outputs do.
  GPT2FAST_INLINE void write(int64_t row, int64_t height, uint8_t* tile_blocks, int64_t block_bytes) {
    alignas(64) float inverses[kLanes], scales[kLanes];
    find_scales(inverses, scales);
    for (int64_t b = 0; b < count_; ++b) {
      V parts[4];
      const V inverse = V::set1(inverses[b]);
      for (int i = 0; i < 4; ++i) {
        const V part = V::load(values_ + b * kBlockValues + kLanes * i);
        parts[i] = inverses[b] > 0.0f ? part * inverse : V::zero();
      }
      alignas(64) int8_t rounded[kBlockValues];
      Ops::to_float(Ops::round_to_int8(parts, rounded)).store(lanes_[b]);
      scatter_fours(rounded, tile_blocks + b * height * block_bytes + 4 * row, 4 * height);
    }
    alignas(64) float first_sums[kLanes], second_sums[kLanes];
    sum_values(first_sums, second_sums);
    for (int64_t b = 0; b < count_; ++b, tile_blocks += height * block_bytes) {
      float* tile_scales = reinterpret_cast<float*>(tile_blocks + kBlockValues * height);
      int32_t* corrections = reinterpret_cast<int32_t*>(tile_scales + height);
      tile_scales[row] = scales[b];
      const int32_t first = static_cast<int32_t>(first_sums[b]),
                    second = static_cast<int32_t>(second_sums[b]);
      if (format_ == WeightFormat::kInt8) {
        corrections[row] = -128 * (first + second);
      } else {
        corrections[row] = -first & 0xffff;
        corrections[height + row] = -second & 0xffff;
      }
    }
  }

 private:
  // Blocks that are to become zero have an inverse that is not above zero.
  GPT2FAST_INLINE void find_scales(float* inverses, float* scales) const {
    V largest[kLanes];
    load_lanes(largest);
    V magnitude = largest[0];
    for (int i = 1; i < kLanes; ++i) magnitude = Ops::max_magnitude(magnitude, largest[i]);
    const V smallest = V::set1(0x1p-110f);  // its reciprocal is still a float; smaller blocks count as zero
    const V steps = V::set1(127.0f);
    select_less(magnitude, smallest, V::zero(), steps / magnitude).store(inverses);

    const V unit =
        V::set1(format_ == WeightFormat::kInt8 ? 2.0f : 1.0f);  // H / 4 was half of what weights had
    const V scale = select_less(magnitude, smallest, V::zero(), magnitude / steps * unit);
    const V infinity = V::set1(std::numeric_limits<float>::infinity());
    const V nan = V::set1(std::numeric_limits<float>::quiet_NaN());
    select_less(magnitude, infinity, scale, nan).store(scales);
  }

  // Of the halves of each block.
  GPT2FAST_INLINE void sum_values(float* first_sums, float* second_sums) const {
    V sums[kLanes];  // of four values each
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
  WeightFormat format_;
  alignas(64) float values_[kLanes * kBlockValues];
  alignas(64) float lanes_[kLanes][kLanes];
};

// Calls write(x, height, row, out) for every row: x after the LayerNorm, and the start of the tile that it
// becomes row `row` of.
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

template <typename Ops>
void quantize_rows(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  const LinearArguments& a = task.arguments;
  const int64_t block_bytes = a.format == WeightFormat::kInt8 ? kInt8RowBlockBytes : kInt4RowBlockBytes;
  prepare_rows<Ops>(task, rows, scratch, prepared,
                    [&](const float* x, int64_t height, int64_t row, uint8_t* out) {
                      constexpr int64_t kValues = kLanes * kBlockValues;
                      for (int64_t k = 0; k < a.in_features; k += kValues) {
                        const int64_t count = a.in_features - k < kValues ? a.in_features - k : kValues;
                        RowBlocks<Ops>(x + k, count, a.format).write(row, height, out, block_bytes);
                        out += kLanes * height * block_bytes;
                      }
                    });
}

template <typename Ops>
void interleave_rows(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  const int64_t in_features = task.arguments.in_features;
  prepare_rows<Ops>(task, rows, scratch, prepared,
                    [&](const float* x, int64_t height, int64_t row, uint8_t* out) {
                      float* values = reinterpret_cast<float*>(out) + row;
                      for (int64_t k = 0; k < in_features; ++k) values[k * height] = x[k];
                    });
}

}  // namespace gpt2fast
