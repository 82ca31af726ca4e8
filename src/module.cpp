// The extension module gpt2fast._core: registers everything, and maps the core's errors to Python's.
#include <stdexcept>

#include "bindings.h"
#include "choice_hook.h"
#include "gpt2fast/errors.h"

namespace gpt2fast::bindings {

namespace {

void set_error(const char* module, const char* type, const char* message) {
  const py::object error = py::module_::import(module).attr(type);
  PyErr_SetString(error.ptr(), message);
}

void translate(std::exception_ptr pointer) {  // NOLINT(performance-unnecessary-value-param): pybind11's type
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const LibraryError& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
  } catch (const HookError& error) {
    error.restore();
  } catch (const ModelError& error) {
    set_error("gpt2fast.errors", "ModelError", error.what());
  } catch (const ClosedError& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (const BusyError& error) {
    set_error("gpt2fast.errors", "BusyError", error.what());
  } catch (const Interrupted&) {
    // The check that returned true has left Python's own exception, such as KeyboardInterrupt.
    if (PyErr_Occurred() == nullptr) PyErr_SetNone(PyExc_KeyboardInterrupt);
  }
}

}  // namespace

}  // namespace gpt2fast::bindings

// Python's lock guards nothing here: engines, calls and queues have locks of their own, and options and
// requests are not changed once a call has them.
PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "The C++ core of gpt2fast; use the package's public names instead.";
  pybind11::register_exception_translator(&gpt2fast::bindings::translate);
  gpt2fast::bindings::register_library(module);
  gpt2fast::bindings::register_packing(module);
  gpt2fast::bindings::register_request(module);
  gpt2fast::bindings::register_engine(module);
}
