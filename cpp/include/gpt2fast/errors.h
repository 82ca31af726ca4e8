// The errors that the core throws, each mapped to one Python exception in src/module.cpp.
#pragma once

#include <stdexcept>

namespace gpt2fast {

// Bad arguments are std::invalid_argument (ValueError).

// A library or file is missing or unusable (ImportError).
struct LibraryError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A model directory does not hold what it should (gpt2fast.ModelError).
struct ModelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Too many texts wait for a slot (gpt2fast.BusyError).
struct BusyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The model has been closed, or belongs to another process (RuntimeError).
struct ClosedError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An InterruptCheck returned true; the binding raises the exception that it stands for.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

}  // namespace gpt2fast
