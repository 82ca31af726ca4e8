// What linear() asks of each instruction set: a table of functions, filled from the templates in
// linear_kernel.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace gpt2fast {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// The rows of a step, cut into tiles of nearly equal height, none above a kernel's limit. A tile shares one
// pass over the weights.
struct RowTiles {
  int64_t rows = 0;
  int64_t count = 0;

  int64_t begin(int64_t tile) const { return rows * tile / count; }
  int64_t height(int64_t tile) const { return begin(tile + 1) - begin(tile); }
  int64_t max_height() const { return (rows + count - 1) / count; }
  int64_t tile_of(int64_t row) const { return ((row + 1) * count - 1) / rows; }
};

// Activations for integer weights, quantised in blocks of 64 along in_features. For a tile of H rows, block
// by block:
//   int8 values[16][H][4], zero beyond in_features
//   float scales[H]
//   int32 corrections[H] for int8 weights: -128 times the sum of the row's values
//   int32 corrections[2][H] for int4 weights: minus the sum of 32 values, as an int16 in the low half
// so that a kernel walks through one stream whatever the number of rows.
struct QuantizedRows {
  uint8_t* data = nullptr;
  int64_t blocks = 0;
  int64_t block_bytes = 0;  // of one row

  static constexpr int64_t bytes_per_block(WeightFormat format) {
    return format == WeightFormat::kInt4 ? 76 : 72;
  }
  uint8_t* tile(int64_t first_row) const { return data + first_row * blocks * block_bytes; }
};

struct LinearTask {
  LinearArguments arguments;
  int64_t panels = 0;
  int64_t panel_bytes = 0;
  RowTiles tiles;
  const float* rows =
      nullptr;              // [rows, in_features]: x, after the LayerNorm if there is one; float formats only
  QuantizedRows quantized;  // integer formats only
};

struct LinearVariant {
  // Quantises rows [rows.begin, rows.end), after the LayerNorm if there is one. scratch: [in_features]
  // floats.
  void (*quantize_rows)(const LinearTask& task, Range rows, float* scratch) = nullptr;
  // LayerNorm of rows [rows.begin, rows.end) into y, which has the shape of x.
  void (*normalize_rows)(const LinearTask& task, Range rows, float* y) = nullptr;
  // Outputs of some tiles of rows and some panels; by WeightFormat.
  void (*multiply[4])(const LinearTask& task, Range tiles, Range panels) = {};
  int64_t max_tile_rows[4] = {};  // by WeightFormat
};

LinearVariant linear_portable();
LinearVariant linear_neon();
LinearVariant linear_avx2();
LinearVariant linear_avx_vnni();
LinearVariant linear_avx512();

}  // namespace gpt2fast
