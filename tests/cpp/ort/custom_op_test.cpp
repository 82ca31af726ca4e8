// What an operator learns of its node, and how its errors come back.
#include "ort/custom_op.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;

// Calls a function at each run, and copies its input.
class Probe final : public Kernel {
 public:
  explicit Probe(std::function<void(const NodeContext&)> on_run) : on_run_(std::move(on_run)) {}
  void compute(const NodeContext& node) override {
    if (on_run_) on_run_(node);
    const Input x = node.input(0, "x");
    auto* y = static_cast<float*>(node.output(0, std::array<int64_t, 1>{x.elements}));
    std::copy_n(x.as<float>(), x.elements, y);
  }

 private:
  std::function<void(const NodeContext&)> on_run_;
};

struct Callbacks {
  std::function<void(const NodeInfo&)> on_create = {};
  std::function<void(const NodeContext&)> on_run = {};
};

// Loads a model of one node Probe(x, a?, b?) -> (y, z?), and runs it. The message of the ModelError, or none.
std::string run(const Node& node, const Callbacks& callbacks) {
  CustomOpDomain domain("gpt2fast");
  const InputSpec optional{ElementType::kUndefined, true};
  domain.add(std::make_unique<CustomOp>("Probe", std::vector<InputSpec>{{kFloat}, optional, optional}, 1,
                                        [&](const NodeInfo& info) {
                                          if (callbacks.on_create) callbacks.on_create(info);
                                          return std::make_unique<Probe>(callbacks.on_run);
                                        }));
  const std::vector<float> weight = {1, 2, 3, 4, 5, 6};
  const Model model = Model()
                          .input("x", kFloat, {Model::kAny})
                          .weight<float>("weight", kFloat, {2, 3}, weight)
                          .node(node)
                          .output("y", kFloat, {Model::kAny});
  return error_of<ModelError>([&] {
    Session session(in_memory(model), domain);
    Binding binding(session);
    std::vector<float> x = {1, 2, 3};
    std::vector<float> y(3);
    const Value input = Value::tensor(x.data(), 12, std::array<int64_t, 1>{3}, kFloat);
    const Value output = Value::tensor(y.data(), 12, std::array<int64_t, 1>{3}, kFloat);
    binding.bind_input("x", input);
    binding.bind_output("y", output);
    session.run(binding);
    CHECK(y == x);
  });
}

std::string creation_error(const Node& node, std::function<void(const NodeInfo&)> on_create) {
  return run(node, {.on_create = std::move(on_create)});
}

ORT_TEST(attributes_have_values_and_bounds) {
  const Node node = Node("Probe", {"x"}, "y").set("count", int64_t{7}).set("scale", 0.5f);
  CHECK_EQ(creation_error(node,
                          [](const NodeInfo& info) {
                            CHECK_EQ(info.integer("count", 0, 10), int64_t{7});
                            CHECK_EQ(info.integer("count", 7, 7), int64_t{7});
                            CHECK_EQ(info.number("scale"), 0.5f);
                          }),
           "");
  const std::string error = creation_error(node, [](const NodeInfo& info) { info.integer("count", 8, 9); });
  CHECK(contains(error, "count must be in [8, 9], got 7"));
  CHECK(contains(error, "Probe 'y_node'"));
  CHECK(contains(creation_error(node, [](const NodeInfo& info) { info.integer("other", 0, 1); }), "other"));
  CHECK(contains(creation_error(Node("Probe", {"x"}, "y").set("scale", INFINITY),
                                [](const NodeInfo& info) { info.number("scale"); }),
                 "scale must be finite, got inf"));
}

ORT_TEST(connections_that_are_left_out_are_known) {
  using Flags = std::vector<bool>;
  const auto connections = [](const Node& node) {
    Flags flags;
    CHECK_EQ(creation_error(node,
                            [&](const NodeInfo& info) {
                              for (size_t i = 0; i < 4; ++i) flags.push_back(info.has_input(i));
                              for (size_t i = 0; i < 3; ++i) flags.push_back(info.has_output(i));
                            }),
             "");
    return flags;
  };
  CHECK(connections(Node("Probe", {"x"}, "y")) == (Flags{true, false, false, false, true, false, false}));
  CHECK(connections(Node("Probe", {"x", "", "weight"}, "y")) ==
        (Flags{true, false, true, false, true, false, false}));
  CHECK(connections(Node("Probe", {"x", "weight"}, std::vector<std::string>{"y", "z"})) ==
        (Flags{true, true, false, false, true, true, false}));
}

ORT_TEST(weights_are_constants_of_the_right_type_and_place) {
  const Node node("Probe", {"x", "weight"}, "y");
  CHECK_EQ(creation_error(node,
                          [](const NodeInfo& info) {
                            CHECK(!info.is_constant(0) && info.is_constant(1));
                            CHECK_EQ(info.input_type(1), kFloat);
                            const Constant weight = info.constant(1, "weight", kFloat, alignof(float));
                            CHECK(weight.shape == (std::vector<int64_t>{2, 3}));
                            CHECK_EQ(weight.as<float>()[5], 6.0f);
                            require_shape(weight, "weight", {2, -1});
                          }),
           "");
  const auto refused = [&](size_t index, ElementType type, size_t alignment) {
    return creation_error(node,
                          [=](const NodeInfo& info) { info.constant(index, "weight", type, alignment); });
  };
  CHECK(contains(refused(0, kFloat, 4), "weight must be a constant of the model"));
  CHECK(contains(refused(2, kFloat, 4), "weight must be a constant of the model"));
  CHECK(contains(refused(1, ElementType::kUInt8, 1), "weight must have element type 2, got 1"));
  CHECK(contains(refused(1, kFloat, size_t{1} << 47), "must start at a multiple"));
}

TEST(shapes_that_do_not_match_are_shown) {
  const Constant weight{.data = nullptr, .shape = {2, 3}};
  require_shape(weight, "w", {2, 3});
  require_shape(weight, "w", {-1, 3});
  const auto message = [&](const std::vector<int64_t>& shape) {
    return error_of<ModelError>([&] { require_shape(weight, "w", shape); });
  };
  CHECK_EQ(message({-1, 4}), "w must have shape [any, 4], got [2, 3]");
  CHECK_EQ(message({6}), "w must have shape [6], got [2, 3]");
}

TEST(inputs_divide_into_rows) {
  const Input input{.name = "x", .data = nullptr, .elements = 12};
  CHECK_EQ(input.rows(4), int64_t{3});
  input.require_elements(12);
  CHECK_EQ(error_of<ModelError>([&] { input.rows(5); }), "x must be rows of 5 elements, got 12 elements");
  CHECK_EQ(error_of<ModelError>([&] { input.require_elements(11); }), "x must have 11 elements, got 12");
}

ORT_TEST(errors_of_a_run_come_back) {
  const Node node("Probe", {"x"}, "y");
  const auto error = [&](std::function<void(const NodeContext&)> on_run) {
    return run(node, {.on_run = std::move(on_run)});
  };
  CHECK_EQ(error({}), "");
  const std::string message = error([](const NodeContext&) { throw std::runtime_error("out of luck"); });
  CHECK(contains(message, "out of luck") && contains(message, "y_node"));
  CHECK(contains(error([](const NodeContext&) { throw 7; }), "unknown exception"));
  CHECK(contains(error([](const NodeContext& context) { context.input(1, "a"); }), "a is missing"));
  CHECK_THROWS(error([](const NodeContext&) { throw Interrupted(); }), Interrupted);
}

TEST(messages_of_failed_runs_become_what_was_thrown) {
  CHECK_EQ(error_of<ModelError>([] { throw_error("any other message"); }), "any other message");
}

}  // namespace
}  // namespace gpt2fast::testing
