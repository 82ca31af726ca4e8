// Moving keys and values between slots, and between a slot and plain arrays.
#include <cstring>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_tile.h"

namespace gpt2fast {
namespace {

// The elements of one head's keys and values, by position and dimension.
template <typename Element>
class FloatHead {
 public:
  FloatHead(const CacheShape& shape, const char* keys, const char* values)
      : width_(shape.padded_head_dim()),
        keys_(reinterpret_cast<const Element*>(keys)),
        values_(reinterpret_cast<const Element*>(values)) {}

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

class Int8Head {
 public:
  Int8Head(const CacheShape& shape, const char* keys, const char* values)
      : width_(shape.padded_head_dim()), keys_(keys), values_(values) {}

  float key(int64_t position, int64_t d) const {
    const char* block = block_of(keys_, position);
    const int64_t index = d / 4 * 4 * kLanes + position % kLanes * 4 + d % 4;
    return scale(block, position) *
           static_cast<float>(static_cast<uint8_t>(block[kBlockScaleBytes + index]) - 128);
  }
  float value(int64_t position, int64_t d) const {
    const char* block = block_of(values_, position);
    const int64_t index = position % kLanes / 2 * 2 * width_ + d * 2 + position % 2;
    return scale(block, position) * static_cast<float>(static_cast<int8_t>(block[kBlockScaleBytes + index]));
  }

 private:
  const char* block_of(const char* head, int64_t position) const {
    return head + position / kLanes * int8_block_bytes(width_);
  }
  static float scale(const char* block, int64_t position) {
    return reinterpret_cast<const float*>(block)[position % kLanes];
  }

  int64_t width_;
  const char* keys_;
  const char* values_;
};

template <typename Head>
void read_heads(const CacheShape& shape, const char* slot, int64_t first, int64_t length, float* keys,
                float* values) {
  for (int64_t h = 0; h < shape.heads; ++h) {
    const Head head(shape, slot + h * shape.head_bytes(), slot + (shape.heads + h) * shape.head_bytes());
    for (int64_t position = first; position < first + length; ++position) {
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        *keys++ = head.key(position, d);
        *values++ = head.value(position, d);
      }
    }
  }
}

}  // namespace

void copy_slot(const CacheShape& shape, const void* from, void* to, int64_t length) {
  const int64_t bytes = (length + kLanes - 1) / kLanes * kLanes * shape.position_bytes();  // whole blocks
  for (int64_t part = 0; part < 2 * shape.heads; ++part) {
    const int64_t offset = part * shape.head_bytes();
    std::memcpy(static_cast<char*>(to) + offset, static_cast<const char*>(from) + offset,
                static_cast<size_t>(bytes));
  }
}

void read_slot(const CacheShape& shape, const void* slot, int64_t first, int64_t length, float* keys,
               float* values) {
  const char* bytes = static_cast<const char*>(slot);
  switch (shape.format) {
    case CacheFormat::kFloat32:
      return read_heads<FloatHead<float>>(shape, bytes, first, length, keys, values);
    case CacheFormat::kFloat16:
      return read_heads<FloatHead<uint16_t>>(shape, bytes, first, length, keys, values);
    default:
      return read_heads<Int8Head>(shape, bytes, first, length, keys, values);
  }
}

void write_slot(const CacheShape& shape, const float* keys, const float* values, int64_t first,
                int64_t length, void* slot) {
  const AttentionKernel kernel = attention_kernel(active_isa(), shape.format);
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
    tile.keys = static_cast<char*>(slot) + head * shape.head_bytes();
    tile.values = static_cast<char*>(slot) + (shape.heads + head) * shape.head_bytes();
    tile.head_bytes = shape.head_bytes();
    tile.scratch = scratch.data();
    kernel.append(tile);
  }
}

}  // namespace gpt2fast
