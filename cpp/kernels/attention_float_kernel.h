// A tile of attention over a cache of float16 or float32, over any Vec.
//
// Every result follows one order of operations, whatever the number of queries that are computed together:
// - queries are scaled by scale * log2(e), so that the softmax is made of powers of two;
// - keys come in blocks of 64 positions, from multiples of 64; a score is one fma chain over head_dim;
// - per block: the running maximum, the weights, the factor that corrects the earlier blocks' output and
//   sums; then the output of each dimension is one fma chain over the block's positions.
// A query never depends on positions after its own: their scores are replaced before use and their values are
// not used, because a weight of 0 times a stale NaN would still be NaN.
#pragma once

#include "kernels/attention_product.h"
#include "kernels/attention_tile.h"
#include "kernels/math.h"

namespace gpt2fast {

static int64_t float_scratch_bytes(int64_t rows, int64_t padded_head_dim) {
  const int64_t floats = 2 * kKeyBlock * padded_head_dim + rows * (2 * padded_head_dim + kKeyBlock + kLanes) +
                         2 * (rows + kLanes);
  return floats * static_cast<int64_t>(sizeof(float));
}

// One new key, into its column of a block.
template <typename Tag, typename Element>
static inline void append_key(const AttentionTile& tile, int64_t row, Element* block, int64_t column) {
  const float* key = tile.new_keys + row * tile.qkv_stride;
  for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
    Element converted[kLanes];
    store_element(Vec<Tag>::load_partial(key + d, tile.head_dim - d), converted);
    const int64_t count = tile.head_dim - d < kLanes ? tile.head_dim - d : kLanes;
    for (int64_t i = 0; i < count; ++i) block[(d + i) * kLanes + column] = converted[i];
  }
}

// 16 new keys, which fill a block.
template <typename Tag, typename Element>
static inline void append_key_block(const AttentionTile& tile, int64_t row, Element* block) {
  const float* key = tile.new_keys + row * tile.qkv_stride;
  for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
    Vec<Tag> square[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      prefetch(key + (kLanes + i) * tile.qkv_stride + d);
      square[i] = Vec<Tag>::load_partial(key + i * tile.qkv_stride + d, tile.head_dim - d);
    }
    transpose(square);
    for (int i = 0; i < kLanes; ++i) store_element(square[i], block + (d + i) * kLanes);
  }
}

template <typename Tag, typename Element>
static void append_rows(const AttentionTile& tile) {
  const int64_t width = tile.padded_head_dim;
  for (int64_t row = 0; row < tile.rows;) {
    const int64_t position = tile.first_position + row;
    const int64_t column = position % kLanes;
    Element* block = reinterpret_cast<Element*>(tile.keys) + (position - column) * width;
    if (column == 0 && row + kLanes <= tile.rows) {
      append_key_block<Tag>(tile, row, block);
      row += kLanes;
    } else {
      append_key<Tag>(tile, row, block, column);
      row += 1;
    }
  }
  Element* values = reinterpret_cast<Element*>(tile.values) + tile.first_position * width;
  for (int64_t row = 0; row < tile.rows; ++row) {
    const float* value = tile.new_values + row * tile.qkv_stride;
    for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
      prefetch(value + kRowsAhead * tile.qkv_stride + d);
      store_element(Vec<Tag>::load_partial(value + d, tile.head_dim - d), values + row * width + d);
    }
  }
}

// The running state of a tile's softmax and output, in its scratch memory.
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
  const int64_t width = tile.padded_head_dim;
  TileState state;
  state.block_keys = reinterpret_cast<float*>(tile.scratch);
  state.block_values = state.block_keys + kKeyBlock * width;
  state.queries = state.block_values + kKeyBlock * width;
  state.outputs = state.queries + tile.rows * width;
  state.weights = state.outputs + tile.rows * width;
  state.sums = state.weights + tile.rows * kKeyBlock;
  state.maxima = state.sums + tile.rows * kLanes;
  state.corrections = state.maxima + tile.rows;

  const V scale = V::set1(tile.scale * 0x1.715476p+0f);  // log2(e)
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* query = tile.queries + r * tile.qkv_stride;
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

// Takes a row's scores of one block into its maximum, and leaves the maximum's growth, negated, in
// `corrections`. `visible` counts the positions of the block that the row sees; a row that sees none is left
// as it is.
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

// Adds the block's values, weighted, to the outputs of rows [first, first + rows). The first row sees
// `visible` positions of the block, each further row one more, up to kKeyBlock.
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

// One block of positions from `block`, for all rows of the tile that see any of it.
template <typename Tag, typename Element>
static void attend_block(const AttentionTile& tile, const TileState& state, int64_t block,
                         MatrixView<Element> keys, MatrixView<Element> values) {
  using V = Vec<Tag>;
  constexpr int64_t kRows = RegisterTile<Tag>::kRows;
  const int64_t width = tile.padded_head_dim;
  const int64_t visible = tile.first_position + 1 - block;  // by row 0
  const int64_t first = visible > 0 ? 0 : (1 - visible) / kRows * kRows;
  for (int64_t r = first; r < tile.rows; r += kRows) {
    const int64_t rows = tile.rows - r < kRows ? tile.rows - r : kRows;
    const int64_t last_visible = visible + r + rows - 1 < kKeyBlock ? visible + r + rows - 1 : kKeyBlock;
    float* group_scores = state.weights + r * kKeyBlock;
    const ProductRows scores = {
        state.queries + r * width, width, tile.head_dim, nullptr, group_scores, kKeyBlock};
    multiply<Tag, false>(rows, scores, keys, (last_visible + kLanes - 1) / kLanes);
    for (int64_t i = r; i < r + rows; ++i) update_maximum<Tag>(state, i, visible + i);
  }
  for (int64_t r = first; r < tile.rows; r += kLanes) {
    float* corrections = state.corrections + r;
    exp2_nonpositive(V::load_partial(corrections, tile.rows - r)).store_partial(corrections, tile.rows - r);
  }
  for (int64_t r = visible > 0 ? 0 : 1 - visible; r < tile.rows; ++r) update_weights<Tag>(state, r);
  for (int64_t r = first; r < tile.rows; r += kRows) {
    accumulate_outputs<Tag>(tile, state, values, r, tile.rows - r < kRows ? tile.rows - r : kRows,
                            visible + r);
  }
}

// The block's first `count` positions as float32, keys as [head_dim, kKeyBlock].
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
static void attend_rows(const AttentionTile& tile) {
  const int64_t width = tile.padded_head_dim;
  const TileState state = start_tile<Tag>(tile);
  const bool converts = sizeof(Element) < sizeof(float) && tile.rows > RegisterTile<Tag>::kRows;
  const int64_t end = tile.first_position + tile.rows;
  for (int64_t block = 0; block < end; block += kKeyBlock) {
    const Element* keys = reinterpret_cast<const Element*>(tile.keys) + block * width;
    const Element* values = reinterpret_cast<const Element*>(tile.values) + block * width;
    const int64_t head_elements = tile.head_bytes / static_cast<int64_t>(sizeof(Element));
    const int64_t next = end - block > kKeyBlock ? kKeyBlock * width : head_elements - block * width;
    if (converts) {
      convert_block<Tag>(tile, state, end - block < kKeyBlock ? end - block : kKeyBlock, next, keys, values);
      attend_block<Tag, float>(tile, state, block, {state.block_keys, kKeyBlock, kLanes, 0},
                               {state.block_values, width, kLanes, 0});
    } else {
      attend_block<Tag, Element>(tile, state, block, {keys, kLanes, kLanes * width, next},
                                 {values, width, kLanes, next});
    }
  }
  write_attention<Tag>(tile, state.outputs, state.sums);
}

template <typename Tag, typename Element>
static AttentionKernel float_attention_kernel() {
  return {float_scratch_bytes, append_rows<Tag, Element>, attend_rows<Tag, Element>};
}

}  // namespace gpt2fast
