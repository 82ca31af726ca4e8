// What linear() hands to an instruction set's kernels: a call's rows and panels, and the functions that
// prepare and multiply them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"
#include "kernels/shards.h"
#include "kernels/simd_portable.h"

namespace gpt2fast {

// The rows of a step, cut into tiles of nearly equal height, none above a kernel's limit. A tile shares one
// pass over the weights.
struct RowTiles {
  int64_t rows;
  int64_t count;

  GPT2FAST_INLINE int64_t begin(int64_t tile) const { return part(rows, tile, count).begin; }
  GPT2FAST_INLINE int64_t height(int64_t tile) const { return begin(tile + 1) - begin(tile); }
  GPT2FAST_INLINE int64_t max_height() const { return divide_up(rows, count); }
  GPT2FAST_INLINE int64_t tile_of(int64_t row) const { return part_of(row, rows, count); }
};

// One call of linear(). Prepared rows are what the kernels read: x after the LayerNorm, tile after tile,
// arranged so that a kernel walks through one stream whatever the number of rows. For a tile of H rows that
// is
//   float formats: float values[in_features][H]
//   int8 weights, for every 128 along in_features, the last of which may be 64:
//     int8 values[32][H][4], zero beyond in_features
//     float scales[H]
//     int32 corrections[H], -128 times the sum of the row's values
//   int4 weights, for every 64 along in_features:
//     int8 values[16][H][4], zero beyond in_features
//     float scales[H]
//     int32 corrections[2][H], minus the sum of 32 values, as an int16 in the low half
struct LinearTask {
  LinearArguments arguments;
  int64_t panels;
  int64_t panel_bytes;
  int64_t row_bytes;  // of a prepared row
  RowTiles tiles;
  int64_t first_row;    // of those that are prepared together
  const uint8_t* rows;  // prepared, from first_row on

  GPT2FAST_INLINE int64_t offset(int64_t row) const { return (row - first_row) * row_bytes; }
  GPT2FAST_INLINE const uint8_t* tile_rows(int64_t row) const { return rows + offset(row); }
};

inline constexpr int64_t kInt8RowBlocks = 2;  // of 64, that share a scale
inline constexpr int64_t kInt8ScaledBytes = 64 * kInt8RowBlocks + 4 + 4;
inline constexpr int64_t kInt4ScaledBytes = 64 + 4 + 8;

inline constexpr int64_t kMaxTileRows = 16;

// Scratch memory of preparing rows: a row of so many floats, which end at a cache line; after it, for integer
// formats, the rounded rows of a tile, [kMaxTileRows][in_features, in whole blocks].
GPT2FAST_INLINE constexpr int64_t scratch_row_floats(int64_t in_features) {
  return (in_features + 15) / 16 * 16;
}

// One instruction set's way with one weight format.
struct LinearKernel {
  // Prepares the rows of some tiles into `prepared`, where task.first_row starts. scratch: see
  // scratch_row_floats().
  void (*prepare_rows)(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared);
  // Outputs of some tiles of rows and some panels.
  void (*multiply)(const LinearTask& task, Range tiles, Range panels);
  int64_t max_tile_rows;
  // From so many rows a thread on, each thread takes its rows and all columns: it reads all weights then, but
  // what the operators pass on stays in its caches. With fewer rows weights count for more.
  int64_t own_rows;
};

}  // namespace gpt2fast
