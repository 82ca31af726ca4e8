// Lets a test refuse memory to its own thread. For the one source file of a test program.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace gpt2fast::testing {

// How many allocations of this thread are granted before one is refused; -1: all are.
inline thread_local int64_t granted_allocations = -1;

}  // namespace gpt2fast::testing

__attribute__((noinline)) void* operator new(size_t size) {
  int64_t& granted = gpt2fast::testing::granted_allocations;
  const bool refused = granted >= 0 && granted-- == 0;
  void* const memory = refused ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }
