// The keys and values of all sequences.
#include "engine/kv_cache.h"

#include <algorithm>

namespace gpt2fast {

KvCache::KvCache(const CacheShape& shape, int64_t layers, int64_t slots) : shape_(shape), slots_(slots) {
  layers_.reserve(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) layers_.emplace_back(static_cast<size_t>(shape.slot_bytes() * slots));
}

int64_t KvCache::bytes_per_position() const { return 2 * shape_.heads * shape_.position_bytes() * layers(); }

void* KvCache::slot_data(int64_t layer, int64_t slot) const {
  return static_cast<char*>(this->layer(layer)) + slot * shape_.slot_bytes();
}

void KvCache::copy(int64_t from_slot, int64_t to_slot, int64_t length) {
  for (int64_t i = 0; i < layers(); ++i) {
    copy_slot(shape_, slot_data(i, from_slot), slot_data(i, to_slot), length);
  }
}

void KvCache::read(int64_t layer, int64_t slot, int64_t first, int64_t length, float* keys,
                   float* values) const {
  read_slot(shape_, slot_data(layer, slot), first, length, keys, values);
}

void KvCache::write(int64_t layer, int64_t slot, int64_t first, int64_t length, const float* keys,
                    const float* values) {
  write_slot(shape_, keys, values, first, length, slot_data(layer, slot));
}

void KvCache::restore(int64_t layer, int64_t slot, int64_t length, int64_t stored, const float* keys,
                      const float* values) {
  // Where only a part is taken, the heads are not adjacent: bring them together first.
  std::vector<float> taken(static_cast<size_t>(2 * shape_.heads * length * shape_.head_dim));
  float* out = taken.data();
  for (const float* half : {keys, values}) {
    for (int64_t head = 0; head < shape_.heads; ++head) {
      out = std::copy_n(half + head * stored * shape_.head_dim, length * shape_.head_dim, out);
    }
  }
  write(layer, slot, 0, length, taken.data(), taken.data() + shape_.heads * length * shape_.head_dim);
}

void KvCache::discard(int64_t slot) noexcept {
  const auto bytes = static_cast<size_t>(shape_.slot_bytes());
  for (ReservedMemory& memory : layers_) memory.discard(static_cast<size_t>(slot) * bytes, bytes);
}

}  // namespace gpt2fast
