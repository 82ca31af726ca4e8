// Linear gives what its kernel gives, and refuses graphs that would read outside their tensors.
#include "ops/linear_op.h"

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <string>

#include "support/packed_weight.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;
constexpr ElementType kByte = ElementType::kUInt8;

// What a test may get wrong on purpose.
struct LinearGraph {
  int64_t in_features = 70;
  int64_t out_features = 20;
  int64_t format = 2;
  int64_t activation = 1;
  float epsilon = 1e-5f;
  int64_t weight_bytes = 0;  // 0: the right size
  int64_t bias_size = 20;
  int64_t gamma_size = 70;
  bool constant_weight = true;
  bool beta = true;
  std::string node_name = "y_node";
};

Model linear_model(const LinearGraph& graph) {
  std::vector<uint8_t> weight = packed(WeightFormat::kInt8, 70, 20);
  if (graph.format == 0) weight = packed(WeightFormat::kFloat32, 70, 20);
  if (graph.weight_bytes != 0) weight.resize(static_cast<size_t>(graph.weight_bytes));
  const auto weight_bytes = static_cast<int64_t>(weight.size());
  Model model;
  model.input("x", kFloat, {Model::kAny, Model::kAny}).input("residual", kFloat, {Model::kAny, Model::kAny});
  if (graph.constant_weight) {
    model.weight<uint8_t>("weight", kByte, {weight_bytes}, weight);
  } else {
    model.input("weight", kByte, {weight_bytes});
  }
  model.weight<float>("bias", kFloat, {graph.bias_size}, ramp(static_cast<size_t>(graph.bias_size), 4));
  model.weight<float>("gamma", kFloat, {graph.gamma_size}, ramp(static_cast<size_t>(graph.gamma_size), 5));
  model.weight<float>("beta", kFloat, {graph.gamma_size}, ramp(static_cast<size_t>(graph.gamma_size), 6));
  return model
      .node(Node("Linear", {"x", "weight", "bias", "gamma", graph.beta ? "beta" : "", "residual"}, "y")
                .set("in_features", graph.in_features)
                .set("out_features", graph.out_features)
                .set("format", graph.format)
                .set("activation", graph.activation)
                .set("epsilon", graph.epsilon)
                .named(graph.node_name))
      .output("y", kFloat, {Model::kAny, Model::kAny});
}

ORT_TEST(linear_equals_its_kernel) {
  const int64_t rows = 5;
  for (const WeightFormat format : {WeightFormat::kFloat32, WeightFormat::kInt8}) {
    LinearGraph graph;
    graph.format = static_cast<int64_t>(format);
    LoadedModel model(linear_model(graph), 2);
    std::vector<float> x = ramp(rows * 70, 1);
    std::vector<float> residual = ramp(rows * 20, 2);
    std::vector<float> y(rows * 20);
    model.input("x", x, kFloat, {rows, 70});
    model.input("residual", residual, kFloat, {rows, 20});
    model.output("y", y, {rows, 20});
    model.run();

    const Aligned weight(packed(format, 70, 20));
    const std::vector<float> bias = ramp(20, 4);
    const std::vector<float> gamma = ramp(70, 5);
    const std::vector<float> beta = ramp(70, 6);
    std::vector<float> expected(rows * 20);
    Workspace workspace;
    linear({.rows = rows,
            .in_features = 70,
            .out_features = 20,
            .format = format,
            .activation = Activation::kGeluTanh,
            .epsilon = 1e-5f,
            .x = x.data(),
            .weight = weight.data(),
            .bias = bias.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .residual = residual.data(),
            .y = expected.data()},
           Serial(), workspace.reserve(linear_workspace(format, rows, 70, 1, kernels())), kernels());
    CHECK(y == expected);
  }
}

ORT_TEST(linear_takes_no_rows) {
  LoadedModel model(linear_model({}));
  std::vector<float> nothing;
  model.input("x", nothing, kFloat, {0, 70});
  model.input("residual", nothing, kFloat, {0, 20});
  model.output("y", nothing, {0, 20});
  model.run();
}

ORT_TEST(linear_gives_the_largest_of_every_256_outputs) {
  const std::vector<uint8_t> weight = packed(WeightFormat::kInt8, 70, 300);
  Model graph;
  graph.input("x", kFloat, {Model::kAny, 70})
      .weight<uint8_t>("weight", kByte, {static_cast<int64_t>(weight.size())}, weight)
      .node(Node("Linear", {"x", "weight"}, std::vector<std::string>{"y", "maxima"})
                .set("in_features", int64_t{70})
                .set("out_features", int64_t{300})
                .set("format", int64_t{2})
                .set("activation", int64_t{0})
                .set("epsilon", 0.0f))
      .output("y", kFloat, {Model::kAny, 300})
      .output("maxima", kFloat, {Model::kAny, 2 * kMaximaLanes});
  LoadedModel model(graph, 2);
  for (const int64_t rows : {3, 1, 0}) {
    std::vector<float> x = ramp(static_cast<size_t>(rows * 70), 1);
    std::vector<float> y(static_cast<size_t>(rows * 300)),
        maxima(static_cast<size_t>(rows * 2 * kMaximaLanes));
    model.input("x", x, kFloat, {rows, 70});
    model.output("y", y, {rows, 300});
    model.output("maxima", maxima, {rows, 2 * kMaximaLanes});
    model.run();
    for (int64_t row = 0; row < rows; ++row) {
      const float* outputs = y.data() + row * 300;
      const float* largest = maxima.data() + row * 2 * kMaximaLanes;
      CHECK_EQ(*std::max_element(largest, largest + kMaximaLanes), *std::max_element(outputs, outputs + 256));
      CHECK_EQ(*std::max_element(largest + kMaximaLanes, largest + 2 * kMaximaLanes),
               *std::max_element(outputs + 256, outputs + 300));
    }
  }
}

ORT_TEST(linear_copies_the_input_of_the_layer_that_it_begins) {
  const auto copied = [](const std::string& name, size_t layers) {
    LoadedModel model(linear_model({.node_name = name}));
    std::vector<float> x = ramp(2 * 70, 1);
    std::vector<float> residual = ramp(2 * 20, 2);
    std::vector<float> y(2 * 20);
    std::vector<float> inputs(layers * x.size());
    model.input("x", x, kFloat, {2, 70});
    model.input("residual", residual, kFloat, {2, 20});
    model.output("y", y, {2, 20});
    model.run();  // wants nothing
    CHECK(std::ranges::count(inputs, 0.0f) == static_cast<std::ptrdiff_t>(inputs.size()));
    model.context().layer_inputs = inputs;
    model.run();
    return inputs;
  };
  const std::vector<float> x = ramp(2 * 70, 1);
  const std::vector<float> zeros(2 * 70);
  const auto in_order = [](std::vector<float> first, const std::vector<float>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  };
  CHECK(copied("h.0.attn.c_attn", 2) == in_order(x, zeros));
  CHECK(copied("h.1.attn.c_attn", 2) == in_order(zeros, x));
  for (const char* other : {"h.1.attn.c_proj", "h..attn.c_attn", "h.-1.attn.c_attn", "h.1x.attn.c_attn",
                            "g.1.attn.c_attn", "h.99999999999.attn.c_attn"}) {
    CHECK(copied(other, 2) == in_order(zeros, zeros));
  }
  CHECK(contains(error_of<ModelError>([&] { copied("h.2.attn.c_attn", 2); }), "there are no 3 layers"));
}

ORT_TEST(linear_refuses_hostile_graphs) {
  const auto message = [](const std::function<void(LinearGraph&)>& change) {
    LinearGraph graph;
    change(graph);
    return error_of<ModelError>([&] { LoadedModel model(linear_model(graph)); });
  };
  CHECK_EQ(message([](LinearGraph&) {}), std::string());
  CHECK(contains(message([](LinearGraph& g) { g.weight_bytes = 64; }), "weight must have shape"));
  CHECK(contains(message([](LinearGraph& g) { g.out_features = 21; }), "must have shape"));
  CHECK(
      contains(message([](LinearGraph& g) { g.in_features = int64_t{1} << 62; }), "in_features must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.in_features = 0; }), "in_features must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.out_features = -1; }), "out_features must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.format = 4; }), "format must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.format = -1; }), "format must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.format = int64_t{1} << 32; }), "format must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.activation = 9; }), "activation must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.epsilon = -1.0f; }), "epsilon must be in"));
  CHECK(contains(message([](LinearGraph& g) { g.epsilon = std::numeric_limits<float>::quiet_NaN(); }),
                 "epsilon"));
  CHECK(contains(message([](LinearGraph& g) { g.bias_size = 19; }), "bias must have shape [20]"));
  CHECK(contains(message([](LinearGraph& g) { g.gamma_size = 69; }), "gamma must have shape [70]"));
  CHECK(contains(message([](LinearGraph& g) { g.constant_weight = false; }), "weight must be a constant"));
  CHECK(contains(message([](LinearGraph& g) { g.beta = false; }), "gamma and beta"));
  CHECK(contains(message([](LinearGraph& g) { g.format = 9; }), "'y_node'"));  // errors name the node
}

ORT_TEST(linear_refuses_wrong_shapes) {
  const auto message = [](const std::vector<int64_t>& x_shape, const std::vector<int64_t>& residual_shape) {
    LoadedModel model(linear_model({}));
    std::vector<float> x(static_cast<size_t>(x_shape[0] * x_shape[1]));
    std::vector<float> residual(static_cast<size_t>(residual_shape[0] * residual_shape[1]));
    std::vector<float> y(40);
    model.input("x", x, kFloat, x_shape);
    model.input("residual", residual, kFloat, residual_shape);
    model.output("y", y, {2, 20});
    return error_of<ModelError>([&] { model.run(); });
  };
  CHECK_EQ(message({2, 70}, {2, 20}), std::string());
  CHECK(contains(message({2, 69}, {2, 20}), "x must be rows of 70 elements, got 138"));
  CHECK(contains(message({2, 70}, {1, 20}), "residual must have 40 elements, got 20"));
  CHECK(!message({3, 70}, {3, 20}).empty());  // larger than the buffer bound to y
}

ORT_TEST(linear_refuses_unaligned_weights) {
  const TemporaryFolder folder;
  const std::vector<uint8_t> weight = packed(WeightFormat::kInt8, 64, 16);
  const auto bytes = static_cast<int64_t>(weight.size());
  StepContext context;
  const OpRegistry registry(context);
  for (const int64_t offset : {int64_t{4096}, int64_t{4097}}) {
    std::string file(static_cast<size_t>(offset), '\0');
    const Model model = Model()
                            .input("x", kFloat, {Model::kAny, 64})
                            .external_weight("weight", kByte, {bytes}, "weights.bin", offset, bytes)
                            .node(Node("Linear", {"x", "weight"}, "y")
                                      .set("in_features", int64_t{64})
                                      .set("out_features", int64_t{16})
                                      .set("format", int64_t{2})
                                      .set("activation", int64_t{0}))
                            .output("y", kFloat, {Model::kAny, 16});
    const std::string path = folder.write("weights.bin", file.append(weight.begin(), weight.end()));
    const ModelFiles files = {.name = "model.onnx",
                              .graph = model.encoded(),
                              .weights_path = path,
                              .tensors = {{"weight", true, {bytes}, offset}}};
    const std::string message = error_of<ModelError>([&] { Session(files, registry.domain()); });
    CHECK_EQ(message.empty(), offset == 4096);
    CHECK(message.empty() || contains(message, "multiple of 64"));
  }
}

}  // namespace
}  // namespace gpt2fast::testing
