// A tile of attention over an int8 cache, over one instruction set's Ops.
//
// Every result follows one order of operations, whatever the number of queries that are computed together:
// - queries are rounded to int8 like keys; a score is an exact integer sum, times both scales and log2(e), so
//   that the softmax is made of powers of two;
// - keys come in blocks of 64 positions, from multiples of 64. For each block and query there are the largest
//   score; the weights relative to it, which add up to the query's sum; the weights times the values' scales,
//   rounded to 15 bits of the largest scale that the query sees in the block; and an exact integer sum over
//   its positions;
// - blocks are combined with two factors, one for the earlier sums and one for the block, of which one is 1.
// A query never depends on positions after its own: their scores are replaced and their weights are 0. Their
// values, being integers and never NaN, then count nothing.
#pragma once

#include "kernels/attention_int8_append.h"
#include "kernels/math.h"

namespace gpt2fast {

inline constexpr float kLargestWeight = 32767.0f;

// The running state of a tile's softmax and output, in its scratch memory. Its rows are those of all heads,
// head after head.
struct Int8TileState {
  float* outputs;              // [rows, padded_head_dim], before the division by the sum of weights
  float* scores;               // [rows, kKeyBlock]
  float* sums;                 // [rows, kLanes]: sums of weights, lane by lane
  int16_t* weights;            // [rows, kKeyBlock], times the values' scales, in `units`
  int8_t* queries;             // [rows, padded_head_dim]
  float* query_scales;         // [rows], like all that follow
  int32_t* query_corrections;  // -128 times the sum of the query
  float* maxima;               // largest scores so far
  float* block_maxima;
  float* corrections;    // factors of the sums before the block
  float* block_factors;  // factors of the block's own sums; 0 for rows that don't see it
  float* units;
  char* append_scratch;
};

static inline int64_t int8_scratch_bytes(int64_t rows, int64_t padded_head_dim) {
  return rows * (5 * padded_head_dim + 6 * kKeyBlock + 4 * kLanes + 7 * 4) +
         append_int8_scratch_bytes(padded_head_dim);
}

template <typename Ops>
static Int8TileState start_int8_tile(const AttentionTile& tile) {
  using V = Vec<typename Ops::Tag>;
  const int64_t width = tile.padded_head_dim, rows = tile.heads * tile.rows;
  Int8TileState state;
  state.outputs = reinterpret_cast<float*>(tile.scratch);
  state.scores = state.outputs + rows * width;
  state.sums = state.scores + rows * kKeyBlock;
  state.weights = reinterpret_cast<int16_t*>(state.sums + rows * kLanes);
  state.queries = reinterpret_cast<int8_t*>(state.weights + rows * kKeyBlock);
  state.query_scales = reinterpret_cast<float*>(state.queries + rows * width);
  state.query_corrections = reinterpret_cast<int32_t*>(state.query_scales + rows);
  state.maxima = state.query_scales + 2 * rows;
  state.block_maxima = state.maxima + rows;
  state.corrections = state.block_maxima + rows;
  state.block_factors = state.corrections + rows;
  state.units = state.block_factors + rows;
  state.append_scratch = reinterpret_cast<char*>(state.units + rows);

  const float scale = tile.scale * 0x1.715476p+0f;  // log2(e)
  with_head_size(tile, [&](auto head_dim, auto padded) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t head = r / tile.rows, row = r % tile.rows;
      const float* query = tile.queries + head * head_dim + row * tile.qkv_stride;
      prefetch_row_ahead(tile, query, row);
      for (int64_t d = 0; d < padded; d += kLanes) V::zero().store(state.outputs + r * padded + d);
      const RoundedVector rounded = round_vector<Ops>(query, head_dim, padded, state.queries + r * padded);
      state.query_scales[r] = rounded.scale * scale;
      state.query_corrections[r] = -128 * rounded.sum;
      V::zero().store(state.sums + r * kLanes);
      state.maxima[r] = -__builtin_inff();
    }
  });
  return state;
}

// 64 positions of a head's keys and values, in four parts. With few rows the processor waits for memory. So
// the products prefetch the first part of the next block while they read this one, and the softmax between
// them the other parts: memory is always busy.
struct Int8Block {
  const char* keys;
  const char* values;
  int64_t part_bytes;  // 16 positions
  NextBlock next;
};

// Prefetches all parts of the next block but the first.
static inline void prefetch_parts(const char* parts, const Int8Block& block) {
  const char* next = parts + block.next.distance;
  for (int64_t i = block.part_bytes; i < block.next.parts * block.part_bytes; i += 64) prefetch(next + i);
}

// Computes the scores of some queries from `row` on, for `vectors` times 16 positions.
template <typename Ops, int rows, int vectors>
static inline void score_registers(const AttentionTile& tile, const Int8TileState& state, int64_t row,
                                   const Int8Block& block, int64_t first_vector) {
  using V = Vec<typename Ops::Tag>;
  const int64_t width = tile.padded_head_dim;
  const int8_t* queries = state.queries + row * width;
  const char* keys = block.keys + first_vector * block.part_bytes;
  typename Ops::Sums dots[rows][vectors];
  GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
    GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) dots[r][c] =
        Ops::start_int8(state.query_corrections[row + r]);
  }
  for (int64_t d = 0; d < tile.head_dim; d += 4) {
    const uint8_t* fours = reinterpret_cast<const uint8_t*>(keys) + kPartScaleBytes + d * kLanes;
    typename Ops::Int8Weights four[vectors];
    GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) {
      four[c] = Ops::load_int8(fours + c * block.part_bytes);
      if constexpr (rows < Ops::kAttentionRows) {
        if (c == 0) prefetch(fours + block.next.distance);
      }
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) dots[r][c] =
          Ops::dot_int8(dots[r][c], four[c], queries + r * width + d);
    }
  }
  GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) {
    const V scales = V::load(reinterpret_cast<const float*>(keys + c * block.part_bytes));
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      const V score = (Ops::to_float(dots[r][c]) * scales) * V::set1(state.query_scales[row + r]);
      score.store(state.scores + (row + r) * kKeyBlock + (first_vector + c) * kLanes);
    }
  }
}

// Adds the block's first `pairs` pairs of weighted values to `vectors` times 16 dimensions of some rows.
template <typename Ops, int rows, int vectors>
static inline void weigh_registers(const AttentionTile& tile, const Int8TileState& state, int64_t row,
                                   const Int8Block& block, int64_t pairs, int64_t first_vector) {
  using V = Vec<typename Ops::Tag>;
  const int64_t width = tile.padded_head_dim;
  const int16_t* weights = state.weights + row * kKeyBlock;
  const char* values = block.values + kPartScaleBytes + first_vector * 2 * kLanes;
  [[maybe_unused]] const char* first_part_end = block.values + block.part_bytes;
  typename Ops::Sums dots[rows][vectors];
  GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
    GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) dots[r][c] = Ops::start_int8(0);
  }
  for (; pairs > 0; pairs -= kPairs, values += block.part_bytes, weights += 2 * kPairs) {
    const int64_t count = pairs < kPairs ? pairs : kPairs;
    for (int64_t i = 0; i < count; ++i) {
      const int8_t* pair = reinterpret_cast<const int8_t*>(values) + i * 2 * width;
      typename Ops::Pairs v[vectors];
      GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) {
        v[c] = Ops::load_pairs(pair + c * 2 * kLanes);
        if constexpr (rows < Ops::kAttentionRows) {
          if (c % 2 == 0 && values < first_part_end) prefetch(pair + c * 2 * kLanes + block.next.distance);
        }
      }
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
        GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) {
          dots[r][c] = Ops::dot_pairs(dots[r][c], v[c], weights + r * kKeyBlock + 2 * i);
        }
      }
    }
  }
  GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
    float* outputs = state.outputs + (row + r) * width + first_vector * kLanes;
    const V correction = V::set1(state.corrections[row + r]), unit = V::set1(state.units[row + r]);
    GPT2FAST_UNROLL for (int c = 0; c < vectors; ++c) {
      float* output = outputs + c * kLanes;
      fma(Ops::to_float(dots[r][c]), unit, V::load(output) * correction).store(output);
    }
  }
}

// How many vectors fit in registers at once for a few rows.
template <typename Ops>
constexpr int attention_vectors(int rows) {
  const int vectors = Ops::kAttentionSums / rows;
  return vectors < 1 ? 1 : vectors > 4 ? 4 : vectors;
}

// Calls run.template operator()<rows, vectors>(first_vector) until `vectors` vectors of `count` rows are
// done.
template <typename Ops, typename Run, int rows = Ops::kAttentionRows, int most = attention_vectors<Ops>(rows)>
static inline void for_register_tiles(int64_t count, int64_t vectors, const Run& run, int64_t first = 0) {
  if constexpr (rows > 1) {
    if (count < rows) return for_register_tiles<Ops, Run, rows - 1>(count, vectors, run, first);
  }
  for (; first + most <= vectors; first += most) run.template operator()<rows, most>(first);
  if constexpr (most > 1) {
    if (first < vectors) for_register_tiles<Ops, Run, rows, most - 1>(count, vectors, run, first);
  }
}

// The largest scale of the block's first `visible` values.
template <typename Tag>
static inline float largest_scale(const Int8Block& block, int64_t visible) {
  using V = Vec<Tag>;
  V largest = V::zero();
  for (int64_t c = 0; c * kLanes < visible && c * kLanes < kKeyBlock; ++c) {
    const V scales = V::load(reinterpret_cast<const float*>(block.values + c * block.part_bytes));
    largest = max(largest, select_first(visible - c * kLanes, scales, V::zero()));
  }
  return reduce_max(largest);
}

// Finds the block's largest score for each row from `first` on; -inf for rows that see none of it. Row 0 sees
// `visible` of the positions, each further row one more.
template <typename Tag>
static inline void find_block_maxima(const Int8TileState& state, int64_t first, int64_t rows,
                                     int64_t visible) {
  using V = Vec<Tag>;
  const auto of_lanes = [&](int64_t row) {
    if (visible + row <= 0) return V::set1(-__builtin_inff());
    return largest_scores<Tag>(state.scores + row * kKeyBlock, visible + row);
  };
  constexpr int64_t kFewRows = 4;  // faster to reduce one by one
  for (int64_t r = first; r < rows; r += kLanes) {
    const int64_t count = rows - r < kLanes ? rows - r : kLanes;
    if (count < kFewRows) {
      for (int64_t i = 0; i < count; ++i) state.block_maxima[r + i] = reduce_max(of_lanes(r + i));
      continue;
    }
    V lanes[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = of_lanes(r + (i < count ? i : 0));
    transpose(lanes);
    GPT2FAST_UNROLL for (int half = kLanes / 2; half > 0; half /= 2) {
      GPT2FAST_UNROLL for (int i = 0; i < half; ++i) lanes[i] = max(lanes[i], lanes[half + i]);
    }
    lanes[0].store_partial(state.block_maxima + r, count);
  }
}

// Updates the largest scores so far with a block's, and finds the factors.
template <typename Tag>
static inline void update_int8_maxima(const Int8TileState& state, int64_t first, int64_t rows) {
  using V = Vec<Tag>;
  for (int64_t r = first; r < rows; r += kLanes) {
    const int64_t count = rows - r;
    const V block = V::load_partial(state.block_maxima + r, count);
    const V earlier = V::load_partial(state.maxima + r, count);
    const V maximum = max(earlier, block);
    maximum.store_partial(state.maxima + r, count);
    exp2_nonpositive(earlier - maximum).store_partial(state.corrections + r, count);
    exp2_nonpositive(block - maximum).store_partial(state.block_factors + r, count);
  }
}

// How weights are rounded when the largest scale is `largest`. Much smaller scales count as zero.
struct WeightRounding {
  explicit WeightRounding(float largest) {
    constexpr float kSmallest = 0x1p-101f;
    factor = largest >= kSmallest ? kLargestWeight / largest : 0.0f;
    unit = largest >= kSmallest ? largest / kLargestWeight : 0.0f;
  }
  float factor;
  float unit;
};

// Turns a row's scores into weights of the values, and adds them to the row's sums. `whole` says that the row
// sees all of the block's positions.
template <typename Ops, bool whole>
static inline void update_int8_weights(const Int8TileState& state, int64_t row, int64_t visible,
                                       const Int8Block& block, const WeightRounding& rounding) {
  using V = Vec<typename Ops::Tag>;
  const float* scores = state.scores + row * kKeyBlock;
  int16_t* rounded = state.weights + row * kKeyBlock;
  V weights[kKeyBlock / kLanes];
  GPT2FAST_UNROLL for (int first = 0; first < kKeyBlock / kLanes; first += Ops::kTogether) {
    using Some = Vecs<typename Ops::Tag, Ops::kTogether>;
    const Some factor = Some::set1(rounding.factor), maximum = Some::set1(state.block_maxima[row]);
    const Some some_scores = Some::apply([&](int c) { return V::load(scores + (first + c) * kLanes); });
    // Parts that the row does not see may lie beyond the slot.
    const Some scales = Some::apply([&](int c) {
      const int64_t part = first + c;
      if (!whole && part * kLanes >= visible) return V::zero();
      return V::load(reinterpret_cast<const float*>(block.values + part * block.part_bytes));
    });
    Some some = exp2_nonpositive(some_scores - maximum);
    Some scaled = (some * scales) * factor;
    if (!whole) {
      const auto hide = [&](Some all) {
        return Some::apply(
            [&](int c) { return select_first(visible - (first + c) * kLanes, all.parts[c], V::zero()); });
      };
      some = hide(some);
      scaled = hide(scaled);
    }
    GPT2FAST_UNROLL for (int c = 0; c < Ops::kTogether; ++c) {
      weights[first + c] = some.parts[c];
      Ops::round_to_int16(scaled.parts[c], rounded + (first + c) * kLanes);
    }
  }
  const float block_factor = state.block_factors[row];
  state.units[row] = block_factor * rounding.unit;
  float* sums = state.sums + row * kLanes;
  const V sum = (weights[0] + weights[1]) + (weights[2] + weights[3]);
  const V earlier = V::load(sums) * V::set1(state.corrections[row]);
  fma(sum, V::set1(block_factor), earlier).store(sums);
}

// Does the same for all rows from `first` on. Row 0 sees `visible` of the positions, each further row one
// more.
template <typename Ops>
static inline void update_all_weights(const Int8TileState& state, int64_t first, int64_t rows,
                                      int64_t visible, const Int8Block& block) {
  using Tag = typename Ops::Tag;
  for (; first < rows && visible + first < kKeyBlock; ++first) {
    const WeightRounding own(largest_scale<Tag>(block, visible + first));
    update_int8_weights<Ops, false>(state, first, visible + first, block, own);
  }
  if (first == rows) return;
  const WeightRounding shared(largest_scale<Tag>(block, kKeyBlock));
  for (; first < rows; ++first) update_int8_weights<Ops, true>(state, first, kKeyBlock, block, shared);
}

// Attends to the 64 positions from `position` on, for all rows of one head that see any of them.
template <typename Ops>
static void attend_int8_block(const AttentionTile& tile, const Int8TileState& state, int64_t head,
                              int64_t position, const Int8Block& block) {
  using Tag = typename Ops::Tag;
  constexpr int64_t kRows = Ops::kAttentionRows;
  const int64_t begin = head * tile.rows, end = begin + tile.rows;
  const int64_t seen_first = tile.first_position + 1 - position;  // by the head's first row
  const int64_t visible = seen_first - begin;                     // by row 0, if it were the head's
  const int64_t first = begin + (seen_first > 0 ? 0 : (1 - seen_first) / kRows * kRows);
  // Calls visit(row, rows, positions that the last row sees) for groups of rows that share registers.
  const auto for_groups = [&](const auto& visit) {
    for (int64_t r = first; r < end; r += kRows) {
      const int64_t rows = end - r < kRows ? end - r : kRows;
      visit(r, rows, visible + r + rows - 1 < kKeyBlock ? visible + r + rows - 1 : kKeyBlock);
    }
  };
  for_groups([&](int64_t row, int64_t rows, int64_t seen) {
    for_register_tiles<Ops>(rows, (seen + kLanes - 1) / kLanes,
                            [&]<int count, int vectors>(int64_t first_vector) {
                              score_registers<Ops, count, vectors>(tile, state, row, block, first_vector);
                            });
  });
  find_block_maxima<Tag>(state, first, end, visible);
  const bool few = tile.rows < kRows;
  if (few) prefetch_parts(block.keys, block);
  update_int8_maxima<Tag>(state, first, end);
  if (few) prefetch_parts(block.values, block);
  update_all_weights<Ops>(state, first, end, visible, block);
  for_groups([&](int64_t row, int64_t rows, int64_t seen) {
    for_register_tiles<Ops>(
        rows, tile.padded_head_dim / kLanes, [&]<int count, int vectors>(int64_t first_vector) {
          weigh_registers<Ops, count, vectors>(tile, state, row, block, (seen + 1) / 2, first_vector);
        });
  });
}

template <typename Ops>
static void attend_int8(const AttentionTile& tile) {
  const Int8TileState state = start_int8_tile<Ops>(tile);
  const int64_t part_bytes = int8_part_bytes(tile.padded_head_dim);
  for_each_block(
      tile, [&](int64_t head) { append_int8_head<Ops>(tile, head, state.append_scratch); },
      [&](int64_t head, int64_t position, NextBlock next) {
        attend_int8_block<Ops>(
            tile, state, head, position,
            {tile.keys_at(head, position), tile.values_at(head, position), part_bytes, next});
      });
  write_attention<typename Ops::Tag>(tile, state.outputs, state.sums);
}

template <typename Ops>
static AttentionKernel int8_attention_kernel() {
  return {int8_scratch_bytes, append_int8<Ops>, attend_int8<Ops>};
}

}  // namespace gpt2fast
