// Where the tensors between a session's operators lie.
//
// The library would put a tensor wherever one before has left room, say a step's [tokens, 2304] where
// [tokens, 768] was. Threads that each take some rows then write to lines that another core wrote last, and
// wait for them to arrive. Here tensors of one width take turns in memory of their own, so that a row stays
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
  // All blocks have been given back.
  ~ActivationMemory();

  // 64-byte aligned; null when there is no memory. Blocks of one width grow to the largest that was asked for
  // and are kept.
  void* allocate(int64_t width, size_t bytes) noexcept;
  // Of any memory, or of none.
  static void free(void* data) noexcept;

 private:
  struct Block;
  static Block* create(size_t bytes, size_t offset) noexcept;
  static void destroy(Block* block) noexcept;
  Block* take(int64_t width, size_t bytes) noexcept;

  std::mutex mutex_;
  Block* unused_ = nullptr;  // a list
  size_t created_ = 0;

  friend class ActivationScope;
  friend struct ActivationAllocator;
};

// While it lives, what the library allocates on this thread lies in `memory`.
class ActivationScope {
 public:
  explicit ActivationScope(ActivationMemory& memory) noexcept;
  ActivationScope(const ActivationScope&) = delete;
  ActivationScope& operator=(const ActivationScope&) = delete;
  ~ActivationScope();

  // The width of the tensors that the library allocates next on this thread; 0: any.
  static void set_width(int64_t width) noexcept;

 private:
  ActivationMemory* outer_;
};

// Makes the library allocate as above, in sessions that ask for the environment's allocators; elsewhere its
// memory comes from the heap. False when the environment has another allocator already.
bool register_activation_allocator(const abi::Api& api, abi::Env* env);

}  // namespace gpt2fast
