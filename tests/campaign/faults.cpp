// Preloaded before the C library: fails the n-th call of some of its functions, once or from then on.
// Controlled through ctypes.

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

// What a call does; the order is that of Calls in fault_worker.py.
enum Calls : unsigned {
  kMalloc = 1 << 0,
  kNew = 1 << 1,
  kRead = 1 << 2,
  kWrite = 1 << 3,
  kMap = 1 << 4,
  kSync = 1 << 5,
  kRename = 1 << 6,
  kTruncate = 1 << 7,
  kOpen = 1 << 8,
  kOpenToWrite = 1 << 9,  // an open that may change a file
  kCreate = 1 << 10,      // an open, mkdir or the like that makes a new name
  kRemove = 1 << 11,
};

struct Range {
  std::uintptr_t begin;
  std::uintptr_t end;
};

constexpr int kMaxRanges = 64;
// Smaller allocations never fail: pybind11 ends the process where it has no memory for its own records of
// an object, which are no larger.
constexpr std::size_t kLargestSpared = 32;

std::atomic<unsigned> armed{0};
std::atomic<long> calls{0};
long failing_call = 0;
int error_number = 0;
bool is_lasting = false;
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

bool fails(unsigned kinds, const void* caller) {
  if ((armed.load(std::memory_order_relaxed) & kinds) == 0 || !is_watched(caller)) return false;
  const long call = calls.fetch_add(1) + 1;
  if (failing_call == 0 || (is_lasting ? call < failing_call : call != failing_call)) return false;
  errno = error_number;
  return true;
}

// Of `size` bytes to write, how many there is room for: a disk that fills up takes some before it refuses.
std::size_t room(std::size_t size, const void* caller) {
  const bool fills = is_lasting && (error_number == ENOSPC || error_number == EDQUOT);
  const bool is_last = fills && calls + 1 == failing_call && (armed & kWrite) != 0 && is_watched(caller);
  return is_last ? (size + 1) / 2 : size;
}

// What opening `path` with these flags does.
unsigned opening(const char* path, int flags) {
  const bool creates = (flags & O_CREAT) != 0 && access(path, F_OK) != 0;
  const bool writes = (flags & (O_ACCMODE | O_CREAT | O_TRUNC)) != 0;
  return kOpen | (writes ? kOpenToWrite : 0U) | (creates ? kCreate : 0U);
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

// Of the calls of these kinds, fail number `call` (from 1; 0 for none), or all from it on, with this errno.
void faults_arm(unsigned kinds, long call, int number, bool lasting) {
  failing_call = call;
  error_number = number;
  is_lasting = lasting;
  calls = 0;
  armed = kinds;
}

// Stop; returns the number of calls that were made.
long faults_disarm() {
  armed = 0;
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
#define REPLACED_WRITE(name, parameters, arguments)                                  \
  ssize_t name parameters {                                                          \
    static const auto original = next<ssize_t(*) parameters>(#name);                 \
    const std::size_t fitting = room(size, __builtin_return_address(0));             \
    const bool fits = fitting == size;                                               \
    if (fails(kWrite, __builtin_return_address(0)) && (fits || size < 2)) return -1; \
    size = fitting;                                                                  \
    return original arguments;                                                       \
  }

REPLACED_WRITE(write, (int file, const void* data, std::size_t size), (file, data, size))
REPLACED_WRITE(pwrite, (int file, const void* data, std::size_t size, off_t at), (file, data, size, at))
REPLACED_WRITE(pwrite64, (int file, const void* data, std::size_t size, off64_t at), (file, data, size, at))
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
REPLACED(int, -1, kCreate, mkdir, (const char* path, mode_t mode), (path, mode))
REPLACED(int, -1, kCreate, symlink, (const char* target, const char* path), (target, path))
REPLACED(int, -1, kCreate, link, (const char* from, const char* to), (from, to))
REPLACED(int, -1, kRemove, unlink, (const char* path), (path))
REPLACED(int, -1, kRemove, unlinkat, (int folder, const char* path, int flags), (folder, path, flags))
REPLACED(int, -1, kRemove, rmdir, (const char* path), (path))

#define REPLACED_OPEN(name)                                                              \
  int name(const char* path, int flags, ...) {                                           \
    static const auto original = next<int (*)(const char*, int, ...)>(#name);            \
    va_list more;                                                                        \
    va_start(more, flags);                                                               \
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                                        \
    const bool refused = fails(opening(path, flags), __builtin_return_address(0));       \
    return refused ? -1 : original(path, flags, mode);                                   \
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
