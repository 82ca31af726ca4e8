// Moves keys and values between slots, and between a slot and plain arrays.
#include <cstring>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_tile.h"
#include "kernels/kernel_table.h"

namespace gpt2fast {
namespace {

// The elements of one head's block, by position in the block and dimension.
template <typename Element>
class FloatBlock {
 public:
  FloatBlock(const CacheShape& shape, const char* keys)
      : width_(shape.padded_head_dim()),
        keys_(reinterpret_cast<const Element*>(keys)),
        values_(reinterpret_cast<const Element*>(keys + shape.block_bytes())) {}

  float key(int64_t position, int64_t d) const {
    return to_float(keys_[position / kLanes * kLanes * width_ + d * kLanes + position % kLanes]);
  }
  float value(int64_t position, int64_t d) const { return to_float(values_[position * width_ + d]); }

 private:
  static float to_float(float element) { return element; }
  static float to_float(uint16_t element) { return portable::half_to_float(element); }

  int64_t width_;
  const Element* keys_;
  const Element* values_;
};

class Int8Block {
 public:
  Int8Block(const CacheShape& shape, const char* keys)
      : width_(shape.padded_head_dim()), keys_(keys), values_(keys + shape.block_bytes()) {}

  float key(int64_t position, int64_t d) const {
    const char* part = part_of(keys_, position);
    const int64_t index = d / 4 * 4 * kLanes + position % kLanes * 4 + d % 4;
    return scale(part, position) *
           static_cast<float>(static_cast<uint8_t>(part[kPartScaleBytes + index]) - 128);
  }
  float value(int64_t position, int64_t d) const {
    const char* part = part_of(values_, position);
    const int64_t index = position % kLanes / 2 * 2 * width_ + d * 2 + position % 2;
    return scale(part, position) * static_cast<float>(static_cast<int8_t>(part[kPartScaleBytes + index]));
  }

 private:
  const char* part_of(const char* block, int64_t position) const {
    return block + position / kLanes * int8_part_bytes(width_);
  }
  static float scale(const char* part, int64_t position) {
    return reinterpret_cast<const float*>(part)[position % kLanes];
  }

  int64_t width_;
  const char* keys_;
  const char* values_;
};

template <typename Block>
void read_heads(const CacheShape& shape, const char* slot, int64_t first, int64_t length, float* keys,
                float* values) {
  for (int64_t h = 0; h < shape.heads; ++h) {
    for (int64_t position = first; position < first + length; ++position) {
      const Block block(shape, slot + h * shape.head_stride() + position / kKeyBlock * shape.block_stride());
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        *keys++ = block.key(position % kKeyBlock, d);
        *values++ = block.value(position % kKeyBlock, d);
      }
    }
  }
}

}  // namespace

void copy_slot(const CacheShape& shape, const void* from, void* to, int64_t first, int64_t length) {
  if (first >= length) return;
  const int64_t begin = first / kKeyBlock * shape.block_stride();
  const int64_t whole = length / kKeyBlock * shape.block_stride();
  const auto copy = [&](int64_t offset, int64_t bytes) {
    std::memcpy(static_cast<char*>(to) + offset, static_cast<const char*>(from) + offset,
                static_cast<size_t>(bytes));
  };
  copy(begin, whole - begin);
  // Only the parts of the last block that hold something: reading the others would commit their memory.
  const int64_t part_bytes = kLanes * shape.position_bytes();
  const int64_t skipped = begin == whole ? first % kKeyBlock / kLanes : 0;
  const int64_t parts = (length % kKeyBlock + kLanes - 1) / kLanes - skipped;
  for (int64_t i = 0; parts > 0 && i < 2 * shape.layers * shape.heads; ++i) {
    copy(whole + i * shape.block_bytes() + skipped * part_bytes, parts * part_bytes);
  }
}

void read_slot(const CacheShape& shape, const void* slot, int64_t first, int64_t length, float* keys,
               float* values) {
  const char* bytes = static_cast<const char*>(slot);
  switch (shape.format) {
    case CacheFormat::kFloat32:
      return read_heads<FloatBlock<float>>(shape, bytes, first, length, keys, values);
    case CacheFormat::kFloat16:
      return read_heads<FloatBlock<uint16_t>>(shape, bytes, first, length, keys, values);
    default:
      return read_heads<Int8Block>(shape, bytes, first, length, keys, values);
  }
}

void write_slot(const CacheShape& shape, const float* keys, const float* values, int64_t first,
                int64_t length, void* slot) {
  const AttentionKernel& kernel = kernels().attention[static_cast<size_t>(shape.format)];
  std::vector<char> scratch(static_cast<size_t>(kernel.scratch_bytes(1, shape.padded_head_dim())));
  for (int64_t head = 0; head < shape.heads; ++head) {
    AttentionTile tile;
    tile.rows = length;
    tile.first_position = first;
    tile.head_dim = shape.head_dim;
    tile.padded_head_dim = shape.padded_head_dim();
    tile.new_keys = keys + head * length * shape.head_dim;
    tile.new_values = values + head * length * shape.head_dim;
    tile.qkv_stride = shape.head_dim;
    tile.keys = static_cast<char*>(slot) + head * shape.head_stride();
    tile.block_bytes = shape.block_bytes();
    tile.block_stride = shape.block_stride();
    tile.scratch = scratch.data();
    kernel.append(tile);
  }
}

}  // namespace gpt2fast
