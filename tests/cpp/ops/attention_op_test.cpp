// CachedAttention gives what its kernel gives, writes the cache in place, and refuses batches outside the
// cache.
#include <algorithm>
#include <functional>
#include <stdexcept>
#include <vector>

#include "kernels/attention.h"
#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;
constexpr ElementType kInt = ElementType::kInt32;
constexpr ElementType kBytes = ElementType::kUInt8;

constexpr int64_t kCacheSlots = 4;
constexpr int64_t kLayer = 1;
constexpr CacheShape kShape{
    .layers = 3, .heads = 2, .head_dim = 8, .positions = 20, .format = CacheFormat::kFloat32};
constexpr int64_t kWidth = kShape.heads * kShape.head_dim;

Model attention_model() {
  return Model()
      .input("qkv", kFloat, {Model::kAny, 3 * kWidth})
      .input("sequence_starts", kInt, {Model::kAny})
      .input("slots", kInt, {Model::kAny})
      .input("cached_lengths", kInt, {Model::kAny})
      .input("kv_cache", kBytes, std::vector<int64_t>(6, Model::kAny))
      .input("hidden_rows", kInt, {Model::kAny})
      .node(Node("CachedAttention",
                 {"qkv", "sequence_starts", "slots", "cached_lengths", "kv_cache", "hidden_rows"}, "y")
                .set("layer", kLayer)
                .set("layers", kShape.layers)
                .set("heads", kShape.heads)
                .set("head_dim", kShape.head_dim)
                .set("positions", kShape.positions)
                .set("scale", 0.25f))
      .output("y", kFloat, {Model::kAny, kWidth});
}

std::vector<int64_t> dimensions(int64_t slots) {
  const auto sizes = kShape.dimensions(slots);
  return {sizes.begin(), sizes.end()};
}

struct Batch {
  std::vector<int32_t> starts = {0, 2, 3};
  std::vector<int32_t> slots = {3, 1};
  std::vector<int32_t> cached_lengths = {0, 4};
  std::vector<int32_t> hidden_rows = {2, 0, 1};
  int64_t tokens = 3;
  std::vector<int64_t> cache_shape = dimensions(kCacheSlots);
};

// A model and the buffers of one batch.
class AttentionRun {
 public:
  explicit AttentionRun(const Batch& batch)
      : batch_(batch),
        qkv_(ramp(static_cast<size_t>(batch.tokens * 3 * kWidth), 1)),
        cache_(ramp(static_cast<size_t>(element_count(batch.cache_shape)) / sizeof(float), 2)),
        y_(static_cast<size_t>(batch.tokens * kWidth)),
        model_(attention_model(), 2) {
    const auto bind = [&](const char* name, std::vector<int32_t>& values) {
      model_.input(name, values, kInt, {static_cast<int64_t>(values.size())});
    };
    model_.input("qkv", qkv_, kFloat, {batch.tokens, 3 * kWidth});
    bind("sequence_starts", batch_.starts);
    bind("slots", batch_.slots);
    bind("cached_lengths", batch_.cached_lengths);
    bind("hidden_rows", batch_.hidden_rows);
    model_.input("kv_cache", cache_, kBytes, batch.cache_shape);
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
                                     .cache = cache.data() + kLayer * kShape.layer_stride() / sizeof(float),
                                     .y = expected.data()};
  const std::vector<float> before = cache;
  Workspace workspace;
  cached_attention(arguments, Serial(), workspace.reserve(attention_workspace(arguments, 1, kernels())),
                   kernels());
  CHECK(run.y() == expected);
  CHECK(run.cache() == cache);
  CHECK(cache != before);
}

ORT_TEST(attention_computes_the_hidden_rows) {
  const auto rows = [](std::vector<int32_t> hidden_rows) {
    Batch batch;
    batch.hidden_rows = std::move(hidden_rows);
    AttentionRun run(batch);
    run.model().run();
    return run.y();
  };
  const std::vector<float> all = rows({0, 1, 2});
  const std::vector<float> some = rows({2, 1});
  CHECK(std::equal(all.begin() + kWidth, all.end(), some.begin() + kWidth));
  CHECK(std::all_of(some.begin(), some.begin() + kWidth, [](float value) { return value == 0; }));
  const std::vector<float> none = rows({});
  CHECK(std::all_of(none.begin(), none.end(), [](float value) { return value == 0; }));
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
  CHECK(contains(message([](Batch& b) { b.starts.pop_back(); }), "sequence_starts must have 3 elements"));
  CHECK(contains(message([](Batch& b) { b.cached_lengths.pop_back(); }),
                 "cached_lengths must have 2 elements"));
  CHECK(contains(message([](Batch& b) { b.hidden_rows[1] = 3; }), "hidden_rows must be in [0, 3), got 3"));
  CHECK(contains(message([](Batch& b) { b.hidden_rows[0] = -1; }), "hidden_rows must be in [0, 3), got -1"));
  CHECK(contains(message([](Batch& b) { b.cache_shape[5] -= 1; }), "kv_cache must be rows of"));
  CHECK(
      contains(message([](Batch& b) { b.cache_shape = {3, 1, 1, 1, 32, 16}; }), "kv_cache must be rows of"));
}

ORT_TEST(a_slot_of_the_largest_sizes_has_bytes_that_fit_64_bits) {
  constexpr int64_t kHeads = 1 << 12, kHeadDim = 1 << 12;
  const auto message = [](int64_t layers) {
    std::vector<float> qkv, cache(16), y;
    std::vector<int32_t> none, starts{0};
    return error_of<ModelError>([&] {
      LoadedModel model(
          Model()
              .input("qkv", kFloat, {Model::kAny, 3 * kHeads * kHeadDim})
              .input("starts", kInt, {Model::kAny})
              .input("slots", kInt, {Model::kAny})
              .input("kv_cache", kBytes, std::vector<int64_t>(6, Model::kAny))
              .node(Node("CachedAttention", {"qkv", "starts", "slots", "slots", "kv_cache"}, "y")
                        .set("layer", int64_t{0})
                        .set("layers", layers)
                        .set("heads", kHeads)
                        .set("head_dim", kHeadDim)
                        .set("positions", int64_t{1} << 24)
                        .set("scale", 1.0f))
              .output("y", kFloat, {Model::kAny, kHeads * kHeadDim}));
      model.input("qkv", qkv, kFloat, {0, 3 * kHeads * kHeadDim});
      model.input("starts", starts, kInt, {1});
      model.input("slots", none, kInt, {0});
      model.input("kv_cache", cache, kBytes, {1, 1, 1, 1, 1, 64});
      model.output("y", y, {0, kHeads * kHeadDim});
      model.run();
    });
  };
  CHECK(contains(message(1 << 11), "kv_cache must be rows of 4611686018427387904 elements"));
  CHECK(contains(message(1 << 12), "layers must be in [1, 2048], got 4096"));
}

ORT_TEST(attention_refuses_a_constant_cache) {
  const std::vector<int64_t> shape = dimensions(1);
  const std::vector<uint8_t> cache(static_cast<size_t>(element_count(shape)));
  const Model model = Model()
                          .input("qkv", kFloat, {Model::kAny, 3 * kWidth})
                          .input("batch", kInt, {Model::kAny})
                          .weight<uint8_t>("kv_cache", kBytes, shape, cache)
                          .node(Node("CachedAttention", {"qkv", "batch", "batch", "batch", "kv_cache"}, "y")
                                    .set("layer", kLayer)
                                    .set("layers", kShape.layers)
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
