// The operators give what their kernels give, and refuse graphs and batches that would read outside their
// tensors.
#include <array>
#include <functional>
#include <limits>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/packing.h"
#include "ops/registry.h"
#include "ort_testing.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;
constexpr ElementType kInt = ElementType::kInt32;
constexpr ElementType kByte = ElementType::kUInt8;

// Values in [-1, 1] that repeat after 101, different for every seed.
std::vector<float> ramp(size_t size, int seed) {
  std::vector<float> values(size);
  for (size_t i = 0; i < size; ++i) {
    values[i] = static_cast<float>((i * 37 + static_cast<size_t>(seed) * 11) % 101) / 50.0f - 1.0f;
  }
  return values;
}

std::vector<uint8_t> packed(WeightFormat format, int64_t in_features, int64_t out_features) {
  const std::vector<float> w = ramp(static_cast<size_t>(in_features * out_features), 3);
  std::vector<uint8_t> bytes(packed_weight_bytes(format, in_features, out_features));
  pack_columns(format, w.data(), out_features, 1, in_features, out_features, bytes.data(), Serial());
  return bytes;
}

// A vector's bytes at the alignment that kernels read weights with.
class Aligned {
 public:
  explicit Aligned(const std::vector<uint8_t>& bytes) : data_(workspace_.reserve(bytes.size())) {
    std::memcpy(data_, bytes.data(), bytes.size());
  }
  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }

 private:
  Workspace workspace_;
  void* data_;
};

// ---- Linear

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
                .set("epsilon", graph.epsilon))
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
           Serial(), workspace.reserve(linear_workspace_bytes(format, rows, 70)));
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
  CHECK(contains(message({2, 69}, {2, 20}), "x must have shape [any, 70], got [2, 69]"));
  CHECK(contains(message({2, 70}, {1, 20}), "residual must have shape [2, 20], got [1, 20]"));
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
    folder.write("weights.bin", file.append(weight.begin(), weight.end()));
    const Model model = Model()
                            .input("x", kFloat, {Model::kAny, 64})
                            .external_weight("weight", kByte, {bytes}, "weights.bin", offset, bytes)
                            .node(Node("Linear", {"x", "weight"}, "y")
                                      .set("in_features", int64_t{64})
                                      .set("out_features", int64_t{16})
                                      .set("format", int64_t{2})
                                      .set("activation", int64_t{0}))
                            .output("y", kFloat, {Model::kAny, 16});
    const std::string path = folder.write("model.onnx", model.encoded());
    const std::string message =
        error_of<ModelError>([&] { Session(path, SessionOptions{}, registry.domain()); });
    CHECK_EQ(message.empty(), offset == 4096);
    CHECK(message.empty() || contains(message, "multiple of 64"));
  }
}

// ---- LayerNorm

ORT_TEST(layer_norm_equals_its_kernel) {
  const std::vector<float> gamma = ramp(24, 1);
  const std::vector<float> beta = ramp(24, 2);
  LoadedModel model(Model()
                        .input("x", kFloat, {Model::kAny, 24})
                        .weight<float>("gamma", kFloat, {24}, gamma)
                        .weight<float>("beta", kFloat, {24}, beta)
                        .node(Node("LayerNorm", {"x", "gamma", "beta"}, "y").set("epsilon", 1e-5f))
                        .output("y", kFloat, {Model::kAny, 24}));
  std::vector<float> x = ramp(3 * 24, 3);
  std::vector<float> y(3 * 24);
  model.input("x", x, kFloat, {3, 24});
  model.output("y", y, {3, 24});
  model.run();
  std::vector<float> expected(3 * 24);
  layer_norm(x.data(), 3, 24, gamma.data(), beta.data(), 1e-5f, expected.data(), Serial());
  CHECK(y == expected);
}

ORT_TEST(layer_norm_refuses_unequal_vectors) {
  const std::vector<float> vector = ramp(24, 1);
  const Model model = Model()
                          .input("x", kFloat, {Model::kAny, 24})
                          .weight<float>("gamma", kFloat, {24}, vector)
                          .weight<float>("beta", kFloat, {23}, std::span(vector).first(23))
                          .node(Node("LayerNorm", {"x", "gamma", "beta"}, "y").set("epsilon", 1e-5f))
                          .output("y", kFloat, {Model::kAny, 24});
  CHECK(contains(error_of<ModelError>([&] { LoadedModel loaded(model); }), "beta must have shape [24]"));
}

// ---- Embed

Model embed_model(int64_t vocabulary, int64_t positions_width) {
  const std::vector<uint8_t> table = packed(WeightFormat::kInt8, 24, 30);
  return Model()
      .input("input_ids", kInt, {Model::kAny})
      .input("positions", kInt, {Model::kAny})
      .weight<uint8_t>("table", kByte, {static_cast<int64_t>(table.size())}, table)
      .weight<float>("positions_table", kFloat, {10, positions_width},
                     ramp(static_cast<size_t>(10 * positions_width), 7))
      .node(Node("Embed", {"input_ids", "positions", "table", "positions_table"}, "y")
                .set("width", int64_t{24})
                .set("vocabulary", vocabulary)
                .set("format", int64_t{2}))
      .output("y", kFloat, {Model::kAny, 24});
}

std::string embed_error(std::vector<int32_t> ids, std::vector<int32_t> positions) {
  LoadedModel model(embed_model(30, 24));
  std::vector<float> y(ids.size() * 24);
  model.input("input_ids", ids, kInt, {static_cast<int64_t>(ids.size())});
  model.input("positions", positions, kInt, {static_cast<int64_t>(positions.size())});
  model.output("y", y, {static_cast<int64_t>(ids.size()), 24});
  return error_of<ModelError>([&] { model.run(); });
}

ORT_TEST(embed_equals_its_kernel) {
  LoadedModel model(embed_model(30, 24));
  std::vector<int32_t> ids = {29, 0, 7};
  std::vector<int32_t> positions = {0, 9, 1};
  std::vector<float> y(3 * 24);
  model.input("input_ids", ids, kInt, {3});
  model.input("positions", positions, kInt, {3});
  model.output("y", y, {3, 24});
  model.run();
  const Aligned table(packed(WeightFormat::kInt8, 24, 30));
  const std::vector<float> positions_table = ramp(10 * 24, 7);
  std::vector<float> expected(3 * 24);
  embed(WeightFormat::kInt8, table.data(), positions_table.data(), ids.data(), positions.data(), 3, 24,
        expected.data(), Serial());
  CHECK(y == expected);
}

ORT_TEST(embed_refuses_what_is_outside_its_tables) {
  CHECK_EQ(embed_error({0, 29}, {0, 9}), std::string());
  CHECK(contains(embed_error({0, 30}, {0, 1}), "input_ids must be in [0, 30), got 30"));
  CHECK(contains(embed_error({-1}, {0}), "input_ids must be in [0, 30), got -1"));
  CHECK(contains(embed_error({0}, {10}), "positions must be in [0, 10), got 10"));
  CHECK(contains(embed_error({0, 1}, {0}), "positions must have shape [2]"));
  CHECK(contains(error_of<ModelError>([] { LoadedModel model(embed_model(33, 24)); }),
                 "table must have shape"));
  CHECK(contains(error_of<ModelError>([] { LoadedModel model(embed_model(30, 23)); }), "positions_table"));
}

// ---- CachedAttention

constexpr int64_t kCacheSlots = 4;
constexpr CacheShape kShape{.heads = 2, .head_dim = 8, .positions = 20, .half = false};
constexpr int64_t kWidth = kShape.heads * kShape.head_dim;

Model attention_model() {
  return Model()
      .input("qkv", kFloat, {Model::kAny, 3 * kWidth})
      .input("sequence_starts", kInt, {Model::kAny})
      .input("slots", kInt, {Model::kAny})
      .input("cached_lengths", kInt, {Model::kAny})
      .input("kv_cache", kFloat, std::vector<int64_t>(5, Model::kAny))
      .node(Node("CachedAttention", {"qkv", "sequence_starts", "slots", "cached_lengths", "kv_cache"}, "y")
                .set("heads", kShape.heads)
                .set("head_dim", kShape.head_dim)
                .set("positions", kShape.positions)
                .set("scale", 0.25f))
      .output("y", kFloat, {Model::kAny, kWidth});
}

struct Batch {
  std::vector<int32_t> starts = {0, 2, 3};
  std::vector<int32_t> slots = {3, 1};
  std::vector<int32_t> cached_lengths = {0, 4};
  int64_t tokens = 3;
  std::vector<int64_t> cache_shape = {kCacheSlots, 2, kShape.heads, kShape.padded_positions(),
                                      kShape.padded_head_dim()};
};

// A model and the buffers of one batch.
class AttentionRun {
 public:
  explicit AttentionRun(const Batch& batch)
      : batch_(batch),
        qkv_(ramp(static_cast<size_t>(batch.tokens * 3 * kWidth), 1)),
        cache_(ramp(static_cast<size_t>(element_count(batch.cache_shape)), 2)),
        y_(static_cast<size_t>(batch.tokens * kWidth)),
        model_(attention_model(), 2) {
    const auto bind = [&](const char* name, std::vector<int32_t>& values) {
      model_.input(name, values, kInt, {static_cast<int64_t>(values.size())});
    };
    model_.input("qkv", qkv_, kFloat, {batch.tokens, 3 * kWidth});
    bind("sequence_starts", batch_.starts);
    bind("slots", batch_.slots);
    bind("cached_lengths", batch_.cached_lengths);
    model_.input("kv_cache", cache_, kFloat, batch.cache_shape);
    model_.output("y", y_, {batch.tokens, kWidth});
  }

  LoadedModel& model() { return model_; }
  const std::vector<float>& qkv() const { return qkv_; }
  const std::vector<float>& cache() const { return cache_; }
  const std::vector<float>& y() const { return y_; }

 private:
  Batch batch_;
  std::vector<float> qkv_;
  std::vector<float> cache_;
  std::vector<float> y_;
  LoadedModel model_;
};

ORT_TEST(attention_equals_its_kernel_and_writes_in_place) {
  const Batch batch;
  AttentionRun run(batch);
  std::vector<float> cache = run.cache();
  run.model().run();

  std::vector<float> expected(static_cast<size_t>(batch.tokens * kWidth));
  const AttentionArguments arguments{.shape = kShape,
                                     .scale = 0.25f,
                                     .sequences = 2,
                                     .qkv = run.qkv().data(),
                                     .sequence_starts = batch.starts.data(),
                                     .slots = batch.slots.data(),
                                     .cached_lengths = batch.cached_lengths.data(),
                                     .cache = cache.data(),
                                     .y = expected.data()};
  const std::vector<float> before = cache;
  Workspace workspace;
  cached_attention(arguments, Serial(), workspace.reserve(attention_workspace_bytes(arguments, 1)));
  CHECK(run.y() == expected);
  CHECK(run.cache() == cache);
  CHECK(cache != before);
}

ORT_TEST(attention_refuses_batches_outside_the_cache) {
  const auto message = [](const std::function<void(Batch&)>& change) {
    Batch batch;
    change(batch);
    AttentionRun run(batch);
    return error_of<ModelError>([&] { run.model().run(); });
  };
  CHECK_EQ(message([](Batch&) {}), std::string());
  CHECK_EQ(message([](Batch& b) { b.cached_lengths[1] = 19; }), std::string());
  CHECK(contains(message([](Batch& b) { b.cached_lengths[1] = 20; }), "cached_lengths of sequence 1"));
  CHECK(contains(message([](Batch& b) { b.cached_lengths[0] = -1; }), "cached_lengths of sequence 0"));
  CHECK(
      contains(message([](Batch& b) { b.cached_lengths[0] = 2147483647; }), "cached_lengths of sequence 0"));
  CHECK(contains(message([](Batch& b) { b.slots[0] = 4; }), "slots must be in [0, 4), got 4"));
  CHECK(contains(message([](Batch& b) { b.slots[1] = -1; }), "slots must be in [0, 4), got -1"));
  CHECK(contains(message([](Batch& b) { b.slots[1] = 3; }), "given to two sequences"));
  CHECK(contains(message([](Batch& b) { b.starts[0] = 1; }), "sequence_starts must begin with 0"));
  CHECK(contains(message([](Batch& b) { b.starts[2] = 4; }),
                 "sequence_starts must begin with 0 and end with 3"));
  CHECK(contains(message([](Batch& b) { b.starts[1] = 4; }), "sequence_starts of sequence 1"));
  CHECK(contains(message([](Batch& b) { b.starts.pop_back(); }), "sequence_starts must have shape [3]"));
  CHECK(
      contains(message([](Batch& b) { b.cached_lengths.pop_back(); }), "cached_lengths must have shape [2]"));
  CHECK(contains(message([](Batch& b) { b.cache_shape[3] = 16; }), "kv_cache must have shape"));
  CHECK(contains(message([](Batch& b) { b.cache_shape[2] = 1; }), "kv_cache must have shape"));
}

ORT_TEST(attention_refuses_a_constant_cache) {
  const std::vector<int64_t> shape = {1, 2, kShape.heads, kShape.padded_positions(),
                                      kShape.padded_head_dim()};
  const std::vector<float> cache(static_cast<size_t>(element_count(shape)));
  const Model model = Model()
                          .input("qkv", kFloat, {Model::kAny, 3 * kWidth})
                          .input("batch", kInt, {Model::kAny})
                          .weight<float>("kv_cache", kFloat, shape, cache)
                          .node(Node("CachedAttention", {"qkv", "batch", "batch", "batch", "kv_cache"}, "y")
                                    .set("heads", kShape.heads)
                                    .set("head_dim", kShape.head_dim)
                                    .set("positions", kShape.positions)
                                    .set("scale", 0.25f))
                          .output("y", kFloat, {Model::kAny, kWidth});
  CHECK(contains(error_of<ModelError>([&] { LoadedModel loaded(model); }), "kv_cache must be an input"));
}

ORT_TEST(poll_interrupts_a_run) {
  AttentionRun run(Batch{});
  bool stop = true;
  int asked = 0;
  const std::function<bool()> poll = [&] {
    ++asked;
    return stop;
  };
  run.model().context().poll = &poll;
  CHECK_THROWS(run.model().run(), Interrupted);
  CHECK_EQ(asked, 1);
  stop = false;
  run.model().run();  // an interrupted session runs again
  CHECK_EQ(asked, 2);
}

ORT_TEST(exceptions_of_the_poll_become_errors) {
  AttentionRun run(Batch{});
  const std::function<bool()> poll = []() -> bool { throw std::runtime_error("from the poll"); };
  run.model().context().poll = &poll;
  CHECK(contains(error_of<ModelError>([&] { run.model().run(); }), "from the poll"));
}

}  // namespace
}  // namespace gpt2fast::testing
