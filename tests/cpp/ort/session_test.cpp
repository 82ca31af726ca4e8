// Models that load, run and describe themselves, and models that are refused.
#include "ort/session.h"

#include <array>
#include <string>
#include <vector>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;

Model add_model() {
  const std::array<float, 2> one = {1, 10};
  return Model()
      .input("x", kFloat, {Model::kAny, 2})
      .weight<float>("one", kFloat, {2}, one)
      .node(Node("Add", {"x", "one"}, "y", ""))
      .output("y", kFloat, {Model::kAny, 2});
}

ORT_TEST(session_describes_its_model) {
  LoadedModel model(add_model());
  const Session& session = model.session();
  CHECK_EQ(session.inputs().size(), size_t{1});
  CHECK_EQ(session.inputs()[0].name, std::string("x"));
  CHECK_EQ(session.inputs()[0].type, kFloat);
  CHECK_EQ(session.inputs()[0].shape.size(), size_t{2});
  CHECK_EQ(session.inputs()[0].shape[0], int64_t{-1});
  CHECK_EQ(session.inputs()[0].shape[1], int64_t{2});
  CHECK_EQ(session.outputs().size(), size_t{1});
  CHECK_EQ(session.outputs()[0].name, std::string("y"));
}

ORT_TEST(outputs_land_in_the_bound_buffer) {
  LoadedModel model(add_model());
  std::vector<float> x = {1, 2, 3, 4};
  std::vector<float> y(4);
  model.input("x", x, kFloat, {2, 2});
  model.output("y", y, {2, 2});
  model.run();
  CHECK(y == (std::vector<float>{2, 12, 4, 14}));
  x[0] = 100;  // the next run reads what the buffer holds then
  model.run();
  CHECK_EQ(y[0], 101.0f);
}

ORT_TEST(wrong_bindings_are_refused) {
  LoadedModel model(add_model());
  std::vector<float> x(3);
  std::vector<float> y(3);
  model.input("x", x, kFloat, {1, 3});
  model.output("y", y, {1, 3});
  CHECK_THROWS(model.run(), ModelError);
  CHECK_THROWS(model.input("unknown", x, kFloat, {3}), ModelError);
}

ORT_TEST(unusable_models_are_refused) {
  const TemporaryFolder folder;
  StepContext context;
  const OpRegistry registry(context);
  const auto load = [&](const std::string& path) {
    return error_of<ModelError>([&] { Session(path, SessionOptions{}, registry.domain()); });
  };
  CHECK(contains(load("/nowhere/model.onnx"), "/nowhere/model.onnx"));
  const std::string garbage = folder.write("garbage.onnx", "\xff\xff\xff\xff garbage");
  CHECK(contains(load(garbage), garbage));
  const std::string whole = add_model().encoded();
  CHECK(!load(folder.write("cut.onnx", whole.substr(0, whole.size() / 2))).empty());
  const Model replaceable = add_model().input("one", kFloat, {2});
  CHECK(contains(load(folder.write("replaceable.onnx", replaceable.encoded())), "weights as inputs"));
}

ORT_TEST(external_weights_must_lie_inside_their_file) {
  const TemporaryFolder folder;
  folder.write("weights.bin", std::string(8, '\0'));
  StepContext context;
  const OpRegistry registry(context);
  const auto load = [&](const std::string& file, int64_t offset, int64_t bytes) {
    const Model model = Model()
                            .input("x", kFloat, {2})
                            .external_weight("w", kFloat, {2}, file, offset, bytes)
                            .node(Node("Add", {"x", "w"}, "y", ""))
                            .output("y", kFloat, {2});
    const std::string path = folder.write("model.onnx", model.encoded());
    return error_of<ModelError>([&] { Session(path, SessionOptions{}, registry.domain()); });
  };
  CHECK_EQ(load("weights.bin", 0, 8), std::string());
  CHECK(!load("weights.bin", 4, 8).empty());
  CHECK(!load("weights.bin", 0, 4).empty());
  CHECK(!load("weights.bin", int64_t{1} << 62, 8).empty());
  CHECK(!load("missing.bin", 0, 8).empty());
}

}  // namespace
}  // namespace gpt2fast::testing
