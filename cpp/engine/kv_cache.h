// The keys and values of all sequences: one slot per sequence, written in place by the steps.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "system/reserved_memory.h"

namespace gpt2fast {

class KvCache {
 public:
  KvCache(const CacheShape& shape, int64_t slots);

  const CacheShape& shape() const { return shape_; }
  int64_t layers() const { return shape_.layers; }
  int64_t slots() const { return slots_; }
  int64_t bytes_per_slot() const { return shape_.slot_bytes(); }
  int64_t bytes_per_position() const;

  void* data() const { return memory_.data(); }  // see CacheShape::dimensions()

  // Copies a slot's positions [first, length) to another slot, which agrees with it on those before.
  void copy(int64_t from_slot, int64_t to_slot, int64_t first, int64_t length);
  // Read and write one layer's keys and values as plain float32, [heads, length, head_dim] each.
  void read(int64_t layer, int64_t slot, int64_t first, int64_t length, float* keys, float* values) const;
  void write(int64_t layer, int64_t slot, int64_t first, int64_t length, const float* keys,
             const float* values);
  // Writes the first `length` positions of keys and values that are [heads, stored, head_dim] each.
  void restore(int64_t layer, int64_t slot, int64_t length, int64_t stored, const float* keys,
               const float* values);
  // Gives a slot's memory back to the system.
  void discard(int64_t slot) noexcept;

 private:
  char* slot_data(int64_t slot, int64_t layer = 0) const;

  CacheShape shape_;
  int64_t slots_;
  ReservedMemory memory_;
};

}  // namespace gpt2fast
