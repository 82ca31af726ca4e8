// Register tiles over fp32 and bf16 weights: one chain of fused multiply-adds over in_features for each
// output. Rows that bf16 weights multiply are rounded to bf16, and of every two products the second is added
// first: the processors' instruction for bf16 gives the same bits then.
#pragma once

#include "kernels/linear_kernel.h"

namespace gpt2fast {

template <typename Ops>
struct Float32Weights {
  static constexpr int64_t kBytes = 4;
  static constexpr bool kSecondFirst = false;  // of every two products
  static GPT2FAST_INLINE Vec<typename Ops::Tag> load(const uint8_t* p) {
    return Vec<typename Ops::Tag>::load(reinterpret_cast<const float*>(p));
  }
};

template <typename Ops>
struct BFloat16Weights {
  static constexpr int64_t kBytes = 2;
  static constexpr bool kSecondFirst = true;
  static GPT2FAST_INLINE Vec<typename Ops::Tag> load(const uint8_t* p) {
    return Vec<typename Ops::Tag>::load_bf16(reinterpret_cast<const uint16_t*>(p));
  }
};

template <typename Ops, typename Weights>
struct FloatTile {
  using V = Vec<typename Ops::Tag>;
  using Distance = PrefetchDistance<Ops>;
  static constexpr int kMaxRows = Ops::kFloatRows;
  static constexpr int64_t kScaledBytes = sizeof(float);
  static constexpr bool kOneStream = false;
  static constexpr int kMaxPanels = Ops::kFloatPanels;
  static constexpr int kMaxSums = Ops::kFloatSums;

  template <int rows, int panels>
  static void run(const LinearTask& task, int64_t row, int64_t panel, WeightsAhead ahead) {
    const int64_t in_features = task.arguments.in_features;
    const uint8_t* weight = task.arguments.weight + panel * task.panel_bytes;
    const float* x = reinterpret_cast<const float*>(task.tile_rows(row));
    V sums[panels][rows];
    GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) sums[p][r] = V::zero();
    }
    const int64_t ahead_step = ahead.step / kBlockValues;
    const auto add = [&](int64_t k) __attribute__((always_inline)) {
      // Few rows take several panels at once, and leave the streams to the processor.
      if constexpr (Distance::kFloats && panels == 1) __builtin_prefetch(ahead.window + k * ahead_step, 0, 2);
      V w[panels];
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
        w[p] = Weights::load(weight + p * task.panel_bytes + k * kLanes * Weights::kBytes);
      }
      GPT2FAST_UNROLL for (int r = 0; r < rows; ++r) {
        const V value = V::set1(x[k * rows + r]);
        GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) sums[p][r] = fma(value, w[p], sums[p][r]);
      }
    };
    int64_t k = 0;
    if constexpr (Weights::kSecondFirst) {
      for (; k + 2 <= in_features; k += 2) {
        add(k + 1);
        add(k);
      }
    }
    for (; k < in_features; ++k) add(k);
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
      finish_tile<Ops>(task.arguments, row, panel + p, sums[p]);
    }
  }
};

}  // namespace gpt2fast
