// Python's lock around long calls, and the end of the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace gpt2fast::bindings {

// Gives Python's lock up while it lives. Once the interpreter ends, a thread does not come back to the lock,
// which would take the process down with it: it stays here until the process is gone. The thread that ends
// the interpreter, and hooks, for which an engine waits, get ClosedError, or where nothing may be thrown keep
// the lock: nobody wants it any more.
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

// Where the interpreter ends and does not wait for this thread, gives Python's lock up and stays here: the
// thread's call was ended with the interpreter, which is nothing to report.
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

// Lets go of an object of the core whose end may have to wait for threads that need Python's lock.
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

// For the end of the interpreter: ends all calls of all models, and returns when the threads inside them have
// come to rest.
void end_all_calls();

}  // namespace gpt2fast::bindings
