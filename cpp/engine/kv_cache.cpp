// The keys and values of all sequences.
#include "engine/kv_cache.h"

#include <algorithm>
#include <vector>

namespace gpt2fast {

namespace {

// If a block of a sequence fills a good part of a large page, the cache uses large pages: decoding many texts
// mostly reads their keys and values, which takes a third longer from small pages.
constexpr int64_t kLargePagesBlockBytes = int64_t{1} << 20;

PageSize page_size(const CacheShape& shape) {
  return shape.block_stride() >= kLargePagesBlockBytes ? PageSize::kLarge : PageSize::kUsual;
}

}  // namespace

KvCache::KvCache(const CacheShape& shape, int64_t slots)
    : shape_(shape),
      slots_(slots),
      memory_(static_cast<size_t>(shape.slot_bytes() * slots), page_size(shape)) {}

int64_t KvCache::bytes_per_position() const { return 2 * layers() * shape_.heads * shape_.position_bytes(); }

char* KvCache::slot_data(int64_t slot, int64_t layer) const {
  return memory_.as<char>() + slot * shape_.slot_bytes() + layer * shape_.layer_stride();
}

void KvCache::copy(int64_t from_slot, int64_t to_slot, int64_t first, int64_t length) {
  copy_slot(shape_, slot_data(from_slot), slot_data(to_slot), first, length);
}

void KvCache::read(int64_t layer, int64_t slot, int64_t first, int64_t length, float* keys,
                   float* values) const {
  read_slot(shape_, slot_data(slot, layer), first, length, keys, values);
}

void KvCache::write(int64_t layer, int64_t slot, int64_t first, int64_t length, const float* keys,
                    const float* values) {
  write_slot(shape_, keys, values, first, length, slot_data(slot, layer));
}

void KvCache::restore(int64_t layer, int64_t slot, int64_t length, int64_t stored, const float* keys,
                      const float* values) {
  // If only a part is taken, the heads are not adjacent, so they are copied together first.
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
  memory_.discard(static_cast<size_t>(slot) * bytes, bytes);
}

}  // namespace gpt2fast
