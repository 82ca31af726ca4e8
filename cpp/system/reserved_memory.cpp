// Zero-filled memory that costs nothing until it is touched.
#include "system/reserved_memory.h"

#include <cstdint>
#include <new>
#include <utility>

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gpt2fast {

#ifdef _WIN32

namespace {

size_t page_bytes() {
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwPageSize;
}

}  // namespace

// Pages come when they are touched, but count against the system's limit from the beginning.
ReservedMemory::ReservedMemory(size_t bytes, PageSize) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (data_ == nullptr) throw std::bad_alloc();
}

ReservedMemory::~ReservedMemory() {
  if (data_ != nullptr) VirtualFree(data_, 0, MEM_RELEASE);
}

#else

namespace {

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

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

#endif

void ReservedMemory::discard(size_t offset, size_t bytes) noexcept {
  const size_t page = page_bytes();  // data_ begins with one
  const size_t first = (offset + page - 1) / page * page;
  const size_t last = (offset + bytes) / page * page;
  if (first >= last) return;
#ifdef _WIN32
  // Decommitted pages might not be to be had again. To unlock what is not locked takes it out of the working
  // set.
  VirtualAlloc(as<char>() + first, last - first, MEM_RESET, PAGE_READWRITE);
  VirtualUnlock(as<char>() + first, last - first);
#else
  madvise(as<char>() + first, last - first, MADV_DONTNEED);
#endif
}

ReservedMemory::ReservedMemory(ReservedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

ReservedMemory& ReservedMemory::operator=(ReservedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace gpt2fast
