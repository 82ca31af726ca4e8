// The kernels for AVX-512 with the dot product of bf16 pairs, which multiplies twice as much as floats do.
// The rest is that of AVX-512 with VNNI.
#include <immintrin.h>

#include "kernels/integer_ops_avx512.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {
namespace {

struct Bf16Ops : Avx512Ops {};

using V = Vec<Avx512>;

constexpr int64_t kPairBytes = 4;               // of a row
constexpr int64_t kLineBytes = 2 * 2 * kLanes;  // a pair of 16 columns

// Rounds rows to bf16, and interleaves the pairs of a tile.
void interleave_pairs(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  const int64_t in_features = task.arguments.in_features, pairs = (in_features + 1) / 2;
  prepare_rows<Bf16Ops>(task, rows, scratch, prepared,
                        [&](const float* x, int64_t height, int64_t row, uint8_t* out) {
                          // In place: what is written is behind what is read.
                          uint8_t* rounded = reinterpret_cast<uint8_t*>(scratch);
                          for (int64_t k = 0; k < in_features; k += kLanes) {
                            const int64_t left = in_features - k;
                            const V values = left >= kLanes ? V::load(x + k) : V::load_partial(x + k, left);
                            const __m256bh halves = _mm512_cvtneps_pbh(values.v);
                            memcpy(rounded + 2 * k, &halves, sizeof(halves));
                          }
                          out += row * kPairBytes;
                          for (int64_t pair = 0; pair < pairs; ++pair)
                            memcpy(out + pair * height * kPairBytes, rounded + pair * kPairBytes, kPairBytes);
                        });
}

// Adds the products of second values, then those of first ones, each rounded once.
GPT2FAST_INLINE V add_pairs(V sums, __m512i weights, __m512i row) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums.v) : "v"(weights), "v"(row));
  return sums;
}
GPT2FAST_INLINE V add_pairs(V sums, __m512i weights, const uint8_t* row) {
  struct Two {
    uint16_t values[2];
  };
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sums.v) : "v"(weights), "m"(*reinterpret_cast<const Two*>(row)));
  return sums;
}

struct Bf16Tile {
  using Distance = PrefetchDistance<Bf16Ops>;
  static constexpr int kMaxRows = Bf16Ops::kFloatRows;
  static constexpr int64_t kScaledBytes = 2;
  static constexpr bool kOneStream = false;
  static constexpr int kMaxPanels = Bf16Ops::kFloatPanels;
  static constexpr int kMaxSums = Bf16Ops::kFloatSums;

  template <int rows, int panels>
  static void run(const LinearTask& task, int64_t row, int64_t panel, const WeightsAhead&) {
    const int64_t in_features = task.arguments.in_features;
    const uint8_t* weight = task.arguments.weight + panel * task.panel_bytes;
    const uint8_t* x = task.tile_rows(row);
    V sums[panels][rows];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) sums[p][r] = V::zero();
    }
    for (int64_t k = 0; k + 2 <= in_features; k += 2, weight += kLineBytes, x += rows * kPairBytes)
      add<rows, panels>(weight, task.panel_bytes, 0xffffffffu, x, sums);
    if (in_features % 2 != 0) add<rows, panels>(weight, task.panel_bytes, 0xffffu, x, sums);
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
      finish_tile<Bf16Ops>(task.arguments, row, panel + p, sums[p]);
    }
  }

  // Adds the products of one pair of inputs; `present` has a bit for each of its weights in memory.
  template <int rows, int panels>
  static GPT2FAST_INLINE void add(const uint8_t* weight, int64_t panel_bytes, __mmask32 present,
                                  const uint8_t* x, V (&sums)[panels][rows]) {
    const __m512i columns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                             7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i w[panels];
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
      w[p] = _mm512_permutexvar_epi16(columns, _mm512_maskz_loadu_epi16(present, weight + p * panel_bytes));
    }
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      if constexpr (panels == 1) {
        sums[0][r] = add_pairs(sums[0][r], w[0], x + r * kPairBytes);
      } else {
        int32_t pair;
        memcpy(&pair, x + r * kPairBytes, sizeof(pair));
        const __m512i row = _mm512_set1_epi32(pair);
        GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) sums[p][r] = add_pairs(sums[p][r], w[p], row);
      }
    }
  }
};

}  // namespace

const KernelTable& kernels_avx512_bf16() {
  static const KernelTable kTable = [] {
    KernelTable table = kernels_avx512();
    table.linear[static_cast<size_t>(WeightFormat::kBFloat16)] = linear_kernel<Bf16Tile>(interleave_pairs);
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
