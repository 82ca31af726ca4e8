// The unit of attention: a few consecutive queries of one sequence and head; and what an instruction set does
// with it.
#pragma once

#include "gpt2fast/cache_format.h"
#include "kernels/isa.h"
#include "kernels/simd.h"

namespace gpt2fast {

inline constexpr int64_t kKeyBlock = 64;           // positions that a softmax takes in at once
inline constexpr int64_t kAttentionTileRows = 96;  // most queries that are computed together
inline constexpr int64_t kRowsAhead = 12;  // rows of qkv lie on different pages: no prefetcher follows them

// An int8 cache's block, see CacheShape: of kLanes positions of one head's keys or values.
constexpr int64_t int8_block_bytes(int64_t padded_head_dim) { return kLanes * (padded_head_dim + 4); }
inline constexpr int64_t kBlockScaleBytes = 4 * kLanes;
inline constexpr int64_t kPairs = kLanes / 2;  // of positions in such a block

// Consecutive tokens of one sequence, one head.
struct AttentionTile {
  int64_t rows = 0;
  int64_t first_position = 0;  // of the first row
  int64_t head_dim = 0;
  int64_t padded_head_dim = 0;
  float scale = 0.0f;
  const float* queries = nullptr;   // [rows, head_dim], rows qkv_stride apart
  const float* new_keys = nullptr;  // same, what this step appends
  const float* new_values = nullptr;
  int64_t qkv_stride = 0;
  char* keys = nullptr;    // the head's, see CacheShape
  char* values = nullptr;  // the head's
  int64_t head_bytes = 0;  // of the keys, and of the values; the next head's follow
  float* y = nullptr;      // [rows, head_dim], rows y_stride apart
  int64_t y_stride = 0;
  char* scratch = nullptr;  // AttentionKernel::scratch_bytes(rows, padded_head_dim), 64-byte aligned
};

struct AttentionKernel {
  int64_t (*scratch_bytes)(int64_t rows, int64_t padded_head_dim);
  void (*append)(const AttentionTile& tile);  // writes the rows' keys and values into the cache
  void (*attend)(const AttentionTile& tile);
};

AttentionKernel attention_kernel(Isa isa, CacheFormat format);

AttentionKernel attention_kernel_portable(CacheFormat format);
AttentionKernel attention_kernel_avx2(CacheFormat format);
AttentionKernel attention_kernel_avx_vnni(CacheFormat format);
AttentionKernel attention_kernel_avx512(CacheFormat format);
AttentionKernel attention_kernel_neon(CacheFormat format);

// Into the second-level cache. Streams of a few kilobytes end before the processor has recognised them.
GPT2FAST_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  static_cast<void>(p);
#endif
}

// Hides the scores [kKeyBlock] of positions that a row does not see, all but the first `visible`, and returns
// the largest of the others, lane by lane. `visible` is at least 1.
template <typename Tag>
GPT2FAST_INLINE Vec<Tag> largest_scores(float* scores, int64_t visible) {
  using V = Vec<Tag>;
  static_assert(kKeyBlock == 4 * kLanes);
  if (visible < kKeyBlock) {
    for (int64_t i = 0; i < kKeyBlock; i += kLanes) {
      select_first(visible - i, V::load(scores + i), V::set1(-__builtin_inff())).store(scores + i);
    }
  }
  return max(max(V::load(scores), V::load(scores + kLanes)),
             max(V::load(scores + 2 * kLanes), V::load(scores + 3 * kLanes)));
}

// From weighted sums [rows, padded_head_dim] and sums of weights [rows, kLanes], lane by lane, to y.
template <typename Tag>
GPT2FAST_INLINE void write_attention(const AttentionTile& tile, const float* outputs, const float* sums) {
  using V = Vec<Tag>;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const V sum = V::set1(reduce_add(V::load(sums + r * kLanes)));
    for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
      (V::load(outputs + r * tile.padded_head_dim + d) / sum)
          .store_partial(tile.y + r * tile.y_stride + d, tile.head_dim - d);
    }
  }
}

}  // namespace gpt2fast
