// The arrays that a step gives the graph, and where its results lie.
#include "engine/step_buffers.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/step_runner.h"
#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

using Ids = std::vector<int32_t>;

constexpr int64_t kVocabulary = 300;
constexpr int64_t kWidth = 4;
constexpr StepBuffers::Limits kLimits = {
    .tokens = 8, .sequences = 3, .rows = 5, .width = kWidth, .layers = 1, .vocabulary = kVocabulary};
constexpr CacheShape kShape = {
    .layers = 1, .heads = 1, .head_dim = 4, .positions = 64, .format = CacheFormat::kFloat32};
constexpr std::array kInputs = {"input_ids",      "positions",   "sequence_starts", "slots",
                                "cached_lengths", "hidden_rows", "logits_rows"};

// Notes a step's inputs. Row r of every output holds r + 1 in its first element.
class Recorder final : public Kernel {
 public:
  explicit Recorder(std::map<std::string, Ids>& inputs) : inputs_(inputs) {}
  void compute(const NodeContext& node) override {
    for (size_t i = 0; i < kInputs.size(); ++i) {
      const Input input = node.input(i, kInputs[i], ElementType::kInt32);
      inputs_[kInputs[i]].assign(input.as<int32_t>(), input.as<int32_t>() + input.elements);
    }
    const auto cache = node.input(kInputs.size(), "kv_cache", ElementType::kUInt8);
    inputs_["kv_cache"] = {static_cast<int32_t>(cache.elements)};
    const auto rows = [&](const char* name) { return static_cast<int64_t>(inputs_[name].size()); };
    write(node, 0, rows("logits_rows"), kVocabulary);
    write(node, 1, rows("logits_rows"), maxima_floats(kVocabulary));
    write(node, 2, rows("hidden_rows"), kWidth);
  }

 private:
  static void write(const NodeContext& node, size_t index, int64_t rows, int64_t width) {
    auto* y = static_cast<float*>(node.output(index, std::array<int64_t, 2>{rows, width}));
    std::fill_n(y, rows * width, 0.0f);
    for (int64_t r = 0; r < rows; ++r) y[r * width] = static_cast<float>(r + 1);
  }

  std::map<std::string, Ids>& inputs_;
};

class RecordedSteps {
 public:
  RecordedSteps() : domain_("gpt2fast"), cache_(kShape, 3) {
    const InputSpec integers{ElementType::kInt32};
    std::vector<InputSpec> specs(kInputs.size(), integers);
    specs.push_back({ElementType::kUInt8});
    domain_.add(std::make_unique<CustomOp>(
        "Recorder", specs, 2, [this](const NodeInfo&) { return std::make_unique<Recorder>(inputs_); }));
    Model model;
    std::vector<std::string> names(kInputs.begin(), kInputs.end());
    for (const std::string& name : names) model.input(name, ElementType::kInt32, {Model::kAny});
    names.emplace_back("kv_cache");
    model.input("kv_cache", ElementType::kUInt8, {Model::kAny, 1, 1, 1, 2, Model::kAny});
    model.node(Node("Recorder", names, std::vector<std::string>{"logits", "logits_maxima", "hidden"}));
    for (const char* name : {"logits", "logits_maxima", "hidden"}) {
      model.output(name, ElementType::kFloat32, {Model::kAny, Model::kAny});
    }
    session_ = std::make_unique<Session>(in_memory(model), domain_);
    buffers_ = std::make_unique<StepBuffers>(*session_, cache_, kLimits);
  }

  void step(const std::vector<StepPart>& parts) {
    buffers_->fill(parts);
    session_->run(buffers_->binding());
  }
  const Ids& input(const char* name) { return inputs_[name]; }
  StepBuffers& buffers() { return *buffers_; }
  const KvCache& cache() const { return cache_; }

 private:
  std::map<std::string, Ids> inputs_;
  CustomOpDomain domain_;
  KvCache cache_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<StepBuffers> buffers_;
};

const Ids kTokens = {10, 11, 12, 13, 14, 15, 16, 17};

std::span<const int32_t> tokens(size_t begin, size_t count) {
  return std::span(kTokens).subspan(begin, count);
}

ORT_TEST(parts_become_the_graphs_arrays) {
  RecordedSteps steps;
  const Ids first = {0, 2}, third = {1};
  steps.step({{.slot = 2, .cached_length = 5, .tokens = tokens(0, 3), .wanted = first},
              {.slot = 0, .cached_length = 0, .tokens = tokens(3, 1), .wanted = {}},
              {.slot = 1, .cached_length = 9, .tokens = tokens(4, 2), .wanted = third, .all_hidden = true}});
  CHECK(steps.input("input_ids") == (Ids{10, 11, 12, 13, 14, 15}));
  CHECK(steps.input("positions") == (Ids{5, 6, 7, 0, 9, 10}));
  CHECK(steps.input("sequence_starts") == (Ids{0, 3, 4, 6}));
  CHECK(steps.input("slots") == (Ids{2, 0, 1}));
  CHECK(steps.input("cached_lengths") == (Ids{5, 0, 9}));
  CHECK(steps.input("hidden_rows") == (Ids{0, 2, 4, 5}));  // tokens
  CHECK(steps.input("logits_rows") == (Ids{0, 1, 3}));     // among the hidden rows
  CHECK(steps.input("kv_cache") == (Ids{static_cast<int32_t>(3 * steps.cache().bytes_per_slot())}));
}

ORT_TEST(scored_parts_have_their_hidden_states_last) {
  RecordedSteps steps;
  const Ids last = {1}, both = {0, 1}, one = {2};
  const Ids next = {15, 7}, after = {299};
  steps.step({{.slot = 0, .cached_length = 0, .tokens = tokens(0, 2), .wanted = both, .scored = next},
              {.slot = 1, .cached_length = 0, .tokens = tokens(2, 2), .wanted = last},
              {.slot = 2, .cached_length = 0, .tokens = tokens(4, 3), .wanted = one, .scored = after}});
  CHECK(steps.input("hidden_rows") == (Ids{3, 0, 1, 6}));
  CHECK(steps.input("logits_rows") == (Ids{0}));
  const ScoredTokens scored = steps.buffers().scored();
  CHECK_EQ(scored.rows, 3);
  CHECK_EQ(scored.width, kWidth);
  CHECK_EQ(scored.vocabulary, kVocabulary);
  CHECK(Ids(scored.sums.columns, scored.sums.columns + 3) == (Ids{15, 7, 299}));
  for (int64_t row = 0; row < 3; ++row) {
    CHECK_EQ(scored.hidden[row * kWidth], static_cast<float>(row + 2));
    scored.sums.outputs[row] = static_cast<float>(10 * row);
    for (int64_t block = 0; block < 2; ++block) {
      scored.sums.maxima[2 * row + block] = static_cast<float>(10 * row + block);
      scored.sums.sums[2 * row + block] = static_cast<float>(100 * row + block);
    }
  }
  const SummedLogits third = steps.buffers().summed(2);
  CHECK_EQ(third.wanted, 20.0f);
  CHECK(std::ranges::equal(third.maxima, std::array{20.0f, 21.0f}));
  CHECK(std::ranges::equal(third.sums, std::array{200.0f, 201.0f}));
  steps.step({{.slot = 0, .cached_length = 0, .tokens = tokens(0, 2), .wanted = last}});
  CHECK_EQ(steps.buffers().scored().rows, 0);
}

ORT_TEST(rows_are_where_the_graph_writes_them) {
  RecordedSteps steps;
  const Ids wanted = {0, 1, 2};
  steps.step({{.slot = 0, .cached_length = 0, .tokens = tokens(0, 3), .wanted = wanted, .all_hidden = true}});
  for (int64_t row = 0; row < 3; ++row) {
    const auto value = static_cast<float>(row + 1);
    CHECK_EQ(steps.buffers().logits(row).size(), static_cast<size_t>(kVocabulary));
    CHECK_EQ(steps.buffers().logits(row)[0], value);
    CHECK_EQ(steps.buffers().maxima(row).size(), size_t{2 * kMaximaLanes});
    CHECK_EQ(steps.buffers().maxima(row)[0], value);
    CHECK_EQ(steps.buffers().hidden(row).size(), static_cast<size_t>(kWidth));
    CHECK_EQ(steps.buffers().hidden(row)[0], value);
  }
}

ORT_TEST(steps_of_any_size_follow_each_other) {
  RecordedSteps steps;
  const Ids last = {0};
  for (const size_t count : {8, 1, 1, 5}) {
    const Ids wanted = {static_cast<int32_t>(count) - 1};
    steps.step({{.slot = 1, .cached_length = 3, .tokens = tokens(0, count), .wanted = wanted}});
    CHECK(steps.input("input_ids") == Ids(kTokens.begin(), kTokens.begin() + static_cast<int64_t>(count)));
    CHECK(steps.input("hidden_rows") == wanted);
    CHECK(steps.input("logits_rows") == last);
  }
}

ORT_TEST(a_step_beyond_the_limits_is_refused) {
  RecordedSteps steps;
  const auto error = [&](const std::vector<StepPart>& parts) {
    return error_of<std::logic_error>([&] { steps.buffers().fill(parts); });
  };
  const Ids nine(9, 1), six(6, 0);
  CHECK(contains(error({{.tokens = nine, .wanted = {}}}),
                 "a step of 9 tokens, 0 rows and 1 sequences is larger"));
  CHECK(contains(error({{.tokens = tokens(0, 6), .wanted = six}}), "6 tokens, 6 rows"));
  CHECK(contains(error(std::vector<StepPart>(4, {.tokens = tokens(0, 1), .wanted = {}})), "4 sequences"));
}

}  // namespace
}  // namespace gpt2fast::testing
