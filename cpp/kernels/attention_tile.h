// The unit of attention, a few consecutive queries of one sequence and its heads, and the functions that an
// instruction set has for it.
#pragma once

#include "gpt2fast/cache_format.h"
#include "kernels/simd.h"

namespace gpt2fast {

inline constexpr int64_t kAttentionTileRows = 96;  // most queries that are computed together
// Rows of qkv are prefetched so far ahead: they lie on different pages, and no hardware prefetcher follows
// them.
inline constexpr int64_t kRowsAhead = 12;

// The bytes of a part of an int8 cache's block, see CacheShape: kLanes positions of one head's keys or
// values.
constexpr int64_t int8_part_bytes(int64_t padded_head_dim) { return kLanes * (padded_head_dim + 4); }
inline constexpr int64_t kPartScaleBytes = 4 * kLanes;
inline constexpr int64_t kPairs = kLanes / 2;  // pairs of positions in such a part

// Consecutive tokens of one sequence, and some of its heads. The pointers are to the first head's data, which
// the next head's follows.
struct AttentionTile {
  int64_t heads = 1;
  int64_t rows = 0;
  int64_t first_position = 0;  // the first row's
  int64_t head_dim = 0;
  int64_t padded_head_dim = 0;
  float scale = 0.0f;
  const float* queries = nullptr;   // [rows, head_dim], rows qkv_stride apart
  const float* new_keys = nullptr;  // the same shape: what this step appends
  const float* new_values = nullptr;
  int64_t qkv_stride = 0;
  bool appends = false;        // whether attend() writes the new keys and values before it reads them
  char* keys = nullptr;        // the first head's first block, see CacheShape
  int64_t block_bytes = 0;     // from its keys to its values, and from there to the next head's keys
  int64_t block_stride = 0;    // to its next block
  const char* next = nullptr;  // the keys that the thread reads after this tile's; null if not known
  float* y = nullptr;          // [rows, head_dim], rows y_stride apart
  int64_t y_stride = 0;
  // AttentionKernel::scratch_bytes(heads * rows, padded_head_dim) bytes, 64-byte aligned.
  char* scratch = nullptr;

  // A head's block that holds `position`.
  char* keys_at(int64_t head, int64_t position) const {
    return keys + 2 * head * block_bytes + position / kKeyBlock * block_stride;
  }
  char* values_at(int64_t head, int64_t position) const { return keys_at(head, position) + block_bytes; }
};

// An instruction set's functions for one cache format.
struct AttentionKernel {
  int64_t (*scratch_bytes)(int64_t rows, int64_t padded_head_dim);
  // Writes the new keys and values into the cache.
  void (*append)(const AttentionTile& tile);
  // Computes y.
  void (*attend)(const AttentionTile& tile);
};

// Loads a line into the second-level cache. Streams of a few kilobytes end before the processor recognises
// them.
GPT2FAST_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  static_cast<void>(p);
#endif
}

// Where the data lies that is read after a block.
struct NextBlock {
  int64_t distance = 0;  // bytes from the block's keys, and from its values
  int64_t parts = 0;     // parts of kLanes positions that are read of it
};

// Calls append(head) before a head's new keys and values are read, and attend(head, position, next) for every
// block, in the order in which they lie: a block's heads, then the next block.
template <typename Append, typename Attend>
GPT2FAST_INLINE void for_each_block(const AttentionTile& tile, const Append& append, const Attend& attend) {
  const int64_t end = tile.first_position + tile.rows;
  const auto parts = [end](int64_t position) {
    return ((end - position < kKeyBlock ? end - position : kKeyBlock) + kLanes - 1) / kLanes;
  };
  for (int64_t position = 0; position < end; position += kKeyBlock) {
    const bool appends = tile.appends && position == tile.first_position / kKeyBlock * kKeyBlock;
    for (int64_t head = 0; head < tile.heads; ++head) {
      NextBlock next;
      if (head + 1 < tile.heads) {
        next = {2 * tile.block_bytes, parts(position)};
      } else if (position + kKeyBlock < end) {
        next = {tile.block_stride - 2 * head * tile.block_bytes, parts(position + kKeyBlock)};
      } else if (tile.next != nullptr) {
        next = {tile.next - tile.keys_at(head, position), kKeyBlock / kLanes};
      }
      if (appends) append(head);
      attend(head, position, next);
    }
  }
}

// Masks the scores [kKeyBlock] of positions that a row does not see, all but the first `visible`, and returns
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

// Writes y: the weighted sums [heads, rows, padded_head_dim] divided by the sums of weights [heads, rows,
// kLanes], whose lanes are added up.
template <typename Tag>
GPT2FAST_INLINE void write_attention(const AttentionTile& tile, const float* outputs, const float* sums) {
  using V = Vec<Tag>;
  for (int64_t head = 0; head < tile.heads; ++head) {
    for (int64_t r = 0; r < tile.rows; ++r, sums += kLanes, outputs += tile.padded_head_dim) {
      const V sum = V::set1(reduce_add(V::load(sums)));
      float* y = tile.y + head * tile.head_dim + r * tile.y_stride;
      for (int64_t d = 0; d < tile.head_dim; d += kLanes) {
        (V::load(outputs + d) / sum).store_partial(y + d, tile.head_dim - d);
      }
    }
  }
}

}  // namespace gpt2fast
