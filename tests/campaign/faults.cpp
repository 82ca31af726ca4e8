// Preloaded before the C library: fails the n-th call of one of its functions, once. Controlled through
// ctypes.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

// The order is that of KINDS in faults.py.
enum Kind : int { kNone, kMalloc, kNew, kRead, kWrite, kMap, kSync, kRename, kTruncate, kOpen };

struct Range {
  std::uintptr_t begin;
  std::uintptr_t end;
};

constexpr int kMaxRanges = 64;
// Smaller allocations never fail: pybind11 ends the process where it has no memory for its own records of
// an object, which are no larger.
constexpr std::size_t kLargestSpared = 32;

std::atomic<int> armed_kind{kNone};
std::atomic<long> calls{0};
long failing_call = 0;
int error_number = 0;
Range ranges[kMaxRanges];
int range_count = 0;

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// Whether the call is made by one of the libraries that are watched.
bool is_watched(const void* caller) {
  const auto address = reinterpret_cast<std::uintptr_t>(caller);
  for (int i = 0; i < range_count; ++i) {
    if (ranges[i].begin <= address && address < ranges[i].end) return true;
  }
  return false;
}

bool fails(Kind kind, const void* caller) {
  if (armed_kind.load(std::memory_order_relaxed) != kind || !is_watched(caller)) return false;
  if (calls.fetch_add(1) + 1 != failing_call) return false;
  errno = error_number;
  return true;
}

void* allocate(std::size_t size, std::size_t alignment) {
  void* memory = nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(size == 0 ? 1 : size);
  return posix_memalign(&memory, alignment, size) == 0 ? memory : nullptr;
}

void* allocate_or_throw(std::size_t size, std::size_t alignment, const void* caller) {
  if (size > kLargestSpared && fails(kNew, caller)) throw std::bad_alloc();
  void* memory = allocate(size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

extern "C" {

// Fail call number `call` (from 1; 0 for none) of a kind, with this errno.
void faults_arm(int kind, long call, int number) {
  failing_call = call;
  error_number = number;
  calls = 0;
  armed_kind = kind;
}

// Stop; returns the number of calls that were made.
long faults_disarm() {
  armed_kind = kNone;
  return calls;
}

// Watch the calls of the code between two addresses.
void faults_watch(std::uintptr_t begin, std::uintptr_t end) {
  if (range_count < kMaxRanges) ranges[range_count++] = {begin, end};
}

// malloc is asked for before dlsym can be used, and by dlsym itself: the C library's own names need neither.
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);

void* malloc(std::size_t size) {
  return fails(kMalloc, __builtin_return_address(0)) ? nullptr : __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) {
  return fails(kMalloc, __builtin_return_address(0)) ? nullptr : __libc_calloc(count, size);
}

void* realloc(void* memory, std::size_t size) {
  return fails(kMalloc, __builtin_return_address(0)) ? nullptr : __libc_realloc(memory, size);
}

#define REPLACED(result, failure, kind, name, parameters, arguments)                \
  result name parameters {                                                          \
    static const auto original = next<result(*) parameters>(#name);                 \
    return fails(kind, __builtin_return_address(0)) ? failure : original arguments; \
  }

REPLACED(ssize_t, -1, kRead, read, (int file, void* data, std::size_t size), (file, data, size))
REPLACED(ssize_t, -1, kRead, pread, (int file, void* data, std::size_t size, off_t at),
         (file, data, size, at))
REPLACED(ssize_t, -1, kRead, pread64, (int file, void* data, std::size_t size, off64_t at),
         (file, data, size, at))
REPLACED(ssize_t, -1, kWrite, write, (int file, const void* data, std::size_t size), (file, data, size))
REPLACED(ssize_t, -1, kWrite, pwrite, (int file, const void* data, std::size_t size, off_t at),
         (file, data, size, at))
REPLACED(ssize_t, -1, kWrite, pwrite64, (int file, const void* data, std::size_t size, off64_t at),
         (file, data, size, at))
REPLACED(void*, MAP_FAILED, kMap, mmap,
         (void* at, std::size_t size, int access, int flags, int file, off_t offset),
         (at, size, access, flags, file, offset))
REPLACED(void*, MAP_FAILED, kMap, mmap64,
         (void* at, std::size_t size, int access, int flags, int file, off64_t offset),
         (at, size, access, flags, file, offset))
REPLACED(int, -1, kSync, fsync, (int file), (file))
REPLACED(int, -1, kSync, fdatasync, (int file), (file))
REPLACED(int, -1, kRename, rename, (const char* from, const char* to), (from, to))
REPLACED(int, -1, kRename, renameat, (int from_folder, const char* from, int to_folder, const char* to),
         (from_folder, from, to_folder, to))
REPLACED(int, -1, kTruncate, ftruncate, (int file, off_t size), (file, size))
REPLACED(int, -1, kTruncate, ftruncate64, (int file, off64_t size), (file, size))

#define REPLACED_OPEN(name)                                                              \
  int name(const char* path, int flags, ...) {                                           \
    static const auto original = next<int (*)(const char*, int, ...)>(#name);            \
    va_list more;                                                                        \
    va_start(more, flags);                                                               \
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                                        \
    return fails(kOpen, __builtin_return_address(0)) ? -1 : original(path, flags, mode); \
  }

REPLACED_OPEN(open)
REPLACED_OPEN(open64)

}  // extern "C"

void* operator new(std::size_t size) { return allocate_or_throw(size, 0, __builtin_return_address(0)); }
void* operator new[](std::size_t size) { return allocate_or_throw(size, 0, __builtin_return_address(0)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment), __builtin_return_address(0));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment), __builtin_return_address(0));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return fails(kNew, __builtin_return_address(0)) ? nullptr : allocate(size, 0);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return fails(kNew, __builtin_return_address(0)) ? nullptr : allocate(size, 0);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
