// The memory of the tensors that a session's operators pass on.
//
// The library would put a tensor wherever an earlier one left room, say a step's [tokens, 2304] where
// [tokens, 768] was. Threads that each take some rows would then write to lines that another core wrote last,
// and wait for them to arrive. Here tensors of one width take turns in memory of their own, so a row stays
// with its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "ort/abi.h"

namespace gpt2fast {

class ActivationMemory {
 public:
  ActivationMemory() = default;
  ActivationMemory(const ActivationMemory&) = delete;
  ActivationMemory& operator=(const ActivationMemory&) = delete;
  // Every block must have been freed.
  ~ActivationMemory();

  // The result is 64-byte aligned, or null when there is no memory. Blocks of one width grow to the largest
  // size requested and are kept.
  void* allocate(int64_t width, size_t bytes) noexcept;
  // Frees a block of any ActivationMemory; null is allowed.
  static void free(void* data) noexcept;

 private:
  struct Block;
  static Block* create(size_t bytes, size_t offset) noexcept;
  static void destroy(Block* block) noexcept;
  Block* take(int64_t width, size_t bytes) noexcept;

  std::mutex mutex_;
  Block* unused_ = nullptr;  // the head of a list
  size_t created_ = 0;

  friend class ActivationScope;
  friend struct ActivationAllocator;
};

// While an object lives, the library's allocations on this thread come from `memory`.
class ActivationScope {
 public:
  explicit ActivationScope(ActivationMemory& memory) noexcept;
  ActivationScope(const ActivationScope&) = delete;
  ActivationScope& operator=(const ActivationScope&) = delete;
  ~ActivationScope();

  // Sets the width of the tensors that the library allocates next on this thread; 0 stands for any.
  static void set_width(int64_t width) noexcept;

 private:
  ActivationMemory* outer_;
};

// Makes sessions that request the environment's allocators allocate from ActivationMemory inside an
// ActivationScope, and from the heap elsewhere. Returns false when the environment has another allocator
// already.
bool register_activation_allocator(const abi::Api& api, abi::Env* env);

}  // namespace gpt2fast
