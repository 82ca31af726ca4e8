// ONNX Runtime's library, build and machine facts.
#include "bindings.h"
#include "gil.h"
#include "gpt2fast/library.h"

namespace gpt2fast::bindings {

void register_library(py::module_& module) {
  module.def("load_library", &load_onnxruntime, py::arg("path"), py::call_guard<Unlocked>());
  module.def("available_isas", &available_instruction_sets);
  module.def("active_isa", &active_instruction_set);
  module.def("usable_cores", &usable_cores);
  module.def("build_config", [] {
    py::dict config;
    config["build_type"] = GPT2FAST_BUILD_TYPE;
    config["compiler"] = GPT2FAST_COMPILER;
    config["pybind11"] =
        PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
    return config;
  });
}

}  // namespace gpt2fast::bindings
