// A caller's Python functions in the choice of a token.
#include "choice_hook.h"

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gil.h"
#include "gpt2fast/errors.h"
#include "gpt2fast/process_local.h"

namespace gpt2fast::bindings {

namespace {

using MaskArray = py::array_t<uint32_t, py::array::c_style>;

class PythonChoiceHook final : public ChoiceHook {
 public:
  explicit PythonChoiceHook(const py::object& hooks) : owner_(std::make_shared<HookOwner>(hooks)) {}

  const uint32_t* allowed_tokens(const TokenHistory& history, int64_t vocab_size) override {
    bool all = true;
    call("allowed_tokens", [&](const py::object& function) {
      const py::object mask = function(to_array(history.output));
      if (mask.is_none()) return;
      const auto array = py::cast<MaskArray>(mask);
      const int64_t words = (vocab_size + 31) / 32;
      if (array.size() < words) {
        throw std::invalid_argument("allowed_tokens must return " + std::to_string(words) + " words, got " +
                                    std::to_string(array.size()));
      }
      mask_.assign(array.data(), array.data() + words);
      all = false;
    });
    return all ? nullptr : mask_.data();
  }

  void process_scores(const TokenHistory& history, std::span<float> scores) override {
    call("process_scores", [&](const py::object& function) {
      // A base object keeps pybind11 from copying; the array is only good during the call, as documented.
      const py::array_t<float> array(static_cast<py::ssize_t>(scores.size()), scores.data(), py::none());
      function(to_array(history.prompt), to_array(history.output), array);
    });
  }

  bool is_complete(const TokenHistory& history) override {
    bool complete = false;
    call("is_complete",
         [&](const py::object& function) { complete = py::cast<bool>(function(to_array(history.output))); });
    return complete;
  }

 private:
  // Calls `use` with a function of the owner, if it has one of this name.
  template <typename Use>
  void call(const char* name, const Use& use) {
    const py::gil_scoped_acquire acquire;
    const uint64_t process = process_generation();
    const py::object hooks = owner_->get();
    if (hooks.is_none()) throw ClosedError("the call was given up: its hooks are gone");
    try {
      const py::object function = hooks.attr(name);
      if (!function.is_none()) use(function);
    } catch (const py::error_already_set& error) {
      if (error.trace()) PyException_SetTraceback(error.value().ptr(), error.trace().ptr());
      hooks.attr("error") = error.value();
      throw HookError(owner_);
    }
    if (process != process_generation()) {
      throw ClosedError("the call belongs to the parent process: make a new one in this process");
    }
  }

  std::shared_ptr<const HookOwner> owner_;
  std::vector<uint32_t> mask_;  // the last one, while the core reads it
};

// Ends a child process that a hook has forked on a thread without a caller, as Python ends a program with
// this exception.
[[noreturn]] void end_child(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const HookError& raised) {
    raised.restore();
  } catch (const std::exception& other) {
    PyErr_SetString(PyExc_RuntimeError, other.what());
  }
  PyErr_Print();  // which ends the process itself if the exception is SystemExit
  Py_Exit(1);
}

}  // namespace

void with_lock_for_hooks(const std::function<void()>& hooks) {
  const uint64_t process = process_generation();
  const LockedForHook lock;
  try {
    hooks();
  } catch (...) {
    if (process != process_generation() && PyEval_GetFrame() == nullptr) end_child(std::current_exception());
    throw;
  }
}

HookOwner::~HookOwner() {
  const py::gil_scoped_acquire acquire;
  hooks_.release().dec_ref();
}

void HookError::restore() const {
  const py::object hooks = owner_->get();
  py::object error = py::none();
  if (!hooks.is_none()) error = hooks.attr("error");
  if (error.is_none()) {
    PyErr_SetString(PyExc_RuntimeError, "the call has failed, and has told its error");
    return;
  }
  hooks.attr("error") = py::none();
  PyErr_Restore(py::type::of(error).inc_ref().ptr(), error.inc_ref().ptr(),
                PyException_GetTraceback(error.ptr()));
}

std::shared_ptr<ChoiceHook> make_choice_hook(const py::object& hooks) {
  return std::make_shared<PythonChoiceHook>(hooks);
}

}  // namespace gpt2fast::bindings
