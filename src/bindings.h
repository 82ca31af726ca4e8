// What the binding files share: the casters and small conversions between NumPy and the core.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

namespace py = pybind11;

// Contiguous arrays of exactly this type: the Python layer converts, the core refuses.
using Int32Array = py::array_t<int32_t, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

template <typename T>
std::span<const T> as_span(const py::array_t<T, py::array::c_style>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

// A copy. pybind11, when it copies itself and there is no memory, gives an object that is none.
template <typename T>
py::array_t<T> to_array(std::span<const T> values) {
  py::array_t<T> array(static_cast<py::ssize_t>(values.size()));
  std::ranges::copy(values, array.mutable_data());
  return array;
}
template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return to_array(std::span<const T>(values));
}

// The member of the enumeration that Python has, not a new one: pybind11 crashes where it has no memory for
// it.
py::object as_object(FinishReason reason);

// Returns true when a Python signal handler has raised an exception. Empty on threads other than the main
// one, where Python runs no signal handlers.
InterruptCheck interrupt_check();

void register_library(py::module_& module);
void register_packing(py::module_& module);
void register_request(py::module_& module);
void register_engine(py::module_& module);

}  // namespace gpt2fast::bindings
