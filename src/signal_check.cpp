// Python's signals, seen from long calls that have given up its lock.
#include "bindings.h"

namespace gpt2fast::bindings {

namespace {

bool is_main_thread() {
  const py::object threading = py::module_::import("threading");
  return threading.attr("current_thread")().is(threading.attr("main_thread")());
}

}  // namespace

SignalCheck::SignalCheck() : on_main_thread_(is_main_thread()) {}

bool SignalCheck::operator()() const {
  if (!on_main_thread_) return false;
  const py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

}  // namespace gpt2fast::bindings
