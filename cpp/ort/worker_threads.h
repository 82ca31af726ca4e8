// The threads of a session's pool, and the cores on which they wake up. We create them, so that we know them.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "ort/abi.h"

namespace gpt2fast {

class WorkerThreads {
 public:
  WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;
  // Threads that were given work must have been joined.
  ~WorkerThreads();

  // Starts threads that wait for work. They are started before a pool is made, since the library would wait
  // for ever if the system refused one later. Throws std::runtime_error when the system has no more.
  void start(int count);

  // Sessions made with these options get their pool's threads from this object, which must outlive them.
  void serve(abi::SessionOptions* options);

  // Has a waiting thread call work(data); returns null when there is none left.
  abi::ThreadHandle give(abi::ThreadWork work, void* data) noexcept;
  static void join(abi::ThreadHandle thread) noexcept;

 private:
  friend class OffCallersCore;
  struct Worker;

  std::vector<std::unique_ptr<Worker>> workers_;
  size_t given_ = 0;  // this many, from the first on, have work
  std::chrono::steady_clock::time_point last_use_;
};

// While an object lives, the pool's threads do not wake up on the core of the calling thread.
//
// Linux sometimes wakes a thread that has slept for milliseconds on the core of the thread that wakes it,
// even though other cores are idle. The two then take turns: the pool's thread spins for a whole time slice
// of 3 to 4 ms while the other could work, until the system balances its load. This does nothing if the
// threads cannot have slept for so long, if there is only one core, and on other systems.
class OffCallersCore {
 public:
  explicit OffCallersCore(WorkerThreads& threads) noexcept;
  ~OffCallersCore();
  OffCallersCore(const OffCallersCore&) = delete;
  OffCallersCore& operator=(const OffCallersCore&) = delete;

 private:
  WorkerThreads& threads_;
};

}  // namespace gpt2fast
