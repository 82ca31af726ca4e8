// Python's lock around long calls, and the end of the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace gpt2fast::bindings {

// Gives Python's lock up while it lives. Once the interpreter ends, a thread does not come back to the lock,
// which would take the process down with it: it stays here until the process is gone. The thread that ends
// the interpreter gets ClosedError.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  const uint64_t process_;
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

// For the end of the interpreter: ends all calls of all models, and returns when the threads inside them have
// come to rest.
void end_all_calls();

}  // namespace gpt2fast::bindings
