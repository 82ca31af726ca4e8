// A file in memory, and the signal that reading it may raise.
#include "system/mapped_file.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>

#include "gpt2fast/errors.h"
#include "system/native_path.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#endif

namespace gpt2fast {

#ifdef _WIN32

// Windows lets nobody shorten a file that is mapped, and this one is shared for reading only.
struct MappedFile::State {
  void* data = nullptr;
  size_t bytes = 0;

  ~State() {
    if (data != nullptr) UnmapViewOfFile(data);
  }
};

MappedFile::MappedFile(const std::string& path) : state_(std::make_unique<State>()) {
  const HANDLE file =
      CreateFileW(native_path(path).c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                  OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  LARGE_INTEGER size{};
  HANDLE mapping = nullptr;
  if (file != INVALID_HANDLE_VALUE && GetFileSizeEx(file, &size) != 0 && size.QuadPart > 0) {
    mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
  }
  if (mapping != nullptr) state_->data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
  const DWORD error = GetLastError();
  if (mapping != nullptr) CloseHandle(mapping);
  if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
  if (state_->data == nullptr) {
    throw ModelError("'" + path + "' cannot be mapped: Windows error " + std::to_string(error));
  }
  state_->bytes = static_cast<size_t>(size.QuadPart);
}

bool MappedFile::changed() const noexcept { return false; }

FileVersion MappedFile::version() const { return {}; }

#else

namespace {

// A range that the handler watches. Entries are reused and never freed, since the handler may be reading one.
struct WatchedRange {
  std::atomic<uintptr_t> begin = 0;  // 0: free
  std::atomic<uintptr_t> end = 0;
  std::atomic<bool> is_damaged = false;
  WatchedRange* next = nullptr;
};
std::atomic<WatchedRange*> watched_ranges{nullptr};
std::mutex watch_mutex;
struct sigaction previous_action;
uintptr_t page_bytes;

// Uses only what is allowed in a signal handler: atomics and system calls.
void handle_bus_error(int number, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const bool by_reading = info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR;
  WatchedRange* range = by_reading ? watched_ranges.load() : nullptr;
  for (; range != nullptr; range = range->next) {
    const uintptr_t begin = range->begin, end = range->end;
    if (begin == 0 || address < begin || address >= end) continue;  // its end is set before its beginning
    const int error = errno;
    const uintptr_t page = address / page_bytes * page_bytes;
    void* lost = reinterpret_cast<void*>(page);  // NOLINT(performance-no-int-to-ptr)
    void* zeros =
        mmap(lost, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    errno = error;
    if (zeros == MAP_FAILED) break;
    range->is_damaged = true;
    return;
  }
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(number, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(number);
  } else {
    signal(number, SIG_DFL);  // the instruction is repeated, and the process ends as it would without us
  }
}

void install_handler() {
  page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action{};
  action.sa_sigaction = handle_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &previous_action);
}

WatchedRange* watch(const void* data, size_t bytes) {
  const std::lock_guard lock(watch_mutex);
  static const bool installed = (install_handler(), true);
  static_cast<void>(installed);
  WatchedRange* range = watched_ranges;
  while (range != nullptr && range->begin != 0) range = range->next;
  const bool fresh = range == nullptr;
  if (fresh) range = new WatchedRange;
  range->is_damaged = false;
  range->end = reinterpret_cast<uintptr_t>(data) + bytes;
  range->begin = reinterpret_cast<uintptr_t>(data);
  if (fresh) {
    range->next = watched_ranges;
    watched_ranges = range;
  }
  return range;
}

FileVersion version_of(const struct stat& file) {
#ifdef __APPLE__
  const timespec& time = file.st_mtimespec;
#else
  const timespec& time = file.st_mtim;
#endif
  return {static_cast<int64_t>(file.st_dev), static_cast<int64_t>(file.st_ino),
          static_cast<int64_t>(file.st_size), static_cast<int64_t>(time.tv_sec),
          static_cast<int64_t>(time.tv_nsec)};
}

}  // namespace

struct MappedFile::State {
  int descriptor = -1;  // stays open: this file is watched, not what the path leads to later
  struct stat at_first{};
  void* data = nullptr;
  size_t bytes = 0;
  WatchedRange* range = nullptr;

  ~State() {
    if (range != nullptr) range->begin = range->end = 0;
    if (data != nullptr) munmap(data, bytes);
    if (descriptor >= 0) close(descriptor);
  }
};

MappedFile::MappedFile(const std::string& path) : state_(std::make_unique<State>()) {
  const auto fail = [&](const std::string& why) { throw ModelError("'" + path + "' " + why); };
  State& state = *state_;
  state.descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (state.descriptor < 0 || fstat(state.descriptor, &state.at_first) != 0) {
    fail(std::string("cannot be opened: ") + std::strerror(errno));
  }
  if (!S_ISREG(state.at_first.st_mode)) fail("is not a regular file");
  if (state.at_first.st_size <= 0) fail("is empty");
  state.bytes = static_cast<size_t>(state.at_first.st_size);
  void* data = mmap(nullptr, state.bytes, PROT_READ, MAP_PRIVATE, state.descriptor, 0);
  if (data == MAP_FAILED) {
    if (errno == ENOMEM) throw std::bad_alloc();
    fail(std::string("cannot be mapped: ") + std::strerror(errno));
  }
  state.data = data;
  state.range = watch(data, state.bytes);
#ifdef MADV_HUGEPAGE
  // What is not in memory yet is read in pieces that can be large pages, which are fewer to look up. Where
  // that is refused, pages stay small.
  madvise(data, state.bytes, MADV_HUGEPAGE);
#endif
}

bool MappedFile::changed() const noexcept {
  if (state_ == nullptr) return false;
  struct stat now{};
  return state_->range->is_damaged || fstat(state_->descriptor, &now) != 0 ||
         version_of(now) != version_of(state_->at_first);
}

FileVersion MappedFile::version() const {
  return state_ == nullptr ? FileVersion{} : version_of(state_->at_first);
}

#endif

MappedFile::MappedFile() = default;
MappedFile::~MappedFile() = default;
MappedFile::MappedFile(MappedFile&&) noexcept = default;

const std::byte* MappedFile::data() const {
  return state_ == nullptr ? nullptr : static_cast<const std::byte*>(state_->data);
}

size_t MappedFile::bytes() const { return state_ == nullptr ? 0 : state_->bytes; }

}  // namespace gpt2fast
