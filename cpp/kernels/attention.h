// Causal attention over a KV cache that is written in place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "gpt2fast/cache_format.h"
#include "kernels/isa.h"
#include "kernels/workspace.h"
#include "system/parallel.h"

namespace gpt2fast {

// Shape of the cache: [slots, blocks, layers, heads, 2, block_bytes]. A block holds 64 positions of a head,
// first the keys, then the values. So a layer reads a block from one end to the other, and all that belongs
// to a sequence lies together, in large pages where the system has them. head_dim is padded to a multiple of
// 16, and a block consists of four parts of 16 positions each, laid out so that both the dot products and the
// weighted sum run along vectors:
//
//   float formats  keys    element[head_dim][16]: transposed
//                  values  element[16][head_dim]
//   int8           keys    float scale[16], uint8 u[head_dim / 4][16][4]: key[4 i + j] of position p is
//                          scale[p] * (u[i][p][j] - 128)
//                  values  float scale[16], int8 v[8][head_dim][2]: value[d] of position 2 i + j is
//                          scale[2 i + j] * v[i][d][j]
//
// An int8 scale has the 8 significant bits of a bfloat16. So a vector that was read back as floats, even if
// these were rounded to float16, gives the same integers and scale when it is rounded again.
struct CacheShape {
  int64_t layers = 1;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t positions = 0;
  CacheFormat format = CacheFormat::kFloat16;

  int64_t blocks() const { return (positions + kKeyBlock - 1) / kKeyBlock; }
  int64_t padded_head_dim() const { return (head_dim + 15) / 16 * 16; }
  // The bytes of one head's key or value at one position.
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
  // From a head's block to its next.
  int64_t block_stride() const { return layers * layer_stride(); }
  int64_t slot_bytes() const { return blocks() * block_stride(); }
  std::array<int64_t, 6> dimensions(int64_t slots) const {
    return {slots, blocks(), layers, heads, 2, block_bytes()};
  }
};

// The caller has checked that no two sequences share a slot, that slots lie in the cache, and that
// cached_lengths plus the new tokens, of which a sequence may have none, stay within shape.positions. The
// cache's contents beyond the cached lengths are never used, NaNs included.
struct AttentionArguments {
  CacheShape shape;
  float scale = 1.0f;
  int64_t sequences = 0;
  const float* qkv = nullptr;                // [tokens, 3 * heads * head_dim]: queries, keys, values
  const int32_t* sequence_starts = nullptr;  // [sequences + 1]
  const int32_t* slots = nullptr;            // [sequences]
  const int32_t* cached_lengths = nullptr;   // [sequences]
  // The tokens [begin, end) of each sequence get a result; y of the others stays as it is. Null: all tokens.
  const int32_t* wanted_begins = nullptr;  // [sequences]
  const int32_t* wanted_ends = nullptr;    // [sequences]
  void* cache = nullptr;                   // one layer's first block in slot 0
  float* y = nullptr;                      // [tokens, heads * head_dim]
};

// The scratch memory that cached_attention() needs for these sequence_starts and this shape.
WorkspaceSize attention_workspace(const AttentionArguments& arguments, int64_t threads,
                                  const KernelTable& table);

// Writes this step's keys and values into the slots, then attends. A token's result is the same bits whatever
// else is in the step, however its prompt is cut into steps, and for any number of threads and any
// instruction set. A NaN or infinity reaches only the tokens that see it. With an int8 cache, queries are
// rounded like keys, and softmax weights to 15 bits.
void cached_attention(const AttentionArguments& arguments, const Parallel& parallel,
                      const WorkspaceParts& workspace, const KernelTable& table);

// Copies the positions [first, length) of one slot, all layers, to another slot (beam search, shared
// prefixes). Some positions before them may be copied too: the slots agree there.
void copy_slot(const CacheShape& shape, const void* from, void* to, int64_t first, int64_t length);

// Convert between the cache's own layout and plain float32 [heads, length, head_dim] for keys and for values.
// `slot` is one layer's first block in a slot.
void read_slot(const CacheShape& shape, const void* slot, int64_t first, int64_t length, float* keys,
               float* values);
void write_slot(const CacheShape& shape, const float* keys, const float* values, int64_t first,
                int64_t length, void* slot);

}  // namespace gpt2fast
