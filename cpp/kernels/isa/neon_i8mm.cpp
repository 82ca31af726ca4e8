// The kernels for 64-bit ARM whose products of byte matrices (the extension I8MM) take two rows and two
// columns at once, twice as many products as an instruction of the dot product extension. Single rows and all
// the rest are that extension's.
#include <arm_neon.h>

#include "kernels/integer_ops_neon.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {
namespace {

struct MatrixOps : NeonOps {
  static constexpr int kInt8Rows = 6, kInt4Rows = 6;  // as many as there are registers for
};

using V = Vec<Neon>;

constexpr int kEight = 8;  // values of a row and a column that an instruction multiplies
constexpr int kColumnPairs = kLanes / 2;

// The dot products of a tile's rows and a panel's columns, for two rows and two columns each: {first column
// and first row, first column and second row, second column and first row, second column and second row}.
template <int rows>
class PairedDots {
 public:
  GPT2FAST_INLINE PairedDots() {
    GPT2FAST_UNROLL for (int p = 0; p < kRowPairs; ++p) {
      GPT2FAST_UNROLL for (int c = 0; c < kColumnPairs; ++c) dots_[p][c] = vdupq_n_s32(0);
    }
  }

  // Adds the products of eight values of each row, which lie kBlockValues apart from x on, and of eight rows
  // of unsigned weights: fours(i, j) is the four columns from 4 j on, of the first (i = 0) or the last four
  // of these rows.
  template <typename Fours>
  GPT2FAST_INLINE void add(const int8_t* x, const Fours& fours) {
    int8x16_t values[kRowPairs];
    GPT2FAST_UNROLL for (int p = 0; p < kRowPairs; ++p) {
      const int8_t* first = x + 2 * p * kBlockValues;
      const int8_t* second = 2 * p + 1 < rows ? first + kBlockValues : first;  // whose products nobody takes
      values[p] = vcombine_s8(vld1_s8(first), vld1_s8(second));
    }
    GPT2FAST_UNROLL for (int j = 0; j < 4; ++j) {
      const uint32x4_t low = vreinterpretq_u32_u8(fours(0, j)), high = vreinterpretq_u32_u8(fours(1, j));
      const uint8x16_t left = vreinterpretq_u8_u32(vzip1q_u32(low, high));
      const uint8x16_t right = vreinterpretq_u8_u32(vzip2q_u32(low, high));
      GPT2FAST_UNROLL for (int p = 0; p < kRowPairs; ++p) {
        dots_[p][2 * j] = vusmmlaq_s32(dots_[p][2 * j], left, values[p]);
        dots_[p][2 * j + 1] = vusmmlaq_s32(dots_[p][2 * j + 1], right, values[p]);
      }
      // Compilers would load all columns at once, and keep sums in memory for want of registers.
      asm volatile("" : : : "memory");
    }
  }

  // Those of one row.
  GPT2FAST_INLINE NeonOps::Sums of_row(int r) const {
    const int32x4_t(&pairs)[kColumnPairs] = dots_[r / 2];
    return NeonOps::map([&](int j) {
      return r % 2 == 0 ? vuzp1q_s32(pairs[2 * j], pairs[2 * j + 1])
                        : vuzp2q_s32(pairs[2 * j], pairs[2 * j + 1]);
    });
  }

 private:
  static constexpr int kRowPairs = (rows + 1) / 2;
  int32x4_t dots_[kRowPairs][kColumnPairs];
};

// As Int8Tile and Int4Tile; of two rows or more, the blocks of each row lie in one piece (WholeRows).
struct Int8MatrixTile : Int8Tile<MatrixOps> {
  template <int rows, int panels>
  static void run(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    if constexpr (rows == 1) {
      Int8Tile::run<1, 1>(task, row, panel, ahead);
    } else {
      run_pairs<rows>(task, row, panel, ahead);
    }
  }

 private:
  template <int rows>
  static void run_pairs(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    const uint8_t* column_scales = task.arguments.weight + panel * task.panel_bytes;
    const uint8_t* values = column_scales + 4 * kLanes;
    const uint8_t* x = task.tile_rows(row);
    V sums[rows];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = V::zero();
    for (int64_t left = divide_up(task.arguments.in_features, kBlockValues); left > 0;
         left -= kInt8RowBlocks) {
      const int64_t blocks = left < kInt8RowBlocks ? left : kInt8RowBlocks;
      add_blocks<rows>(x, values, blocks, ahead, sums);
      x += rows * kScaledBytes;
      values += kInt8RowBlocks * kBlockBytes;
    }
    const V scale = V::load(reinterpret_cast<const float*>(column_scales));
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = sums[r] * scale;
    finish_tile<MatrixOps>(task.arguments, row, panel, sums);
  }

  // x holds blocks of a tile that share a scale, `values` the same blocks of the panel.
  template <int rows>
  static GPT2FAST_INLINE void add_blocks(const uint8_t* x, const uint8_t* values, int64_t blocks,
                                         WeightsAhead& ahead, V (&sums)[rows]) {
    const float* x_scales = reinterpret_cast<const float*>(x + kInt8RowBlocks * kBlockValues * rows);
    const int32_t* corrections = reinterpret_cast<const int32_t*>(x_scales + rows);
    PairedDots<rows> dots;
    for (int64_t b = 0; b < blocks; ++b, values += kBlockBytes) {
      const int8_t* block = reinterpret_cast<const int8_t*>(x + b * kBlockValues * rows);
      _Pragma("GCC unroll 1") for (int i = 0; i < kBlockValues / kEight; ++i) {
        const uint8_t* eight = values + i * kEight * kLanes;
        prefetch_line<Int8Tile, rows>(ahead, 2 * i);
        prefetch_line<Int8Tile, rows>(ahead, 2 * i + 1);
        dots.add(block + kEight * i,
                 [eight](int part, int j) { return vld1q_u8(eight + 4 * kLanes * part + 16 * j); });
      }
      ahead.advance();
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      const NeonOps::Sums products = dots.of_row(r);
      const int32x4_t correction = vdupq_n_s32(corrections[r]);
      const NeonOps::Sums row = NeonOps::map([&](int j) { return vaddq_s32(products.v[j], correction); });
      sums[r] = fma(NeonOps::to_float(row), V::set1(x_scales[r]), sums[r]);
    }
  }
};

struct Int4MatrixTile : Int4Tile<MatrixOps> {
  template <int rows, int panels>
  static void run(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    if constexpr (rows == 1) {
      Int4Tile::run<1, 1>(task, row, panel, ahead);
    } else {
      run_pairs<rows>(task, row, panel, ahead);
    }
  }

 private:
  template <int rows>
  static void run_pairs(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    const uint8_t* column_scales = task.arguments.weight + panel * task.panel_bytes;
    const uint8_t* block_data = column_scales + 4 * kLanes;
    const uint8_t* x = task.tile_rows(row);
    const int64_t blocks = divide_up(task.arguments.in_features, kBlockValues);
    V sums[rows];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = V::zero();
    for (int64_t block = 0; block < blocks; ++block) {
      add_block<rows>(x, block_data, ahead, sums);
      ahead.advance();
      x += rows * kInt4ScaledBytes;
      block_data += kBlockBytes;
    }
    const V scale = V::load(reinterpret_cast<const float*>(column_scales));
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = sums[r] * scale;
    finish_tile<MatrixOps>(task.arguments, row, panel, sums);
  }

  // x holds one block of a tile, block_data the same block of a panel. Its halves are scaled apart.
  template <int rows>
  static GPT2FAST_INLINE void add_block(const uint8_t* x, const uint8_t* block_data,
                                        const WeightsAhead& ahead, V (&sums)[rows]) {
    const float* x_scales = reinterpret_cast<const float*>(x + kBlockValues * rows);
    const int32_t* corrections = reinterpret_cast<const int32_t*>(x_scales + rows);
    V scaled[rows];
    GPT2FAST_UNROLL for (int h = 0; h < 2; ++h) {
      PairedDots<rows> dots;
      add_half<rows>(x, block_data + 4 * kLanes, h, ahead, dots);
      const NeonOps::Sums zero = NeonOps::load_bytes(block_data + (2 + h) * kLanes);
      const V scale = NeonOps::scales_over_16(block_data + h * kLanes);
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
        const V dot =
            NeonOps::to_float(NeonOps::finish_int4(dots.of_row(r), zero, corrections[h * rows + r]));
        scaled[r] = h == 0 ? dot * scale : fma(dot, scale, scaled[r]);
      }
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) sums[r] = fma(scaled[r], V::set1(x_scales[r]), sums[r]);
  }

  // Values of the first half are low nibbles, those of the second high ones.
  template <int rows>
  static GPT2FAST_INLINE void add_half(const uint8_t* x, const uint8_t* values, int h,
                                       const WeightsAhead& ahead, PairedDots<rows>& dots) {
    const int8_t* half = reinterpret_cast<const int8_t*>(x) + h * kBlockValues / 2;
    _Pragma("GCC unroll 1") for (int i = 0; i < kBlockValues / 2 / kEight; ++i) {
      const uint8_t* eight = values + i * kEight * kLanes;
      if (h == 0) {
        prefetch_line<Int4Tile, rows>(ahead, 2 * i);
        prefetch_line<Int4Tile, rows>(ahead, 2 * i + 1);
      }
      dots.add(half + kEight * i, [eight, h](int part, int j) {
        const uint8x16_t both = vld1q_u8(eight + 4 * kLanes * part + 16 * j);
        return h == 0 ? vandq_u8(both, vdupq_n_u8(15)) : vshrq_n_u8(both, 4);
      });
    }
  }
};

}  // namespace

const KernelTable& kernels_neon_i8mm() {
  static const KernelTable kTable = [] {
    KernelTable table = kernels_neon();
    const auto prepare_rows = quantize_rows<MatrixOps, WholeRows, WholeRows>;
    table.linear[static_cast<size_t>(WeightFormat::kInt8)] = linear_kernel<Int8MatrixTile>(prepare_rows);
    LinearKernel& int4 = table.linear[static_cast<size_t>(WeightFormat::kInt4)];
    int4 = linear_kernel<Int4MatrixTile>(prepare_rows);
    int4.ahead.one_row = PrefetchDistance<MatrixOps>::kInt4RowBytes;
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
