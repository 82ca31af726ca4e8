// Rounds vectors to int8, and writes keys and values into an int8 cache, over one instruction set's Ops.
#pragma once

#include <type_traits>

#include "kernels/attention_tile.h"

namespace gpt2fast {

struct RoundedVector {
  float scale;  // NaN if the vector held a NaN or an infinity
  int32_t sum;  // of the integers
};

// Rounds x [count] to int8 [padded], count <= padded, padded a multiple of kLanes.
template <typename Ops>
GPT2FAST_INLINE RoundedVector round_vector(const float* x, int64_t count, int64_t padded, int8_t* rounded) {
  using V = Vec<typename Ops::Tag>;
  V largest = V::zero(), poison = V::zero();  // poison: NaN as soon as an element is not finite
  for (int64_t d = 0; d < padded; d += kLanes) {
    const V part = V::load_partial(x + d, count - d);
    largest = max(abs(part), largest);
    poison = fma(part, V::zero(), poison);
  }
  constexpr float kSmallest = 0x1p-93f;  // smaller vectors count as zero: products of scales stay normal
  const float magnitude = reduce_max(largest);
  const float not_finite = reduce_add(poison);
  float scale = not_finite, inverse = 0.0f;
  if (magnitude >= kSmallest && not_finite == 0.0f) {
    // Rounded to the nearest bfloat16; the largest element still becomes 127.
    const uint32_t bits = portable::float_bits(magnitude / 127.0f);
    scale = portable::float_from_bits((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
    inverse = 1.0f / scale;
  }
  V sum = V::zero();
  constexpr int64_t kGroup = 4 * kLanes;
  for (int64_t d = 0; d < padded; d += kGroup) {
    V parts[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t begin = d + kLanes * i;
      parts[i] = V::zero();
      if (inverse != 0.0f) parts[i] = V::load_partial(x + begin, count - begin) * V::set1(inverse);
    }
    alignas(64) int8_t group[kGroup];
    sum = sum + Ops::to_float(Ops::round_to_int8(parts, group));
    memcpy(rounded + d, group, static_cast<size_t>(padded - d < kGroup ? padded - d : kGroup));
  }
  return {scale, static_cast<int32_t>(reduce_add(sum))};
}

// Writes a position's rounded key into its part of a block: a column of groups of four bytes.
static GPT2FAST_INLINE void store_int8_key(char* block, int64_t width, int64_t position, float scale,
                                           const int8_t* key) {
  const int64_t column = position % kLanes;
  char* part = block + position % kKeyBlock / kLanes * int8_part_bytes(width);
  memcpy(part + 4 * column, &scale, sizeof(scale));
  part += kPartScaleBytes + 4 * column;
  for (int64_t i = 0; i < width; i += 4) {
    uint32_t four;
    memcpy(&four, key + i, sizeof(four));
    four ^= 0x80808080u;  // plus 128
    memcpy(part + kLanes * i, &four, sizeof(four));
  }
}

// Writes the rounded values [count, padded_head_dim] of one position, or of two of which the first is even.
static GPT2FAST_INLINE void store_int8_values(char* block, int64_t width, int64_t position, int64_t count,
                                              const float* scales, const int8_t* values) {
  const int64_t column = position % kLanes;
  char* part = block + position % kKeyBlock / kLanes * int8_part_bytes(width);
  memcpy(part + 4 * column, scales, static_cast<size_t>(count) * sizeof(float));
  int8_t* pairs = reinterpret_cast<int8_t*>(part) + kPartScaleBytes + column / 2 * 2 * width;
  if (count == 1) {
    // Not a byte more: another thread may be writing the pair's other position.
    for (int64_t d = 0; d < width; ++d) pairs[2 * d + column % 2] = values[d];
  } else {
    for (int64_t d = 0; d < width; ++d) {
      pairs[2 * d] = values[d];
      pairs[2 * d + 1] = values[width + d];
    }
  }
}

// Prefetches a row of queries, keys or values some rows ahead of `row`.
static inline void prefetch_row_ahead(const AttentionTile& tile, const float* row_start, int64_t row) {
  if (row + kRowsAhead >= tile.rows) return;
  for (int64_t d = 0; d < tile.head_dim; d += kLanes) prefetch(row_start + kRowsAhead * tile.qkv_stride + d);
}

// Calls body(head_dim, padded_head_dim). They are constants for the size of all of OpenAI's models, so that
// loops over a head's elements are unrolled.
template <typename Body>
static GPT2FAST_INLINE void with_head_size(const AttentionTile& tile, const Body& body) {
  constexpr std::integral_constant<int64_t, 64> kUsual;
  if (tile.head_dim == kUsual) {
    body(kUsual, kUsual);
  } else {
    body(tile.head_dim, tile.padded_head_dim);
  }
}

constexpr int64_t append_int8_scratch_bytes(int64_t padded_head_dim) { return 3 * padded_head_dim; }

// Appends one head's keys and values. One that is not finite shows in the scores of all that see the
// position.
template <typename Ops>
static void append_int8_head(const AttentionTile& tile, int64_t head, char* scratch) {
  with_head_size(tile, [&](auto head_dim, auto width) {
    int8_t* key = reinterpret_cast<int8_t*>(scratch);
    int8_t* values = key + width;
    for (int64_t row = 0; row < tile.rows;) {
      const int64_t position = tile.first_position + row;
      const int64_t count = position % 2 == 0 && row + 1 < tile.rows ? 2 : 1;
      char* block = tile.keys_at(head, position);
      float value_scales[2];
      for (int64_t i = 0; i < count; ++i) {
        const int64_t offset = head * head_dim + (row + i) * tile.qkv_stride;
        const float* new_key = tile.new_keys + offset;
        const float* new_value = tile.new_values + offset;
        prefetch_row_ahead(tile, new_key, row + i);
        prefetch_row_ahead(tile, new_value, row + i);
        float scale = round_vector<Ops>(new_key, head_dim, width, key).scale;
        value_scales[i] = round_vector<Ops>(new_value, head_dim, width, values + i * width).scale;
        const float sum = scale + value_scales[i];
        if (__builtin_isnan(sum)) scale = value_scales[i] = sum;
        store_int8_key(block, width, position + i, scale, key);
      }
      store_int8_values(block + tile.block_bytes, width, position, count, value_scales, values);
      row += count;
    }
  });
}

template <typename Ops>
static void append_int8(const AttentionTile& tile) {
  for (int64_t head = 0; head < tile.heads; ++head) append_int8_head<Ops>(tile, head, tile.scratch);
}

}  // namespace gpt2fast
