// A tile of attention over a cache of float16 or float32, over any Vec.
//
// Every result follows one order of operations, whatever the number of queries that are computed together:
// - queries are scaled by scale * log2(e), so that the softmax is made of powers of two;
// - keys come in blocks of 64 positions, from multiples of 64; a score is one fma chain over head_dim;
// - each block updates the running maximum, gives its weights, and the factor that corrects the earlier
//   blocks' output and sums; then the output of each dimension is one fma chain over the block's positions.
// A query never depends on positions after its own: their scores are replaced before use and their values are
// not used, because a weight of 0 times a stale NaN would still be NaN.
#pragma once

#include "kernels/attention_product.h"
#include "kernels/attention_tile.h"
#include "kernels/math.h"

namespace gpt2fast {

static inline int64_t float_scratch_bytes(int64_t rows, int64_t padded_head_dim) {
  const int64_t floats = 2 * kKeyBlock * padded_head_dim + rows * (2 * padded_head_dim + kKeyBlock + kLanes) +
                         2 * (rows + kLanes);
  return floats * static_cast<int64_t>(sizeof(float));
}

// Writes one new key into its column of a part.
template <typename Tag, typename Element>
static inline void append_key(const AttentionTile& tile, const float* key, Element* part, int64_t column) {
  for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
    Element converted[kLanes];
    store_element(Vec<Tag>::load_partial(key + d, tile.head_dim - d), converted);
    const int64_t count = tile.head_dim - d < kLanes ? tile.head_dim - d : kLanes;
    for (int64_t i = 0; i < count; ++i) part[(d + i) * kLanes + column] = converted[i];
  }
}

// Writes 16 new keys, which fill a part.
template <typename Tag, typename Element>
static inline void append_key_part(const AttentionTile& tile, const float* key, Element* part) {
  for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
    Vec<Tag> square[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      prefetch(key + (kLanes + i) * tile.qkv_stride + d);
      square[i] = Vec<Tag>::load_partial(key + i * tile.qkv_stride + d, tile.head_dim - d);
    }
    transpose(square);
    for (int i = 0; i < kLanes; ++i) store_element(square[i], part + (d + i) * kLanes);
  }
}

template <typename Tag, typename Element>
static void append_head(const AttentionTile& tile, int64_t head) {
  const int64_t width = tile.padded_head_dim;
  const auto keys_part = [&](int64_t position) {
    return reinterpret_cast<Element*>(tile.keys_at(head, position)) +
           position % kKeyBlock / kLanes * kLanes * width;
  };
  for (int64_t row = 0; row < tile.rows;) {
    const int64_t position = tile.first_position + row;
    const float* key = tile.new_keys + head * tile.head_dim + row * tile.qkv_stride;
    const int64_t column = position % kLanes;
    if (column == 0 && row + kLanes <= tile.rows) {
      append_key_part<Tag>(tile, key, keys_part(position));
      row += kLanes;
    } else {
      append_key<Tag>(tile, key, keys_part(position), column);
      row += 1;
    }
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t position = tile.first_position + row;
    const float* value = tile.new_values + head * tile.head_dim + row * tile.qkv_stride;
    Element* out = reinterpret_cast<Element*>(tile.values_at(head, position)) + position % kKeyBlock * width;
    for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
      prefetch(value + kRowsAhead * tile.qkv_stride + d);
      store_element(Vec<Tag>::load_partial(value + d, tile.head_dim - d), out + d);
    }
  }
}

template <typename Tag, typename Element>
static void append_heads(const AttentionTile& tile) {
  for (int64_t head = 0; head < tile.heads; ++head) append_head<Tag, Element>(tile, head);
}

// The running state of a tile's softmax and output, in its scratch memory. Its rows are those of all heads,
// head after head.
struct TileState {
  float* block_keys;    // [padded_head_dim, kKeyBlock], one block as float32
  float* block_values;  // [kKeyBlock, padded_head_dim]
  float* queries;       // [rows, padded_head_dim], scaled
  float* outputs;       // [rows, padded_head_dim], before the division by the sum of weights
  float* weights;       // [rows, kKeyBlock]: scores, then softmax weights
  float* sums;          // [rows, kLanes]: sums of weights, lane by lane
  float* maxima;        // [rows]
  float* corrections;   // [rows]
};

template <typename Tag>
static TileState start_tile(const AttentionTile& tile) {
  using V = Vec<Tag>;
  const int64_t width = tile.padded_head_dim, rows = tile.heads * tile.rows;
  TileState state;
  state.block_keys = reinterpret_cast<float*>(tile.scratch);
  state.block_values = state.block_keys + kKeyBlock * width;
  state.queries = state.block_values + kKeyBlock * width;
  state.outputs = state.queries + rows * width;
  state.weights = state.outputs + rows * width;
  state.sums = state.weights + rows * kKeyBlock;
  state.maxima = state.sums + rows * kLanes;
  state.corrections = state.maxima + rows;

  const V scale = V::set1(tile.scale * 0x1.715476p+0f);  // log2(e)
  for (int64_t r = 0; r < rows; ++r) {
    const float* query = tile.queries + r / tile.rows * tile.head_dim + r % tile.rows * tile.qkv_stride;
    for (int64_t d = 0; d < width; d += kLanes) {
      prefetch(query + kRowsAhead * tile.qkv_stride + d);
      (V::load_partial(query + d, tile.head_dim - d) * scale).store(state.queries + r * width + d);
      V::zero().store(state.outputs + r * width + d);
    }
    V::zero().store(state.sums + r * kLanes);
    state.maxima[r] = -__builtin_inff();
  }
  return state;
}

// Updates a row's maximum with its scores of one block, and leaves the maximum's growth, negated, in
// `corrections`. `visible` counts the positions of the block that the row sees; a row that sees none stays as
// it is.
template <typename Tag>
static inline void update_maximum(const TileState& state, int64_t row, int64_t visible) {
  if (visible <= 0) {
    state.corrections[row] = 0.0f;
    return;
  }
  const float block_maximum = reduce_max(largest_scores<Tag>(state.weights + row * kKeyBlock, visible));
  const float earlier = state.maxima[row];
  const float maximum = earlier > block_maximum ? earlier : block_maximum;
  state.maxima[row] = maximum;
  state.corrections[row] = earlier - maximum;
}

// Turns scores into weights relative to the maximum, and adds them to the row's sums.
template <typename Tag>
static inline void update_weights(const TileState& state, int64_t row) {
  using V = Vec<Tag>;
  float* weights = state.weights + row * kKeyBlock;
  const V maximum = V::set1(state.maxima[row]);
  V w[kKeyBlock / kLanes];
  for (int c = 0; c < kKeyBlock / kLanes; ++c) {
    w[c] = exp2_nonpositive(V::load(weights + c * kLanes) - maximum);
    w[c].store(weights + c * kLanes);
  }
  float* sums = state.sums + row * kLanes;
  fma(V::load(sums), V::set1(state.corrections[row]), (w[0] + w[1]) + (w[2] + w[3])).store(sums);
}

// Adds the block's weighted values to the outputs of rows [first, first + rows). The first row sees `visible`
// positions of the block, each further row one more, up to kKeyBlock.
template <typename Tag, typename Element>
static void accumulate_outputs(const AttentionTile& tile, const TileState& state, MatrixView<Element> values,
                               int64_t first, int64_t rows, int64_t visible) {
  const int64_t width = tile.padded_head_dim;
  const int64_t common = visible < 0 ? 0 : visible < kKeyBlock ? visible : kKeyBlock;
  float* outputs = state.outputs + first * width;
  const float* weights = state.weights + first * kKeyBlock;
  const ProductRows shared = {weights, kKeyBlock, common, state.corrections + first, outputs, width};
  multiply<Tag, true>(rows, shared, values, width / kLanes);
  const float one = 1.0f;
  const MatrixView<Element> rest = {values.data + common * values.step, values.step, values.column, 0};
  for (int64_t r = 1; r < rows; ++r) {
    const int64_t own = visible + r < kKeyBlock ? visible + r : kKeyBlock;
    if (own <= common) continue;
    const float* row_weights = weights + r * kKeyBlock + common;
    const ProductRows single = {row_weights, kKeyBlock, own - common, &one, outputs + r * width, width};
    multiply<Tag, true, Element, 1>(1, single, rest, width / kLanes);
  }
}

// Attends to the block of positions from `position` on, for all rows of one head that see any of it.
template <typename Tag, typename Element>
static void attend_block(const AttentionTile& tile, const TileState& state, int64_t head, int64_t position,
                         MatrixView<Element> keys, MatrixView<Element> values) {
  using V = Vec<Tag>;
  constexpr int64_t kRows = RegisterTile<Tag>::kRows;
  const int64_t width = tile.padded_head_dim;
  const int64_t begin = head * tile.rows, end = begin + tile.rows;
  const int64_t seen_first = tile.first_position + 1 - position;  // by the head's first row
  const int64_t visible = seen_first - begin;                     // by row 0, if it were the head's
  const int64_t first = begin + (seen_first > 0 ? 0 : (1 - seen_first) / kRows * kRows);
  for (int64_t r = first; r < end; r += kRows) {
    const int64_t rows = end - r < kRows ? end - r : kRows;
    const int64_t last_visible = visible + r + rows - 1 < kKeyBlock ? visible + r + rows - 1 : kKeyBlock;
    float* group_scores = state.weights + r * kKeyBlock;
    const ProductRows scores = {
        state.queries + r * width, width, tile.head_dim, nullptr, group_scores, kKeyBlock};
    multiply<Tag, false>(rows, scores, keys, (last_visible + kLanes - 1) / kLanes);
    for (int64_t i = r; i < r + rows; ++i) update_maximum<Tag>(state, i, visible + i);
  }
  for (int64_t r = first; r < end; r += kLanes) {
    float* corrections = state.corrections + r;
    exp2_nonpositive(V::load_partial(corrections, end - r)).store_partial(corrections, end - r);
  }
  for (int64_t r = seen_first > 0 ? begin : 1 - visible; r < end; ++r) update_weights<Tag>(state, r);
  for (int64_t r = first; r < end; r += kRows) {
    accumulate_outputs<Tag>(tile, state, values, r, end - r < kRows ? end - r : kRows, visible + r);
  }
}

// Converts the block's first `count` positions to float32, keys as [head_dim, kKeyBlock].
template <typename Tag, typename Element>
static void convert_block(const AttentionTile& tile, const TileState& state, int64_t count, int64_t next,
                          const Element* keys, const Element* values) {
  const int64_t width = tile.padded_head_dim;
  for (int64_t position = 0; position < count; position += kLanes) {
    for (int64_t d = 0; d < tile.head_dim; ++d) {
      const Element* key = keys + position * width + d * kLanes;
      prefetch(key + next);
      load_element<Tag>(key).store(state.block_keys + d * kKeyBlock + position);
    }
  }
  for (int64_t i = 0; i < count * width; i += kLanes) {
    prefetch(values + i + next);
    load_element<Tag>(values + i).store(state.block_values + i);
  }
}

template <typename Tag, typename Element>
static void attend_heads(const AttentionTile& tile) {
  const int64_t width = tile.padded_head_dim;
  const TileState state = start_tile<Tag>(tile);
  const bool converts = sizeof(Element) < sizeof(float) && tile.rows > RegisterTile<Tag>::kRows;
  const int64_t end = tile.first_position + tile.rows;
  for_each_block(
      tile, [&](int64_t head) { append_head<Tag, Element>(tile, head); },
      [&](int64_t head, int64_t position, NextBlock next_block) {
        const Element* keys = reinterpret_cast<const Element*>(tile.keys_at(head, position));
        const Element* values = reinterpret_cast<const Element*>(tile.values_at(head, position));
        const int64_t next = next_block.distance / static_cast<int64_t>(sizeof(Element));
        if (converts) {
          const int64_t count = end - position < kKeyBlock ? end - position : kKeyBlock;
          convert_block<Tag>(tile, state, count, next, keys, values);
          attend_block<Tag, float>(tile, state, head, position, {state.block_keys, kKeyBlock, kLanes, 0},
                                   {state.block_values, width, kLanes, 0});
        } else {
          attend_block<Tag, Element>(tile, state, head, position, {keys, kLanes, kLanes * width, next},
                                     {values, width, kLanes, next});
        }
      });
  write_attention<Tag>(tile, state.outputs, state.sums);
}

template <typename Tag, typename Element>
static AttentionKernel float_attention_kernel() {
  return {float_scratch_bytes, append_heads<Tag, Element>, attend_heads<Tag, Element>};
}

}  // namespace gpt2fast
