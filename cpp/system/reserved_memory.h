// Zero-filled memory that costs nothing until it is touched.
#pragma once

#include <cstddef>

namespace gpt2fast {

enum class PageSize {
  kUsual,
  kLarge,  // 2 MB, where the system has and allows them
};

// Owns a page-aligned range of address space. The first write to a page commits it, so a buffer can be as
// large as the largest step or the fullest cache and cost only what is used. (On Windows, all of it counts
// against the system's limit of committed memory.)
class ReservedMemory {
 public:
  ReservedMemory() = default;
  // Throws std::bad_alloc.
  explicit ReservedMemory(size_t bytes, PageSize pages = PageSize::kUsual);
  ~ReservedMemory();
  ReservedMemory(ReservedMemory&& other) noexcept;
  ReservedMemory& operator=(ReservedMemory&& other) noexcept;
  ReservedMemory(const ReservedMemory&) = delete;
  ReservedMemory& operator=(const ReservedMemory&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  // Gives the whole pages inside [offset, offset + bytes) back to the system. They read as zeros afterwards,
  // but on Windows, where they may also hold what they held.
  void discard(size_t offset, size_t bytes) noexcept;

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace gpt2fast
