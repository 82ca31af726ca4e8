// Moving keys and values between slots, and between a slot and plain arrays.
#include <cstring>

#include "kernels/attention.h"
#include "kernels/simd_portable.h"

namespace gpt2fast {
namespace {

// Where the elements of one head lie in a slot.
struct HeadOffsets {
  int64_t keys;
  int64_t values;

  HeadOffsets(const CacheShape& shape, int64_t head) {
    const int64_t head_elements = shape.padded_positions() * shape.padded_head_dim();
    keys = head * head_elements;
    values = (shape.heads + head) * head_elements;
  }
};

// Calls visit(plain index in [heads, length, head_dim], element of the key, element of the value) for all.
template <typename Visit>
void for_each_element(const CacheShape& shape, int64_t first, int64_t length, const Visit& visit) {
  const int64_t width = shape.padded_head_dim();
  int64_t plain = 0;
  for (int64_t head = 0; head < shape.heads; ++head) {
    const HeadOffsets offsets(shape, head);
    for (int64_t position = first; position < first + length; ++position) {
      const int64_t key = offsets.keys + position / kLanes * kLanes * width + position % kLanes;
      const int64_t value = offsets.values + position * width;
      for (int64_t d = 0; d < shape.head_dim; ++d) visit(plain++, key + d * kLanes, value + d);
    }
  }
}

}  // namespace

void copy_slot(const CacheShape& shape, const void* from, void* to, int64_t length) {
  const int64_t row_bytes = shape.padded_head_dim() * shape.element_bytes();
  const int64_t key_positions = (length + kLanes - 1) / kLanes * kLanes;  // whole blocks
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  for (int64_t head = 0; head < shape.heads; ++head) {
    const HeadOffsets offsets(shape, head);
    const int64_t keys = offsets.keys * shape.element_bytes();
    const int64_t values = offsets.values * shape.element_bytes();
    std::memcpy(target + keys, source + keys, static_cast<size_t>(key_positions * row_bytes));
    std::memcpy(target + values, source + values, static_cast<size_t>(length * row_bytes));
  }
}

void read_slot(const CacheShape& shape, const void* slot, int64_t first, int64_t length, float* keys,
               float* values) {
  if (shape.half) {
    const uint16_t* elements = static_cast<const uint16_t*>(slot);
    for_each_element(shape, first, length, [&](int64_t plain, int64_t key, int64_t value) {
      keys[plain] = portable::half_to_float(elements[key]);
      values[plain] = portable::half_to_float(elements[value]);
    });
  } else {
    const float* elements = static_cast<const float*>(slot);
    for_each_element(shape, first, length, [&](int64_t plain, int64_t key, int64_t value) {
      keys[plain] = elements[key];
      values[plain] = elements[value];
    });
  }
}

void write_slot(const CacheShape& shape, const float* keys, const float* values, int64_t first,
                int64_t length, void* slot) {
  if (shape.half) {
    uint16_t* elements = static_cast<uint16_t*>(slot);
    for_each_element(shape, first, length, [&](int64_t plain, int64_t key, int64_t value) {
      elements[key] = portable::float_to_half(keys[plain]);
      elements[value] = portable::float_to_half(values[plain]);
    });
  } else {
    float* elements = static_cast<float*>(slot);
    for_each_element(shape, first, length, [&](int64_t plain, int64_t key, int64_t value) {
      elements[key] = keys[plain];
      elements[value] = values[plain];
    });
  }
}

}  // namespace gpt2fast
