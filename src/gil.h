// Python's lock around long calls, and the end of the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace gpt2fast::bindings {

// Releases Python's lock while it lives. Once the interpreter is ending, a thread must not take the lock
// again, which would abort the process: it stays here until the process is gone. Two kinds of threads can't
// stay: the one that ends the interpreter, and those that run hooks, for which an engine waits. They get
// ClosedError or, where nothing may be thrown, keep the lock, which no other thread wants any more.
class Unlocked {
 public:
  enum class AtTheEnd { kThrow, kKeepLock };

  explicit Unlocked(AtTheEnd at_the_end = AtTheEnd::kThrow);
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  const uint64_t process_;
  std::optional<pybind11::gil_scoped_release> release_;
};

// If the interpreter is ending and does not wait for this thread, releases Python's lock and stays here: the
// end of the thread's call is nothing to report.
void stay_if_ending();

// Takes Python's lock for a hook that an engine runs and waits for.
class LockedForHook {
 public:
  LockedForHook();
  ~LockedForHook();
  LockedForHook(const LockedForHook&) = delete;
  LockedForHook& operator=(const LockedForHook&) = delete;

 private:
  pybind11::gil_scoped_acquire acquire_;
};

// Calls `function` without Python's lock: it may have to wait for a thread that waits for that lock.
template <typename Function>
auto unlocked(const Function& function) {
  const Unlocked scope;
  return function();
}

// Releases an object of the core whose destruction may have to wait for threads that need Python's lock.
template <typename Pointer>
void reset_unlocked(Pointer& pointer) {
  if (pointer == nullptr) return;
  if (PyGILState_Check() == 0) {
    pointer.reset();
    return;
  }
  const Unlocked scope(Unlocked::AtTheEnd::kKeepLock);
  pointer.reset();
}

// Called when the interpreter ends: ends all calls of all models, and returns when no thread is inside one.
void end_all_calls();

}  // namespace gpt2fast::bindings
