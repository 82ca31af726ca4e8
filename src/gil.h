// Python's lock around long calls, and the end of the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace gpt2fast::bindings {

// Gives Python's lock up while it lives. Calls inside are counted: the interpreter must not end while a
// thread is on its way back to the lock, which it would never get. Throws ClosedError once the interpreter
// ends.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  std::optional<pybind11::gil_scoped_release> release_;
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
  const pybind11::gil_scoped_release release;
  pointer.reset();
}

// For the end of the interpreter: ends all calls of all models, and returns when no thread is inside one.
void end_all_calls();

}  // namespace gpt2fast::bindings
