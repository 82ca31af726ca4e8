// Python's signals, checked from long calls that have released its lock.
#include "bindings.h"
#include "gpt2fast/process_local.h"

namespace gpt2fast::bindings {

namespace {

bool is_main_thread() {
  const py::object threading = py::module_::import("threading");
  return threading.attr("current_thread")().is(threading.attr("main_thread")());
}

}  // namespace

InterruptCheck interrupt_check() {
  if (!is_main_thread()) return {};
  return [process = process_generation()] {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) return true;
    if (process == process_generation()) return false;
    // A signal handler has forked, and the threads that do the work are not in the child.
    PyErr_SetString(PyExc_RuntimeError,
                    "the call belongs to the parent process: make a new one in this process");
    return true;
  };
}

}  // namespace gpt2fast::bindings
