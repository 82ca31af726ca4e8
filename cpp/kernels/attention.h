// Causal attention over a KV cache that is written in place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "gpt2fast/cache_format.h"
#include "kernels/isa.h"
#include "kernels/parallel.h"
#include "kernels/workspace.h"

namespace gpt2fast {

// Shape of the cache: [slots, blocks, layers, heads, 2, block_bytes], of each head in a block of 64 positions
// the keys and then the values. So a layer reads a block from one end to the other, and what a sequence has
// lies together, in large pages where the system has them. head_dim is padded to a multiple of 16, and a
// block is made of four parts, of 16 positions each, arranged so that both the dot products and the weighted
// sum run along vectors:
//
//   float formats  keys    element[head_dim][16]: transposed
//                  values  element[16][head_dim]
//   int8           keys    float scale[16], uint8 u[head_dim / 4][16][4]: key[4 i + j] of position p is
//                          scale[p] * (u[i][p][j] - 128)
//                  values  float scale[16], int8 v[8][head_dim][2]: value[d] of position 2 i + j is
//                          scale[2 i + j] * v[i][d][j]
//
// An int8 scale has the 8 significant bits of a bfloat16, so that a vector which has been read back as
// floats, rounded to float16 even, is rounded to the same integers and scale again.
struct CacheShape {
  int64_t layers = 1;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t positions = 0;
  CacheFormat format = CacheFormat::kFloat16;

  int64_t blocks() const { return (positions + kKeyBlock - 1) / kKeyBlock; }
  int64_t padded_head_dim() const { return (head_dim + 15) / 16 * 16; }
  // Of one head's key or value at one position.
  int64_t position_bytes() const {
    switch (format) {
      case CacheFormat::kFloat32:
        return padded_head_dim() * 4;
      case CacheFormat::kFloat16:
        return padded_head_dim() * 2;
      default:
        return padded_head_dim() + 4;
    }
  }
  int64_t block_bytes() const { return kKeyBlock * position_bytes(); }
  int64_t head_stride() const { return 2 * block_bytes(); }
  int64_t layer_stride() const { return heads * head_stride(); }
  int64_t block_stride() const { return layers * layer_stride(); }  // from a head's block to its next
  int64_t slot_bytes() const { return blocks() * block_stride(); }
  std::array<int64_t, 6> dimensions(int64_t slots) const {
    return {slots, blocks(), layers, heads, 2, block_bytes()};
  }
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
  // Of each sequence the tokens [begin, end) have a result; y of the others stays as it is. Null: all tokens.
  const int32_t* wanted_begins = nullptr;  // [sequences]
  const int32_t* wanted_ends = nullptr;    // [sequences]
  void* cache = nullptr;                   // one layer's first block in slot 0
  float* y = nullptr;                      // [tokens, heads * head_dim]
};

// The scratch that cached_attention() needs for these sequence_starts and this shape.
WorkspaceSize attention_workspace(const AttentionArguments& arguments, int64_t threads,
                                  const KernelTable& table);

// Writes this step's keys and values into the slots, then attends. A token's result is the same bits whatever
// shares the step, however its prompt is cut into steps, for any number of threads and any instruction set. A
// NaN or infinity reaches only the tokens that see it. With an int8 cache queries are rounded like keys, and
// softmax weights to 15 bits.
void cached_attention(const AttentionArguments& arguments, const Parallel& parallel,
                      const WorkspaceParts& workspace, const KernelTable& table);

// Copies `length` positions of one slot, all layers, to another slot (beam search, shared prefixes).
void copy_slot(const CacheShape& shape, const void* from, void* to, int64_t length);

// Between the cache's own arrangement, of one layer from its first block in a slot on, and plain float32
// [heads, length, head_dim] for keys and for values.
void read_slot(const CacheShape& shape, const void* slot, int64_t first, int64_t length, float* keys,
               float* values);
void write_slot(const CacheShape& shape, const float* keys, const float* values, int64_t first,
                int64_t length, void* slot);

}  // namespace gpt2fast
