// What linear() hands to an instruction set's kernels: a call's rows and panels, and the functions that
// prepare and multiply them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"
#include "kernels/shards.h"
#include "kernels/simd_portable.h"

namespace gpt2fast {

// The rows of a call, cut into tiles of nearly equal height, none above a kernel's limit. A tile's rows share
// one pass over the weights.
struct RowTiles {
  int64_t rows;
  int64_t count;

  GPT2FAST_INLINE int64_t begin(int64_t tile) const { return part(rows, tile, count).begin; }
  GPT2FAST_INLINE int64_t height(int64_t tile) const { return begin(tile + 1) - begin(tile); }
  GPT2FAST_INLINE int64_t max_height() const { return divide_up(rows, count); }
  GPT2FAST_INLINE int64_t tile_of(int64_t row) const { return part_of(row, rows, count); }
};

// How many bytes ahead a single tile of rows prefetches its weights.
struct PrefetchAhead {
  int64_t one_row;
  int64_t more_rows;
};

// One call of linear(). Kernels read prepared rows: x after the LayerNorm, tile after tile, laid out so that
// a kernel reads one stream whatever the number of rows. A tile of H rows is stored as
//   fp32 weights: float values[in_features][H]
//   bf16 weights: the same, rounded to bf16; some instruction sets have
//     bfloat16 values[in_features / 2][H][2]
//   int8 weights, for every 128 along in_features, the last of which may be 64:
//     int8 values[32][H][4], zero beyond in_features; some instruction sets have other bytes, see Int8Rows,
//     or values[2][H][64]
//     float scales[H]
//     int32 corrections[H], from which the sums start
//   int4 weights, for every 64 along in_features:
//     int8 values[16][H][4], zero beyond in_features; some instruction sets have values[H][64]
//     float scales[H]
//     int32 corrections[2][H], minus the sum of 32 values: an int16 in the low half, or, where an instruction
//       set brings int4_correction(), the bits of a float
struct LinearTask {
  LinearArguments arguments;
  int64_t panels;
  int64_t panel_bytes;
  int64_t row_bytes;  // a prepared row's
  PrefetchAhead ahead;
  RowTiles tiles;
  int64_t first_row;    // the first of the rows that are prepared together
  const uint8_t* rows;  // the prepared rows, from first_row on

  GPT2FAST_INLINE int64_t offset(int64_t row) const { return (row - first_row) * row_bytes; }
  GPT2FAST_INLINE const uint8_t* tile_rows(int64_t row) const { return rows + offset(row); }
};

inline constexpr int64_t kInt8RowBlocks = 2;  // blocks of 64 that share a scale
// The bytes of a prepared row's values that share a scale, where a value takes so many.
constexpr int64_t int8_scaled_bytes(int64_t value_bytes) { return 64 * kInt8RowBlocks * value_bytes + 4 + 4; }
inline constexpr int64_t kInt4ScaledBytes = 64 + 4 + 8;

inline constexpr int64_t kMaxTileRows = 16;

// The scratch memory of preparing rows holds a row of so many floats, which end at a cache line, and then,
// for integer formats, the rounded rows of a tile, [kMaxTileRows][in_features, in whole blocks].
GPT2FAST_INLINE constexpr int64_t scratch_row_floats(int64_t in_features) {
  return (in_features + 15) / 16 * 16;
}

// An instruction set's functions for one weight format.
struct LinearKernel {
  // Prepares the rows of some tiles into `prepared`, which begins with task.first_row. For `scratch` see
  // scratch_row_floats().
  void (*prepare_rows)(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared);
  // Computes the outputs of some tiles of rows and some panels.
  void (*multiply)(const LinearTask& task, Range tiles, Range panels);
  int64_t max_tile_rows;
  // Of a prepared row's values that share a scale; for float formats, of one value.
  int64_t scaled_bytes;
  // From so many rows a thread on, each thread takes rows of its own and all columns. It then reads all
  // weights, but what one operator passes to the next stays in its caches. With fewer rows, reading weights
  // costs more.
  int64_t own_rows;
  PrefetchAhead ahead;
};

}  // namespace gpt2fast
