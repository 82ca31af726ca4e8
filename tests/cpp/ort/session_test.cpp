// Models that load, run and describe themselves, and models that are refused.
#include "ort/session.h"

#include <array>
#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
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
  StepContext context;
  const OpRegistry registry(context);
  const auto load = [&](const std::string& graph) {
    const ModelFiles files = {.name = "a/model.onnx", .graph = graph, .weights_path = {}, .tensors = {}};
    return error_of<ModelError>([&] { Session(files, registry.domain()); });
  };
  CHECK(contains(load(""), "a/model.onnx"));
  CHECK(contains(load("\xff\xff\xff\xff garbage"), "a/model.onnx"));
  const std::string whole = add_model().encoded();
  CHECK(!load(whole.substr(0, whole.size() / 2)).empty());
  const Model replaceable = add_model().input("one", kFloat, {2});
  CHECK(contains(load(replaceable.encoded()), "weights as inputs"));
}

// A model that adds the two floats of a file.
class StoredSum {
 public:
  explicit StoredSum(std::string_view bytes) : path_(folder_.write("weights.bin", bytes)) {}

  Session load(int64_t offset = 0) const {
    const Model model = Model()
                            .input("x", kFloat, {2})
                            .external_weight("w", kFloat, {2}, "weights.bin", offset, 8)
                            .node(Node("Add", {"x", "w"}, "y", ""))
                            .output("y", kFloat, {2});
    return Session({.name = "model.onnx",
                    .graph = model.encoded(),
                    .weights_path = path_,
                    .tensors = {{"w", false, {2}, offset}}},
                   registry_.domain());
  }
  static std::vector<float> sum(Session& session) {
    std::vector<float> x = {1, 2};
    std::vector<float> y(2);
    Binding binding(session);
    const Value input = Value::tensor(x.data(), 8, std::array<int64_t, 1>{2}, kFloat);
    const Value output = Value::tensor(y.data(), 8, std::array<int64_t, 1>{2}, kFloat);
    binding.bind_input("x", input);
    binding.bind_output("y", output);
    session.run(binding);
    return y;
  }
  const std::string& path() const { return path_; }
  void write(std::string_view bytes) const { folder_.write("weights.bin", bytes); }

 private:
  TemporaryFolder folder_;
  std::string path_;
  StepContext context_;
  OpRegistry registry_{context_};
};

std::string two_floats(float first, float second) {
  const std::array<float, 2> values = {first, second};
  return {reinterpret_cast<const char*>(values.data()), 8};
}

ORT_TEST(external_weights_must_lie_inside_their_file) {
  const StoredSum stored(two_floats(10, 20));
  Session session = stored.load();
  CHECK(StoredSum::sum(session) == (std::vector<float>{11, 22}));
  for (const int64_t offset : {int64_t{4}, int64_t{8}, int64_t{1} << 62, int64_t{-8}}) {
    CHECK(contains(error_of<ModelError>([&] { stored.load(offset); }), "past the end"));
  }
}

#ifndef _WIN32  // which lets nobody remove, rewrite or shorten a file that is mapped
ORT_TEST(weights_that_are_removed_stay_with_their_session) {
  const StoredSum stored(two_floats(10, 20));
  Session session = stored.load();
  std::filesystem::remove(stored.path());
  CHECK(contains(error_of<ModelError>([&] { stored.load(); }), "weights.bin"));
  CHECK(StoredSum::sum(session) == (std::vector<float>{11, 22}));  // a name less harms no open file
}

ORT_TEST(weights_that_change_under_a_session_are_an_error) {
  const StoredSum stored(std::string(8192, 'x') + two_floats(10, 20));
  Session rewritten = stored.load(8192), shortened = stored.load(8192);
  std::filesystem::last_write_time(stored.path(), std::filesystem::file_time_type() + std::chrono::hours(1));
  CHECK_THROWS(StoredSum::sum(rewritten), ModelError);
  std::filesystem::resize_file(stored.path(), 1);
  CHECK(contains(error_of<ModelError>([&] { StoredSum::sum(shortened); }), "shortened or rewritten"));
  stored.write(std::string(8192, 'x') + two_floats(1, 2));
  CHECK_THROWS(StoredSum::sum(shortened), ModelError);  // for good: nobody knows what else was read
  Session fresh = stored.load(8192);
  CHECK(StoredSum::sum(fresh) == (std::vector<float>{2, 4}));
}

ORT_TEST(weights_behind_a_link_are_refused) {
  const StoredSum stored(two_floats(1, 2));
  std::filesystem::rename(stored.path(), stored.path() + ".other");
  std::filesystem::create_symlink(stored.path() + ".other", stored.path());
  CHECK(contains(error_of<ModelError>([&] { stored.load(); }), "cannot be opened"));
}
#endif

}  // namespace
}  // namespace gpt2fast::testing
