// Loads ONNX Runtime, and says what this build and this machine have.
#pragma once

#include <string>
#include <vector>

namespace gpt2fast {

// Opens the shared library at `path` and creates the process-wide environment, with telemetry off; returns
// its version. A second call with the same path does nothing. Throws LibraryError.
std::string load_onnxruntime(const std::string& path);

// The names of the instruction sets that have kernels and run here, and of the one in use (see GPT2FAST_ISA).
std::vector<std::string> available_instruction_sets();
std::string active_instruction_set();

// Cores that this process may use: its affinity mask and its cgroup's quota.
int usable_cores();

}  // namespace gpt2fast
