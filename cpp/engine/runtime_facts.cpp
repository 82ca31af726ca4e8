// Loads ONNX Runtime, and says which instruction sets there are.
#include "gpt2fast/library.h"
#include "kernels/isa.h"
#include "ort/library.h"

namespace gpt2fast {

std::string load_onnxruntime(const std::string& path) { return Library::load(path).version(); }

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const Isa isa : kAllIsas) {
    if (isa_is_available(isa)) names.emplace_back(isa_name(isa));
  }
  return names;
}

std::string active_instruction_set() { return std::string(isa_name(active_isa())); }

}  // namespace gpt2fast
