// Python's signals, checked from long calls that have released its lock.
#include "bindings.h"

namespace gpt2fast::bindings {

namespace {

bool is_main_thread() {
  const py::object threading = py::module_::import("threading");
  return threading.attr("current_thread")().is(threading.attr("main_thread")());
}

}  // namespace

InterruptCheck interrupt_check() {
  if (!is_main_thread()) return {};
  return [] {
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  };
}

}  // namespace gpt2fast::bindings
