// The threads of a session's pool, made by us so that we know them, and where they wake up.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "ort/abi.h"

namespace gpt2fast {

class WorkerThreads {
 public:
  WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;
  // All threads have been joined.
  ~WorkerThreads();

  // Sessions made with these options have their pool's threads here; the object must outlive them.
  void serve(abi::SessionOptions* options);

  // A thread that calls work(data); null if none can be had.
  abi::ThreadHandle start(abi::ThreadWork work, void* data) noexcept;
  static void join(abi::ThreadHandle thread) noexcept;

 private:
  friend class OffCallersCore;
  struct Worker;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::chrono::steady_clock::time_point last_use_{};
};

// While it lives, threads that wake up do not do so on the core of the caller, who is going to need them.
//
// Linux sometimes wakes a thread that has slept for milliseconds on the core of the thread that wakes it,
// even though others idle. There the two take turns, the pool's thread spinning for a whole slice of 3 to 4
// ms while the other could work, until the system balances its load. Does nothing where threads cannot have
// slept for so long, where there is no second core, and on other systems.
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
