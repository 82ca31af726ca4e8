// The errors that the core throws, each mapped to one Python exception in src/module.cpp.
#pragma once

#include <stdexcept>

namespace gpt2fast {

// A bad argument: std::invalid_argument (ValueError). A library or file that is missing or unusable:
struct LibraryError : std::runtime_error {  // ImportError
  using std::runtime_error::runtime_error;
};
struct ModelError
    : std::runtime_error {  // gpt2fast.ModelError: a model directory that does not hold what it should
  using std::runtime_error::runtime_error;
};
struct BusyError : std::runtime_error {  // gpt2fast.BusyError: too many texts wait for a slot
  using std::runtime_error::runtime_error;
};
struct ClosedError : std::runtime_error {  // RuntimeError: the model has been closed, or is another process's
  using std::runtime_error::runtime_error;
};
struct Interrupted : std::exception {  // the poll function asked to stop; the binding re-raises what it holds
  const char* what() const noexcept override { return "interrupted"; }
};

}  // namespace gpt2fast
