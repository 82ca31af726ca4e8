// Zero-filled memory that costs nothing until it is touched.
#pragma once

#include <cstddef>

namespace gpt2fast {

enum class PageSize {
  kUsual,
  kLarge,  // where the system has them and so allows; 2 MB for the first byte that is touched in as many
};

// Owns a page-aligned range of address space. Pages are committed by the first write, so a buffer can be as
// large as the largest step or the fullest cache and still cost only what is used.
class ReservedMemory {
 public:
  ReservedMemory() = default;
  explicit ReservedMemory(size_t bytes, PageSize pages = PageSize::kUsual);  // throws std::bad_alloc
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

  // Gives the whole pages inside [offset, offset + bytes) back to the system; they read as zeros afterwards.
  void discard(size_t offset, size_t bytes) noexcept;

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace gpt2fast
