// Attention of a few consecutive queries of one sequence and head, over any Vec.
//
// Every result follows one order of operations, whatever the number of queries that are computed together:
// - queries are scaled by scale * log2(e), so that the softmax is made of powers of two;
// - keys come in blocks of 64 positions that start at multiples of 64; a score is one fma chain over head_dim;
// - per block: the running maximum, the weights, the factor that corrects the earlier blocks' output and sums;
//   then the output of each dimension is one fma chain over the block's positions.
// A query never touches positions after its own: their scores are replaced before use and their values not read,
// because a weight of 0 times a stale NaN would still be NaN.
#pragma once

#include "kernels/math.h"

namespace gpt2fast {

inline constexpr int64_t kKeyBlock = 64;
inline constexpr int64_t kAttentionTileRows = 48;  // most queries that are computed together

// Consecutive tokens of one sequence, one head.
struct AttentionTile {
  int64_t rows = 0;
  int64_t first_position = 0;       // of the first row
  int64_t head_dim = 0;
  int64_t padded_head_dim = 0;
  float scale = 0.0f;
  const float* queries = nullptr;   // [rows, head_dim], rows qkv_stride apart
  const float* new_keys = nullptr;  // same, what this step appends
  const float* new_values = nullptr;
  int64_t qkv_stride = 0;
  void* keys = nullptr;             // [padded_positions / 16, padded_head_dim, 16]
  void* values = nullptr;           // [padded_positions, padded_head_dim]
  float* y = nullptr;               // [rows, head_dim], rows y_stride apart
  int64_t y_stride = 0;
  float* scratch = nullptr;         // attention_scratch_floats(rows, padded_head_dim)
};

struct AttentionKernel {
  void (*append)(const AttentionTile& tile);  // writes the rows' keys and values into the cache
  void (*attend)(const AttentionTile& tile);
};

// The kernel over a float16 cache if `half`, else float32.
AttentionKernel attention_kernel_portable(bool half);
AttentionKernel attention_kernel_avx2(bool half);
AttentionKernel attention_kernel_avx512(bool half);

constexpr int64_t attention_scratch_floats(int64_t rows, int64_t padded_head_dim) {
  return 2 * kKeyBlock * padded_head_dim + rows * (2 * padded_head_dim + kKeyBlock + kLanes) + 2 * (rows + kLanes);
}

// How many rows and vectors of one product are kept in registers.
template <typename Tag>
struct RegisterTile {
  static constexpr int kRows = 1;
  static constexpr int vectors(int) { return 2; }
};
#if defined(__AVX2__)
template <>
struct RegisterTile<Avx2> {
  static constexpr int kRows = 6;
  static constexpr int vectors(int rows) { return rows == 1 ? 4 : rows == 2 ? 3 : rows == 3 ? 2 : 1; }
};
#endif
#if defined(__AVX512F__)
template <>
struct RegisterTile<Avx512> {
  static constexpr int kRows = 6;
  static constexpr int vectors(int) { return 4; }
};
#endif

template <typename Tag>
GPT2FAST_INLINE Vec<Tag> load_element(const float* p) {
  return Vec<Tag>::load(p);
}
template <typename Tag>
GPT2FAST_INLINE Vec<Tag> load_element(const uint16_t* p) {
  return Vec<Tag>::load_half(p);
}
template <typename Tag>
GPT2FAST_INLINE void store_element(Vec<Tag> v, float* p) {
  v.store(p);
}
template <typename Tag>
GPT2FAST_INLINE void store_element(Vec<Tag> v, uint16_t* p) {
  v.store_half(p);
}

// A matrix [depth, 16 * vectors] whose rows are `step` and whose vectors are `column` elements apart.
template <typename Element>
struct MatrixView {
  const Element* data;
  int64_t step;
  int64_t column;
  int64_t prefetch = 0;
};

// y = a b or, accumulating, y = factors * y + a b. a [rows, depth], y [rows, 16 * vectors].
struct ProductRows {
  const float* a;
  int64_t a_stride;
  int64_t depth;
  const float* factors;  // [rows]
  float* y;
  int64_t y_stride;
};

template <typename Tag, typename Element, bool accumulates, int rows, int vectors>
static inline void multiply_registers(const ProductRows& p, MatrixView<Element> b, int64_t first_vector) {
  using V = Vec<Tag>;
  V sums[rows][vectors];
  float* y = p.y + first_vector * kLanes;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < vectors; ++c) {
      sums[r][c] = V::zero();
      if constexpr (accumulates) sums[r][c] = V::load(y + r * p.y_stride + c * kLanes) * V::set1(p.factors[r]);
    }
  }
  const Element* row = b.data + first_vector * b.column;
  for (int64_t k = 0; k < p.depth; ++k, row += b.step) {
    V values[vectors];
    for (int c = 0; c < vectors; ++c) {
      values[c] = load_element<Tag>(row + c * b.column);
      if constexpr (rows == 1) __builtin_prefetch(row + c * b.column + b.prefetch, 0, PFL);
    }
    for (int r = 0; r < rows; ++r) {
      const V factor = V::set1(p.a[r * p.a_stride + k]);
      for (int c = 0; c < vectors; ++c) sums[r][c] = fma(factor, values[c], sums[r][c]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < vectors; ++c) sums[r][c].store(y + r * p.y_stride + c * kLanes);
  }
}

// The last vectors: fewer than RegisterTile::vectors(rows), so at most `vectors`.
template <typename Tag, typename Element, bool accumulates, int rows, int vectors>
static inline void multiply_last_vectors(const ProductRows& p, MatrixView<Element> b, int64_t first, int64_t count) {
  if constexpr (vectors > 0) {
    if (count == vectors) {
      multiply_registers<Tag, Element, accumulates, rows, vectors>(p, b, first);
    } else {
      multiply_last_vectors<Tag, Element, accumulates, rows, vectors - 1>(p, b, first, count);
    }
  }
}

// `count` rows, at most `rows`.
template <typename Tag, bool accumulates, typename Element, int rows = RegisterTile<Tag>::kRows>
static inline void multiply(int64_t count, const ProductRows& p, MatrixView<Element> b, int64_t vectors) {
  if constexpr (rows > 0) {
    if (count != rows) return multiply<Tag, accumulates, Element, rows - 1>(count, p, b, vectors);
    constexpr int kVectors = RegisterTile<Tag>::vectors(rows);
    int64_t first = 0;
    for (; first + kVectors <= vectors; first += kVectors) {
      multiply_registers<Tag, Element, accumulates, rows, kVectors>(p, b, first);
    }
    multiply_last_vectors<Tag, Element, accumulates, rows, kVectors - 1>(p, b, first, vectors - first);
  }
}

template <typename Tag, typename Element>
static void append_rows(const AttentionTile& tile) {
  using V = Vec<Tag>;
  Element* keys = static_cast<Element*>(tile.keys);
  Element* values = static_cast<Element*>(tile.values);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t position = tile.first_position + r;
    const float* key = tile.new_keys + r * tile.qkv_stride;
    const float* value = tile.new_values + r * tile.qkv_stride;
    Element* key_column = keys + position / kLanes * kLanes * tile.padded_head_dim + position % kLanes;
    Element* value_row = values + position * tile.padded_head_dim;
    for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
      Element converted[kLanes];
      store_element(V::load_partial(key + d, tile.head_dim - d), converted);
      for (int64_t i = 0; i < kLanes && d + i < tile.head_dim; ++i) key_column[(d + i) * kLanes] = converted[i];
      store_element(V::load_partial(value + d, tile.head_dim - d), value_row + d);
    }
  }
}

// The running state of a tile's softmax and output, in its scratch memory.
template <typename Tag>
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
static TileState<Tag> start_tile(const AttentionTile& tile) {
  using V = Vec<Tag>;
  const int64_t width = tile.padded_head_dim;
  TileState<Tag> state;
  state.block_keys = tile.scratch;
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
      (V::load_partial(query + d, tile.head_dim - d) * scale).store(state.queries + r * width + d);
      V::zero().store(state.outputs + r * width + d);
    }
    V::zero().store(state.sums + r * kLanes);
    state.maxima[r] = -__builtin_inff();
  }
  return state;
}

// Turns one row's scores into weights relative to the new maximum. `visible` counts the positions of this block that
// the row sees; at 0 nothing changes.
template <typename Tag>
static inline void update_softmax(const TileState<Tag>& state, int64_t row, int64_t visible) {
  using V = Vec<Tag>;
  constexpr int kVectors = kKeyBlock / kLanes;
  state.corrections[row] = 1.0f;
  if (visible <= 0) return;

  float* weights = state.weights + row * kKeyBlock;
  V scores[kVectors];
  for (int c = 0; c < kVectors; ++c) {
    scores[c] = select_first(visible - c * kLanes, V::load(weights + c * kLanes), V::set1(-__builtin_inff()));
  }
  static_assert(kVectors == 4);
  const float block_maximum = reduce_max(max(max(scores[0], scores[1]), max(scores[2], scores[3])));
  const float earlier = state.maxima[row];
  const float maximum = earlier > block_maximum ? earlier : block_maximum;
  if (earlier != maximum) {
    exp2_nonpositive(V::set1(earlier - maximum)).store_partial(state.corrections + row, 1);
    state.maxima[row] = maximum;
  }

  for (int c = 0; c < kVectors; ++c) {
    scores[c] = exp2_nonpositive(scores[c] - V::set1(maximum));
    scores[c].store(weights + c * kLanes);
  }
  const V sum = (scores[0] + scores[1]) + (scores[2] + scores[3]);
  float* sums = state.sums + row * kLanes;
  fma(V::load(sums), V::set1(state.corrections[row]), sum).store(sums);
}

// Adds the block's values, weighted, to the outputs of rows [first, first + rows). The first row sees `visible`
// positions of the block, each further row one more, up to kKeyBlock.
template <typename Tag, typename Element>
static void accumulate_outputs(const AttentionTile& tile, const TileState<Tag>& state, MatrixView<Element> values,
                               int64_t first, int64_t rows, int64_t visible) {
  const int64_t width = tile.padded_head_dim;
  const int64_t common = visible < 0 ? 0 : visible < kKeyBlock ? visible : kKeyBlock;
  const ProductRows shared = {state.weights + first * kKeyBlock, kKeyBlock, common, state.corrections + first,
                              state.outputs + first * width, width};
  multiply<Tag, true>(rows, shared, values, width / kLanes);
  const float one = 1.0f;
  const MatrixView<Element> rest = {values.data + common * values.step, values.step, values.column};
  for (int64_t r = 1; r < rows; ++r) {
    const int64_t own = visible + r < kKeyBlock ? visible + r : kKeyBlock;
    if (own <= common) continue;
    const ProductRows single = {shared.a + r * kKeyBlock + common, kKeyBlock, own - common, &one,
                                shared.y + r * width, width};
    multiply<Tag, true, Element, 1>(1, single, rest, width / kLanes);
  }
}

// One block of positions from `block`, for all rows of the tile that see any of it.
template <typename Tag, typename Element>
static void attend_block(const AttentionTile& tile, const TileState<Tag>& state, int64_t block,
                         MatrixView<Element> keys, MatrixView<Element> values) {
  constexpr int64_t kRows = RegisterTile<Tag>::kRows;
  const int64_t width = tile.padded_head_dim;
  const int64_t visible = tile.first_position + 1 - block;  // by row 0
  const int64_t first = visible > 0 ? 0 : (1 - visible) / kRows * kRows;
  for (int64_t r = first; r < tile.rows; r += kRows) {
    const int64_t rows = tile.rows - r < kRows ? tile.rows - r : kRows;
    const int64_t last_visible = visible + r + rows - 1 < kKeyBlock ? visible + r + rows - 1 : kKeyBlock;
    const ProductRows scores = {state.queries + r * width, width, tile.head_dim, nullptr,
                                state.weights + r * kKeyBlock, kKeyBlock};
    multiply<Tag, false>(rows, scores, keys, (last_visible + kLanes - 1) / kLanes);
    for (int64_t i = r; i < r + rows; ++i) update_softmax(state, i, visible + i);
  }
  for (int64_t r = first; r < tile.rows; r += kRows) {
    accumulate_outputs(tile, state, values, r, tile.rows - r < kRows ? tile.rows - r : kRows, visible + r);
  }
}

// The block's first `count` positions as float32, keys as [head_dim, kKeyBlock].
template <typename Tag, typename Element>
static void convert_block(const AttentionTile& tile, const TileState<Tag>& state, int64_t count, const Element* keys,
                          const Element* values) {
  const int64_t width = tile.padded_head_dim;
  for (int64_t position = 0; position < count; position += kLanes) {
    for (int64_t d = 0; d < tile.head_dim; ++d) {
      load_element<Tag>(keys + position * width + d * kLanes).store(state.block_keys + d * kKeyBlock + position);
    }
  }
  for (int64_t i = 0; i < count * width; i += kLanes) {
    load_element<Tag>(values + i).store(state.block_values + i);
  }
}

template <typename Tag, typename Element>
static void attend_rows(const AttentionTile& tile) {
  using V = Vec<Tag>;
  const int64_t width = tile.padded_head_dim;
  const TileState<Tag> state = start_tile<Tag>(tile);
  const bool converts = sizeof(Element) < sizeof(float) && tile.rows > RegisterTile<Tag>::kRows;
  const int64_t end = tile.first_position + tile.rows;
  for (int64_t block = 0; block < end; block += kKeyBlock) {
    const Element* keys = static_cast<const Element*>(tile.keys) + block * width;
    const Element* values = static_cast<const Element*>(tile.values) + block * width;
    if (converts) {
      convert_block(tile, state, end - block < kKeyBlock ? end - block : kKeyBlock, keys, values);
      attend_block<Tag, float>(tile, state, block, {state.block_keys, kKeyBlock, kLanes},
                               {state.block_values, width, kLanes});
    } else {
      attend_block<Tag, Element>(tile, state, block, {keys, kLanes, kLanes * width, PFD}, {values, width, kLanes, PFD});
    }
  }
  for (int64_t r = 0; r < tile.rows; ++r) {
    const V sum = V::set1(reduce_add(V::load(state.sums + r * kLanes)));
    for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
      (V::load(state.outputs + r * width + d) / sum).store_partial(tile.y + r * tile.y_stride + d, tile.head_dim - d);
    }
  }
}

template <typename Tag>
static AttentionKernel make_attention_kernel(bool half) {
  if (half) return {append_rows<Tag, uint16_t>, attend_rows<Tag, uint16_t>};
  return {append_rows<Tag, float>, attend_rows<Tag, float>};
}

}  // namespace gpt2fast
