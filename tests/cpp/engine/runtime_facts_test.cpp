// What the bindings learn of the library and of the instruction sets.
#include <algorithm>
#include <string>
#include <vector>

#include "gpt2fast/library.h"
#include "kernels/isa.h"
#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

TEST(the_active_instruction_set_is_among_those_that_run) {
  const std::vector<std::string> available = available_instruction_sets();
  CHECK_EQ(available.front(), "portable");
  CHECK(std::ranges::find(available, active_instruction_set()) != available.end());
  for (const std::string& name : available) {
    CHECK(std::ranges::any_of(kAllIsas, [&](Isa isa) { return isa_name(isa) == name; }));
  }
}

ORT_TEST(loading_gives_the_librarys_version) {
  CHECK_EQ(load_onnxruntime(library_path()), Library::instance().version());
  CHECK_THROWS(load_onnxruntime("/another/libonnxruntime.so"), LibraryError);
}

}  // namespace
}  // namespace gpt2fast::testing
