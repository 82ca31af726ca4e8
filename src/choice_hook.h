// A caller's Python functions in the choice of a token.
#pragma once

#include <exception>
#include <functional>
#include <memory>

#include "bindings.h"
#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

// The caller's object that has the functions. It is referred to weakly: Python's garbage collector does not
// see references of the core, and what it can't see it never collects.
class HookOwner {
 public:
  explicit HookOwner(const py::object& hooks) : hooks_(hooks) {}
  ~HookOwner();  // on any thread
  HookOwner(const HookOwner&) = delete;
  HookOwner& operator=(const HookOwner&) = delete;

  // None if it is gone. Needs Python's lock.
  py::object get() const { return hooks_(); }

 private:
  py::weakref hooks_;
};

// An exception of a hook, which its owner keeps as `error` until it is raised to the caller: its traceback
// refers to the frames of the call.
class HookError final : public std::exception {
 public:
  explicit HookError(std::shared_ptr<const HookOwner> owner) : owner_(std::move(owner)) {}
  const char* what() const noexcept override { return "a hook has raised an exception"; }
  // Sets it as Python's current exception.
  void restore() const;

 private:
  std::shared_ptr<const HookOwner> owner_;
};

// Attributes of `hooks`: `allowed_tokens(output) -> uint32 array or None`, `process_scores(prompt, output,
// scores)`, which changes the float32 array `scores` [vocab_size] in place, and `is_complete(output) ->
// bool`. Any may be None. All are called with Python's lock held. What they raise is stored as `error`.
std::shared_ptr<ChoiceHook> make_choice_hook(const py::object& hooks);

// EngineOptions::with_host_lock.
void with_lock_for_hooks(const std::function<void()>& hooks);

}  // namespace gpt2fast::bindings
