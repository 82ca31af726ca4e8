// Counts the allocations of the test program that includes it, in its one source file: those that its own
// code asks for, the static library included, but not those of shared libraries that it calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace gpt2fast::testing {

inline std::atomic<int64_t> allocation_count{0};

}  // namespace gpt2fast::testing

inline int64_t allocations() { return gpt2fast::testing::allocation_count.load(); }

#ifdef __linux__
// Set by the linker: the bounds of the program's own code.
extern "C" const char __executable_start;
extern "C" const char etext;
#endif

__attribute__((noinline)) void* operator new(size_t size) {
#ifdef __linux__
  const auto* caller = static_cast<const char*>(__builtin_return_address(0));
  if (caller >= &__executable_start && caller < &etext) ++gpt2fast::testing::allocation_count;
#else
  ++gpt2fast::testing::allocation_count;
#endif
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }
