// Causal attention over a KV cache that is written in place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/parallel.h"

namespace gpt2fast {

// Shape of one layer's cache: [slots, 2, heads, padded_positions, padded_head_dim], the first half of
// dimension 1 keys, the second values. Positions and head_dim are padded to multiples of 16. A head's values
// are rows of padded_head_dim; its keys are stored in blocks of 16 positions, each block transposed to
// [head_dim, 16], so that both the dot products and the weighted sum run along vectors.
struct CacheShape {
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t positions = 0;
  bool half = true;  // float16 elements, else float32

  int64_t padded_positions() const { return (positions + 15) / 16 * 16; }
  int64_t padded_head_dim() const { return (head_dim + 15) / 16 * 16; }
  int64_t element_bytes() const { return half ? 2 : 4; }
  int64_t slot_elements() const { return 2 * heads * padded_positions() * padded_head_dim(); }
  int64_t slot_bytes() const { return slot_elements() * element_bytes(); }
};

// The caller has checked that every sequence brings at least one token, that no two share a slot, that slots
// lie in the cache, and that cached_lengths plus the new tokens stay within shape.positions. What the cache
// holds beyond the cached lengths is never used, NaNs included.
struct AttentionArguments {
  CacheShape shape;
  float scale = 1.0f;
  int64_t sequences = 0;
  const float* qkv = nullptr;                // [tokens, 3 * heads * head_dim]: queries, keys, values
  const int32_t* sequence_starts = nullptr;  // [sequences + 1]
  const int32_t* slots = nullptr;            // [sequences]
  const int32_t* cached_lengths = nullptr;   // [sequences]
  void* cache = nullptr;                     // [slots, slot_elements]
  float* y = nullptr;                        // [tokens, heads * head_dim]
};

// Scratch that cached_attention() needs for these sequence_starts and this head_dim; 64-byte aligned.
size_t attention_workspace_bytes(const AttentionArguments& arguments, int threads);

// Writes this step's keys and values into the slots, then attends. A token's result is the same bits whatever
// shares the step, however its prompt is cut into steps, for any number of threads and any instruction set. A
// NaN or infinity reaches only the tokens that see it.
void cached_attention(const AttentionArguments& arguments, const Parallel& parallel, void* workspace,
                      Isa isa = active_isa());

// Copies `length` positions of one slot's layer to another slot (beam search, shared prefixes).
void copy_slot(const CacheShape& shape, const void* from, void* to, int64_t length);

// Between the cache's own arrangement and plain float32 [heads, length, head_dim] for keys and for values.
void read_slot(const CacheShape& shape, const void* slot, int64_t first, int64_t length, float* keys,
               float* values);
void write_slot(const CacheShape& shape, const float* keys, const float* values, int64_t first,
                int64_t length, void* slot);

}  // namespace gpt2fast
