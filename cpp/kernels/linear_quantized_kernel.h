// Register tiles over int8 and int4 weights: exact integer sums over the values that share a scale, which are
// scaled and added up as floats in order. The column's scale comes last.
#pragma once

#include "kernels/linear_kernel.h"

namespace gpt2fast {

// Prefetches one of the lines of a block. With the processor's own prefetching alone, a single row reads
// memory at two thirds to four fifths of its speed. Few rows are fastest when weights are prefetched into the
// second-level cache, some KB ahead. A single row of int4 weights is fastest with a shorter distance, and a
// few rows, on some processors, without any. Taller tiles compute for longer than their weights take to
// arrive, so these may go to the first level at once.
template <typename Tile, int rows>
GPT2FAST_INLINE void prefetch_line(const WeightsAhead& ahead, int line) {
  if constexpr (rows >= Tile::kFirstLevelRows) {
    __builtin_prefetch(ahead.line(line));
  } else if constexpr (rows >= Tile::kSecondLevelRows) {
    __builtin_prefetch(ahead.line(line), 0, 2);
  } else if constexpr (rows == 1) {
    __builtin_prefetch(ahead.line(line), 0, Tile::Distance::kInt4RowLocality);
  }
}

// How many panels a tile of int8 weights takes at most, where there are several tiles.
template <typename Ops>
constexpr int int8_panels() {
  if constexpr (requires { Ops::kInt8Panels; }) {
    return Ops::kInt8Panels;
  } else {
    return 1;
  }
}

template <typename Ops>
struct Int8Tile {
  using V = Vec<typename Ops::Tag>;
  using Distance = PrefetchDistance<Ops>;
  using Rows = Int8Rows<Ops>;
  static constexpr int kMaxRows = Ops::kInt8Rows;
  static constexpr int64_t kScaledBytes = int8_scaled_bytes(Rows::kValueBytes);
  static constexpr int kSecondLevelRows = 1, kFirstLevelRows = 12;  // see prefetch_line()
  static constexpr bool kOneStream = true;
  static constexpr int kMaxPanels = int8_panels<Ops>();
  static constexpr int kMaxSums = kMaxRows * kMaxPanels;
  static constexpr int64_t kBlockBytes = kBlockValues * kLanes;

  template <int rows, int panels>
  static void run(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    const int64_t blocks = (task.arguments.in_features + kBlockValues - 1) / kBlockValues;
    const uint8_t* column_scales = task.arguments.weight + panel * task.panel_bytes;
    const uint8_t* values = column_scales + 4 * kLanes;
    const uint8_t* x = task.tile_rows(row);
    V sums[panels][rows];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) sums[p][r] = V::zero();
    }
    for (int64_t left = blocks; left > 0; left -= kInt8RowBlocks) {
      const int64_t count = left < kInt8RowBlocks ? left : kInt8RowBlocks;
      add_blocks(x, values, task.panel_bytes, count, ahead, sums);
      x += rows * kScaledBytes;
      values += kInt8RowBlocks * kBlockBytes;
    }
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p, column_scales += task.panel_bytes) {
      const V scale = V::load(reinterpret_cast<const float*>(column_scales));
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[p][r] = sums[p][r] * scale;
      finish_tile<Ops>(task.arguments, row, panel + p, sums[p]);
    }
  }

  // x holds blocks of a tile that share a scale, `values` the same blocks of the first panel.
  template <int rows, int panels>
  static GPT2FAST_INLINE void add_blocks(const uint8_t* x, const uint8_t* values, int64_t panel_bytes,
                                         int64_t count, WeightsAhead& ahead, V (&sums)[panels][rows]) {
    constexpr int64_t kValueBytes = Rows::kValueBytes;
    const float* x_scales =
        reinterpret_cast<const float*>(x + kInt8RowBlocks * kBlockValues * kValueBytes * rows);
    const int32_t* corrections = reinterpret_cast<const int32_t*>(x_scales + rows);
    typename Ops::Sums dots[rows][panels];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) dots[r][p] = Rows::start(corrections[r]);
    }
    for (; count > 0; --count, values += kBlockBytes, x += kBlockValues * kValueBytes * rows) {
      for (int i = 0; i < kBlockValues / 4; ++i) {
        prefetch_line<Int8Tile, rows>(ahead, i);
        typename Rows::Weights w[panels];
        GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) w[p] = Rows::load(values + 64 * i + p * panel_bytes);
        GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
          const uint8_t* four = x + 4 * kValueBytes * (i * rows + r);
          if constexpr (panels == 1) {
            dots[r][0] = Rows::dot(dots[r][0], w[0], four);
          } else {
            const auto spread = Ops::spread(reinterpret_cast<const int8_t*>(four));
            GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) dots[r][p] = Ops::dot(dots[r][p], w[p], spread);
          }
        }
      }
      ahead.advance();
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      const V scale = V::set1(x_scales[r]);
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
        sums[p][r] = fma(Ops::to_float(dots[r][p]), scale, sums[p][r]);
      }
    }
  }
};

template <typename Ops>
struct Int4Tile {
  using V = Vec<typename Ops::Tag>;
  using Distance = PrefetchDistance<Ops>;
  static constexpr int kMaxRows = Ops::kInt4Rows;
  static constexpr int64_t kScaledBytes = kInt4ScaledBytes;
  static constexpr int kSecondLevelRows = Distance::kInt4Rows, kFirstLevelRows = 6;
  static constexpr bool kOneStream = true;
  static constexpr int kMaxPanels = 1;
  static constexpr int kMaxSums = kMaxRows;
  static constexpr int64_t kBlockBytes = 4 * kLanes + kBlockValues * kLanes / 2;

  template <int rows, int panels>
  static void run(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    static_assert(panels == 1);
    const uint8_t* column_scales = task.arguments.weight + panel * task.panel_bytes;
    const uint8_t* block_data = column_scales + 4 * kLanes;
    const uint8_t* x = task.tile_rows(row);
    const int64_t blocks = (task.arguments.in_features + kBlockValues - 1) / kBlockValues;
    V sums[rows];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = V::zero();
    for (int64_t block = 0; block < blocks; ++block) {
      if constexpr (requires { Ops::load_int4_half(block_data, 0); }) {
        add_halves_in_turn(x, block_data, ahead, sums);
      } else {
        add_block(x, block_data, ahead, sums);
      }
      ahead.advance();
      x += rows * kInt4ScaledBytes;
      block_data += kBlockBytes;
    }
    const V scale = V::load(reinterpret_cast<const float*>(column_scales));
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = sums[r] * scale;
    finish_tile<Ops>(task.arguments, row, panel, sums);
  }

  // x holds one block of a tile, block_data the same block of a panel.
  template <int rows>
  static GPT2FAST_INLINE void add_block(const uint8_t* x, const uint8_t* block_data,
                                        const WeightsAhead& ahead, V (&sums)[rows]) {
    const int8_t* x_values = reinterpret_cast<const int8_t*>(x);
    const float* x_scales = reinterpret_cast<const float*>(x + kBlockValues * rows);
    const int32_t* corrections = reinterpret_cast<const int32_t*>(x_scales + rows);
    const uint8_t* zeros = block_data + 2 * kLanes;
    const uint8_t* values = block_data + 4 * kLanes;
    typename Ops::NibbleSums dots[2][rows];
    GPT2FAST_UNROLL for (int h = 0; h < 2; ++h) {
      const typename Ops::Sums zero = Ops::load_bytes(zeros + h * kLanes);
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) dots[h][r] =
          Ops::start_int4(zero, corrections[h * rows + r]);
    }
    for (int i = 0; i < kBlockValues / 8; ++i) {
      prefetch_line<Int4Tile, rows>(ahead, i);
      typename Ops::Nibbles w[2];
      Ops::load_int4(values + 64 * i, w);
      GPT2FAST_UNROLL for (int h = 0; h < 2; ++h) {
        GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
          dots[h][r] = Ops::dot_int4(dots[h][r], w[h], x_values + 4 * ((8 * h + i) * rows + r));
        }
      }
    }
    V halves[2][rows];
    GPT2FAST_UNROLL for (int h = 0; h < 2; ++h) {
      const typename Ops::Sums zero = Ops::load_bytes(zeros + h * kLanes);
      const V scale = Ops::scales_over_16(block_data + h * kLanes);
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
        const V dot = Ops::to_float(Ops::finish_int4(dots[h][r], zero, corrections[h * rows + r]));
        halves[h][r] = h == 0 ? dot * scale : fma(dot, scale, halves[0][r]);
      }
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = fma(halves[1][r], V::set1(x_scales[r]), sums[r]);
  }

  // The same, with the sums of one half at a time: few registers then serve twice as many rows.
  template <int rows>
  static GPT2FAST_INLINE void add_halves_in_turn(const uint8_t* x, const uint8_t* block_data,
                                                 const WeightsAhead& ahead, V (&sums)[rows]) {
    const int8_t* x_values = reinterpret_cast<const int8_t*>(x);
    const float* x_scales = reinterpret_cast<const float*>(x + kBlockValues * rows);
    const int32_t* corrections = reinterpret_cast<const int32_t*>(x_scales + rows);
    const uint8_t* values = block_data + 4 * kLanes;
    V halves[2][rows];
    GPT2FAST_UNROLL for (int h = 0; h < 2; ++h) {
      const typename Ops::Sums zero = Ops::load_bytes(block_data + (2 + h) * kLanes);
      typename Ops::NibbleSums dots[rows];
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
        dots[r] = Ops::start_int4_half(zero, corrections[h * rows + r]);
      }
      for (int i = 0; i < kBlockValues / 8; ++i, x_values += 4 * rows) {
        if (h == 0) prefetch_line<Int4Tile, rows>(ahead, i);
        const typename Ops::Nibbles w = Ops::load_int4_half(values + 64 * i, h);
        GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) Ops::add_int4(dots[r], w, x_values + 4 * r);
      }
      const V scale = Ops::scales_over_16(block_data + h * kLanes);
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
        const V dot = Ops::finish_int4_half(dots[r], zero, corrections[h * rows + r]);
        halves[h][r] = h == 0 ? dot * scale : fma(dot, scale, halves[0][r]);
      }
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = fma(halves[1][r], V::set1(x_scales[r]), sums[r]);
  }
};

}  // namespace gpt2fast
