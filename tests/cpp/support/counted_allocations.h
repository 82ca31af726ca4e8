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

namespace gpt2fast::testing {

inline void count_allocation([[maybe_unused]] const void* caller) {
#ifdef __linux__
  const auto* address = static_cast<const char*>(caller);
  if (address < &__executable_start || address >= &etext) return;
#endif
  ++allocation_count;
}

inline void* aligned_allocation(size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<size_t>(alignment);
#ifdef _WIN32
  return _aligned_malloc(size, unit);
#else
  return size > SIZE_MAX - unit ? nullptr : std::aligned_alloc(unit, (size + unit) / unit * unit);
#endif
}

inline void aligned_free(void* memory) {
#ifdef _WIN32
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

}  // namespace gpt2fast::testing

__attribute__((noinline)) void* operator new(size_t size) {
  gpt2fast::testing::count_allocation(__builtin_return_address(0));
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void* operator new(size_t size, std::align_val_t alignment) {
  gpt2fast::testing::count_allocation(__builtin_return_address(0));
  if (void* memory = gpt2fast::testing::aligned_allocation(size, alignment)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void* operator new(size_t size, std::align_val_t alignment,
                                             const std::nothrow_t&) noexcept {
  gpt2fast::testing::count_allocation(__builtin_return_address(0));
  return gpt2fast::testing::aligned_allocation(size, alignment);
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::align_val_t) noexcept {
  gpt2fast::testing::aligned_free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  gpt2fast::testing::aligned_free(memory);
}
