// Zero-filled memory that costs nothing until it is touched.
#include "system/reserved_memory.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#ifdef _WIN32
#include <cstdlib>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gpt2fast {

#ifdef _WIN32

ReservedMemory::ReservedMemory(size_t bytes, PageSize) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = _aligned_malloc(bytes, 4096);
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_, 0, bytes);
}

ReservedMemory::~ReservedMemory() { _aligned_free(data_); }

void ReservedMemory::discard(size_t offset, size_t bytes) noexcept {
  std::memset(static_cast<char*>(data_) + offset, 0, bytes);
}

#else

ReservedMemory::ReservedMemory(size_t bytes, [[maybe_unused]] PageSize pages) : bytes_(bytes) {
  if (bytes == 0) return;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = data;
#ifdef MADV_HUGEPAGE
  if (pages == PageSize::kLarge) madvise(data, bytes, MADV_HUGEPAGE);  // if it is refused, pages stay small
#endif
}

ReservedMemory::~ReservedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void ReservedMemory::discard(size_t offset, size_t bytes) noexcept {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));  // data_ begins with one
  const size_t first = (offset + page - 1) / page * page;
  const size_t last = (offset + bytes) / page * page;
  if (first < last) madvise(static_cast<char*>(data_) + first, last - first, MADV_DONTNEED);
}

#endif

ReservedMemory::ReservedMemory(ReservedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

ReservedMemory& ReservedMemory::operator=(ReservedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace gpt2fast
