// The operators' shared scratch memory, and the domain that sessions look them up in.
#include "ops/registry.h"

#include <cstring>
#include <string>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

TEST(a_workspace_keeps_its_place_until_it_grows) {
  Workspace workspace;
  const WorkspaceParts first = workspace.reserve({3, 100});
  CHECK_EQ(reinterpret_cast<uintptr_t>(first.data) % 64, uintptr_t{0});
  CHECK_EQ(first.stride, size_t{128});  // whole cache lines
  for (int64_t i = 0; i < 3; ++i) std::memset(first.part(i), static_cast<int>(i), first.stride);
  for (const WorkspaceSize smaller : {WorkspaceSize{1, 10}, WorkspaceSize{3, 128}}) {
    const WorkspaceParts again = workspace.reserve(smaller);
    CHECK(again.data == first.data && again.stride == first.stride);
  }
  CHECK_EQ(first.part(2)[127], 2);
}

TEST(a_workspace_grows_in_both_directions) {
  Workspace workspace;
  workspace.reserve({2, 1000});
  CHECK_EQ(workspace.reserve({4, 64}).stride, size_t{1024});  // parts stay as large as they were
  const WorkspaceParts parts = workspace.reserve({1, 5000});
  CHECK_EQ(parts.stride, size_t{5056});
  std::memset(parts.part(3), 1, parts.stride);  // four parts are still there
}

ORT_TEST(sessions_find_no_other_operators) {
  StepContext context;
  const OpRegistry registry(context);
  const auto load = [&](const char* type) {
    const Model model = Model()
                            .input("x", ElementType::kFloat32, {Model::kAny})
                            .node(Node(type, {"x", "x", "x"}, "y"))
                            .output("y", ElementType::kFloat32, {Model::kAny});
    return error_of<ModelError>([&] { Session(in_memory(model), registry.domain()); });
  };
  CHECK(contains(load("Softmax"), "Softmax"));
  CHECK(contains(load("LayerNorm"), "gamma must be a constant"));  // found, and asked to be created
}

}  // namespace
}  // namespace gpt2fast::testing
