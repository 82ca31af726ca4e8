#include "ort/activation_memory.h"

#include <cstdint>
#include <new>

namespace gpt2fast {

// A header in front of the bytes that it describes.
struct alignas(64) ActivationMemory::Block {
  ActivationMemory* owner;  // null if there is none
  Block* next;              // in the owner's list
  int64_t width;
  size_t capacity;
  size_t offset;  // from the start of the allocation to the block

  void* data() { return this + 1; }
};

namespace {

struct Current {
  ActivationMemory* memory = nullptr;
  int64_t width = 0;
};
thread_local Current current;

}  // namespace

ActivationMemory::~ActivationMemory() {
  while (unused_ != nullptr) {
    Block* next = unused_->next;
    destroy(unused_);
    unused_ = next;
  }
}

ActivationMemory::Block* ActivationMemory::create(size_t bytes, size_t offset) noexcept {
  constexpr size_t kLargest = SIZE_MAX / 2;
  if (bytes > kLargest) return nullptr;
  void* memory =
      ::operator new(offset + sizeof(Block) + bytes, std::align_val_t{alignof(Block)}, std::nothrow);
  if (memory == nullptr) return nullptr;
  return new (static_cast<char*>(memory) + offset) Block{nullptr, nullptr, 0, bytes, offset};
}

void ActivationMemory::destroy(Block* block) noexcept {
  ::operator delete(reinterpret_cast<char*>(block) - block->offset, std::align_val_t{alignof(Block)});
}

ActivationMemory::Block* ActivationMemory::take(int64_t width, size_t bytes) noexcept {
  Block** small = nullptr;
  for (Block** link = &unused_; *link != nullptr; link = &(*link)->next) {
    if ((*link)->width != width) continue;
    small = link;
    if ((*link)->capacity >= bytes) break;
  }
  if (small == nullptr) return nullptr;
  Block* block = *small;
  *small = block->next;
  if (block->capacity >= bytes) return block;
  destroy(block);
  return nullptr;
}

void* ActivationMemory::allocate(int64_t width, size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  Block* block = take(width, bytes);
  if (block == nullptr) {
    // Large allocations all start at the same place in a page. The tensors of steps of one token, which use
    // no more than that, would evict each other from the first-level cache.
    constexpr size_t kLine = 64, kPage = 4096;
    block = create(bytes, created_++ * 13 * kLine % kPage);
  }
  if (block == nullptr) return nullptr;
  block->owner = this;
  block->width = width;
  return block->data();
}

void ActivationMemory::free(void* data) noexcept {
  if (data == nullptr) return;
  Block* block = static_cast<Block*>(data) - 1;
  ActivationMemory* owner = block->owner;
  if (owner == nullptr) return destroy(block);
  const std::lock_guard lock(owner->mutex_);
  block->next = owner->unused_;
  owner->unused_ = block;
}

ActivationScope::ActivationScope(ActivationMemory& memory) noexcept : outer_(current.memory) {
  current = {&memory, 0};
}

ActivationScope::~ActivationScope() { current = {outer_, 0}; }

void ActivationScope::set_width(int64_t width) noexcept { current.width = width; }

struct ActivationAllocator : abi::Allocator {
  explicit ActivationAllocator(const abi::MemoryInfo* memory) : info(memory) {
    Alloc = [](abi::Allocator*, size_t bytes) -> void* {
      if (bytes == 0) return nullptr;
      void* data = nullptr;
      if (current.memory != nullptr) {
        data = current.memory->allocate(current.width, bytes);
      } else if (ActivationMemory::Block* block = ActivationMemory::create(bytes, 0); block != nullptr) {
        data = block->data();
      }
      // The library takes null for memory. It expects this from its own allocators and turns it into a
      // status.
      if (data == nullptr) throw std::bad_alloc();
      return data;
    };
    Free = [](abi::Allocator*, void* data) { ActivationMemory::free(data); };
    Info = [](const abi::Allocator* allocator) {
      return static_cast<const ActivationAllocator*>(allocator)->info;
    };
  }

  const abi::MemoryInfo* info;
};

bool register_activation_allocator(const abi::Api& api, abi::Env* env) {
  abi::MemoryInfo* info = nullptr;
  abi::Status* status = api.CreateCpuMemoryInfo(abi::kDeviceAllocator, abi::kDefaultMemory, &info);
  if (status == nullptr) {
    // Never destroyed, like the library itself.
    static ActivationAllocator& allocator = *new ActivationAllocator(info);
    status = api.RegisterAllocator(env, &allocator);
  }
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

}  // namespace gpt2fast
