// The parts of linear() that all weight formats share: cutting work into register tiles, writing outputs.
//
// Templates over Ops, one instruction set's vectors and dot products (see integer_ops_portable.h for the
// plainest). Each translation unit brings an Ops of its own, so that no two share an instantiation.
#pragma once

#include "kernels/linear_rows_kernel.h"
#include "kernels/linear_task.h"
#include "kernels/math.h"
#include "kernels/simd.h"

namespace gpt2fast {

template <FloatVectors V>
GPT2FAST_INLINE V activate(Activation activation, V x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return gelu_tanh(x);
    case Activation::kGeluErf:
      return gelu_erf(x);
    case Activation::kRelu:
      return relu(x);
  }
  return x;
}

// Updates LinearArguments::maxima with the outputs of some rows and one panel, which has `columns` columns.
template <typename V, int count>
GPT2FAST_INLINE void note_maxima(const LinearArguments& a, int64_t row, int64_t column, int64_t columns,
                                 const V (&y)[count]) {
  static_assert(kLanes == kMaximaLanes);
  const int64_t stride = maxima_floats(a.out_features);
  float* maxima = a.maxima + row * stride + column / kMaximaColumns * kMaximaLanes;
  const bool first = column % kMaximaColumns == 0;
  GPT2FAST_UNROLL for (int r = 0; r < count; ++r, maxima += stride) {
    const V earlier = first ? V::set1(-__builtin_inff()) : V::load(maxima);
    // A NaN stays: max() then gives its second operand. 0 times infinity is a NaN.
    const V later = fma(y[r], V::zero(), max(y[r], earlier));
    if (columns >= kLanes) {
      later.store(maxima);
    } else {
      select_first(columns, later, earlier).store(maxima);
    }
  }
}

// Writes the outputs of `count` rows for one panel, from their sums [count][16].
template <typename Ops, int count>
GPT2FAST_INLINE void write_rows(const LinearArguments& a, int64_t row, int64_t column, const float* sums) {
  using V = Vec<typename Ops::Tag>;
  using Rows = Vecs<typename Ops::Tag, count>;
  const int64_t columns = a.out_features - column;
  const bool whole = columns >= kLanes;
  const auto load = [whole, columns](const float* p) {
    return whole ? V::load(p) : V::load_partial(p, columns);
  };
  const int64_t offset = (row - a.y_first_row) * a.out_features + column;
  Rows y = Rows::apply([&](int r) { return V::load(sums + r * kLanes); });
  if (a.bias != nullptr) {
    const V bias = load(a.bias + column);
    y = Rows::apply([&](int r) { return y.parts[r] + bias; });
  }
  y = activate(a.activation, y);
  if (a.residual != nullptr) {
    y = Rows::apply([&](int r) { return y.parts[r] + load(a.residual + offset + r * a.out_features); });
  }
  GPT2FAST_UNROLL for (int r = 0; r < count; ++r) {
    float* out = a.y + offset + r * a.out_features;
    if (whole) {
      y.parts[r].store(out);
    } else {
      y.parts[r].store_partial(out, columns);
    }
  }
  if (a.maxima != nullptr) note_maxima(a, row, column, columns, y.parts);
}

// Not inline: one copy serves all tiles.
template <typename Ops>
__attribute__((noinline)) void write_outputs(const LinearArguments& a, int64_t first_row, int64_t rows,
                                             int64_t panel, const float* sums) {
  constexpr int kTogether = Ops::kTogether;
  int64_t r = 0;
  for (; r + kTogether <= rows; r += kTogether) {
    write_rows<Ops, kTogether>(a, first_row + r, panel * kLanes, sums + r * kLanes);
  }
  for (; r < rows; ++r) write_rows<Ops, 1>(a, first_row + r, panel * kLanes, sums + r * kLanes);
}

template <typename Ops, int rows>
GPT2FAST_INLINE void finish_tile(const LinearArguments& a, int64_t first_row, int64_t panel,
                                 const Vec<typename Ops::Tag> (&sums)[rows]) {
  alignas(64) float stored[rows * kLanes];
  GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r].store(stored + r * kLanes);
  write_outputs<Ops>(a, first_row, rows, panel, stored);
}

// The weights that a tile prefetches while it computes: for each block of 64 along in_features the first
// lines of a window, which may overlap the one before.
struct WeightsAhead {
  const uint8_t* window;
  int64_t step;  // bytes from one block's window to the next

  GPT2FAST_INLINE const uint8_t* line(int index) const { return window + index * 64; }
  GPT2FAST_INLINE void advance() { window += step; }
};

// How far ahead a single tile of rows prefetches its weights. Processors differ in what is best.
template <typename Ops>
struct PrefetchDistance {
  static constexpr int64_t kBytes = 4096;
  // For int4 weights: one row, and so many rows or more, prefetch; the numbers between don't.
  static constexpr int kInt4Rows = 6;
  // For one row of int4 weights.
  static constexpr int64_t kInt4RowBytes = 1536;
  static constexpr bool kFloats = false;      // whether float formats prefetch
  static constexpr int kInt4RowLocality = 2;  // 2: into the second-level cache, 3: into the first
};

// Tile::run<rows, panels>(task, row, panel, ahead) computes the outputs of that many rows and panels in
// registers. A Tile says how many rows it takes at most (kMaxRows), how many panels (kMaxPanels), how many
// sums, which are rows * panels (kMaxSums), how far ahead it prefetches (Distance), and whether a single tile
// of rows takes one panel at a time (kOneStream), which reads memory fastest.
template <typename Tile, int rows, int panels>
void run_tile(const LinearTask& task, int64_t row, int64_t panel, int64_t height, const WeightsAhead& ahead) {
  if constexpr (rows > 1) {
    if (height < rows) return run_tile<Tile, rows - 1, panels>(task, row, panel, height, ahead);
  }
  if constexpr (rows * panels <= Tile::kMaxSums) Tile::template run<rows, panels>(task, row, panel, ahead);
}

// As many panels at once as the tiles' height allows: few rows need several for independent sums.
template <typename Tile, int panels_at_once>
void multiply_tiles(const LinearTask& task, Range tiles, Range panels) {
  int64_t panel = panels.begin;
  const bool allowed = panels_at_once == 1 || !Tile::kOneStream || tiles.end - tiles.begin > 1;
  if (allowed && task.tiles.max_height() * panels_at_once <= Tile::kMaxSums) {
    // Each of a panel's tiles prefetches a part of the next panel, so that memory is busy while all of them
    // compute. A single tile prefetches what follows in its own panel.
    const int64_t bytes = panels_at_once * task.panel_bytes;
    const int64_t blocks = (task.arguments.in_features + kBlockValues - 1) / kBlockValues;
    const int64_t parts = blocks * (tiles.end - tiles.begin);
    const int64_t step = (bytes + parts - 1) / parts;
    const int64_t one_tile = task.tiles.max_height() == 1 ? task.ahead.one_row : task.ahead.more_rows;
    const int64_t distance = tiles.end - tiles.begin == 1 ? one_tile : bytes;
    for (; panel + panels_at_once <= panels.end; panel += panels_at_once) {
      WeightsAhead ahead{task.arguments.weight + panel * task.panel_bytes + distance, step};
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, ahead.window += blocks * step) {
        run_tile<Tile, Tile::kMaxRows, panels_at_once>(task, task.tiles.begin(tile), panel,
                                                       task.tiles.height(tile), ahead);
      }
    }
  }
  if constexpr (panels_at_once > 1) {
    multiply_tiles<Tile, panels_at_once / 2>(task, tiles, {panel, panels.end});
  }
}

// A panel is multiplied by all rows of a group before the next panel is, so a group's rows should stay in the
// second-level cache.
template <typename Tile>
void multiply(const LinearTask& task, Range tiles, Range panels) {
  constexpr int64_t kGroupBytes = 512 * 1024;
  const int64_t fitting = kGroupBytes / (task.tiles.max_height() * task.row_bytes);
  const int64_t group = fitting > 1 ? fitting : 1;
  for (int64_t begin = tiles.begin; begin < tiles.end; begin += group) {
    const int64_t end = begin + group < tiles.end ? begin + group : tiles.end;
    multiply_tiles<Tile, Tile::kMaxPanels>(task, {begin, end}, panels);
  }
}

}  // namespace gpt2fast
