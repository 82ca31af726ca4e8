// Counts the allocations of the test program that includes it, in its one source file.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace gpt2fast::testing {

inline std::atomic<int64_t> allocation_count{0};

}  // namespace gpt2fast::testing

inline int64_t allocations() { return gpt2fast::testing::allocation_count.load(); }

void* operator new(size_t size) {
  ++gpt2fast::testing::allocation_count;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
