// A loaded model's steps: the same numbers however a text is cut, the largest logits, and models that don't
// fit.
#include "engine/stepper.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/embedding.h"
#include "support/packed_weight.h"
#include "support/small_model.h"

namespace gpt2fast {
namespace {

using testing::contains;
using testing::count_different;
using testing::error_of;
using testing::small_model::options_of;
using Ids = std::vector<int32_t>;
using Floats = std::vector<float>;

const Ids kText = {3, 1, 4, 1, 5, 9};

Floats copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

// Logits and hidden state after `text`, which is read from `cached` on.
Floats results_after(Stepper& stepper, int64_t slot, size_t cached, size_t count) {
  const Ids last = {static_cast<int32_t>(count) - 1};
  const StepPart part{.slot = slot,
                      .cached_length = static_cast<int64_t>(cached),
                      .tokens = std::span(kText).subspan(cached, count),
                      .wanted = last};
  stepper.step({&part, 1}, {});
  Floats results = copy_of(stepper.logits(0));
  const Floats hidden = copy_of(stepper.hidden(0));
  results.insert(results.end(), hidden.begin(), hidden.end());
  return results;
}

ORT_TEST(a_text_gives_the_same_bits_however_it_is_cut) {
  Stepper stepper(options_of());
  const Floats whole = results_after(stepper, 0, 0, 6);
  CHECK_EQ(whole.size(), size_t{testing::small_model::kVocabulary + testing::small_model::kWidth});
  results_after(stepper, 1, 0, 2);
  results_after(stepper, 1, 2, 3);
  CHECK_EQ(count_different(results_after(stepper, 1, 5, 1), whole), 0);
}

ORT_TEST(rows_are_counted_over_all_parts) {
  Stepper stepper(options_of());
  const Floats first = results_after(stepper, 0, 0, 3), second = results_after(stepper, 0, 0, 5);
  const Ids third = {2}, fifth = {4};
  const StepPart parts[] = {
      {.slot = 2, .cached_length = 0, .tokens = std::span(kText).first(3), .wanted = third},
      {.slot = 1,
       .cached_length = 0,
       .tokens = std::span(kText).first(5),
       .wanted = fifth,
       .all_hidden = true}};
  stepper.step(parts, {});
  const auto row = [&](int64_t logits, int64_t hidden) {
    Floats results = copy_of(stepper.logits(logits));
    const Floats states = copy_of(stepper.hidden(hidden));
    results.insert(results.end(), states.begin(), states.end());
    return results;
  };
  CHECK_EQ(count_different(row(0, 0), first), 0);
  CHECK_EQ(count_different(row(1, 5), second), 0);  // behind the first part's one and four of its own
}

ORT_TEST(a_step_gives_the_largest_of_its_logits) {
  Stepper stepper(options_of());
  const Ids wanted = {0, 2};
  const StepPart part{.slot = 0, .cached_length = 0, .tokens = std::span(kText).first(3), .wanted = wanted};
  stepper.step({&part, 1}, {});
  for (int64_t row : {0, 1}) {
    CHECK_EQ(std::ranges::max(stepper.maxima(row)), std::ranges::max(stepper.logits(row)));
  }
}

ORT_TEST(scored_tokens_have_the_log_probabilities_that_their_logits_give) {
  Stepper stepper(options_of());
  const Ids all = {0, 1, 2, 3, 4}, next = {1, 4, 1, 5, 9}, last = {2};
  const std::span<const int32_t> text = std::span(kText).first(5);
  const StepPart plain{.slot = 0, .cached_length = 0, .tokens = text, .wanted = all};
  stepper.step({&plain, 1}, {});
  Floats expected;
  for (size_t i = 0; i < next.size(); ++i) {
    expected.push_back(log_probability(stepper.logits(static_cast<int64_t>(i)), next[i]));
  }
  const Floats logits = copy_of(stepper.logits(2));
  const StepPart parts[] = {{.slot = 1, .cached_length = 0, .tokens = text, .wanted = all, .scored = next},
                            {.slot = 2, .cached_length = 0, .tokens = text.first(3), .wanted = last},
                            {.slot = 3, .cached_length = 0, .tokens = text, .wanted = all, .scored = next}};
  stepper.step(parts, {});
  for (int64_t row = 0; row < 10; ++row) {
    CHECK_EQ(stepper.log_probability(row), expected[static_cast<size_t>(row % 5)]);
  }
  CHECK_EQ(count_different(copy_of(stepper.logits(0)), logits), 0);
  stepper.step({parts, 1}, {});
  CHECK_EQ(stepper.log_probability(4), expected[4]);
}

ORT_TEST(a_step_gives_what_goes_into_each_layer) {
  using testing::small_model::kLayers, testing::small_model::kWidth;
  Stepper whole(options_of());
  StepPart part{
      .slot = 0, .cached_length = 0, .tokens = kText, .wanted = {}, .all_hidden = true, .layer_inputs = true};
  whole.step({&part, 1}, {});
  // The embedding, which knows neither the text before a token nor the layers; 9 is the last token.
  const Floats last = copy_of(whole.layer_input(0, 5, 1));
  const Ids nine = {9}, place = {5};
  Floats embedding(kWidth);
  const testing::Aligned table(testing::small_model::table());
  const Floats positions = testing::small_model::positions();
  embed(WeightFormat::kInt8, table.data(), positions.data(), nine.data(), place.data(), 1, kWidth,
        embedding.data(), Serial());
  CHECK_EQ(count_different(last, embedding), 0);

  // The same bits in two pieces, behind another text that doesn't want them.
  Stepper cut(options_of());
  const StepPart beside{.slot = 1, .cached_length = 0, .tokens = std::span(kText).first(2), .wanted = {}};
  Floats pieces[kLayers];
  for (const auto& [first, count] : {std::pair{0, 4}, std::pair{4, 2}}) {
    part.cached_length = first;
    part.tokens = std::span(kText).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    const StepPart parts[] = {beside, part};
    cut.step(parts, {});
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const Floats piece = copy_of(cut.layer_input(layer, 2, count));
      pieces[layer].insert(pieces[layer].end(), piece.begin(), piece.end());
    }
  }
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    CHECK_EQ(count_different(pieces[layer], copy_of(whole.layer_input(layer, 0, 6))), 0);
  }
  CHECK(pieces[0] != pieces[1]);
}

ORT_TEST(a_stopped_step_leaves_the_next_ones_as_they_are) {
  Stepper stepper(options_of());
  const Floats expected = results_after(stepper, 0, 0, 6);
  const StepPart part{.slot = 1, .cached_length = 0, .tokens = kText, .wanted = {}};
  CHECK_THROWS(stepper.step({&part, 1}, [] { return true; }), Interrupted);
  int layers = 0;
  CHECK_THROWS(stepper.step({&part, 1}, [&] { return ++layers == 2; }), Interrupted);
  CHECK_EQ(layers, 2);
  CHECK_EQ(count_different(results_after(stepper, 1, 0, 6), expected), 0);
}

ORT_TEST(a_model_of_other_sizes_is_refused) {
  const auto error = [&](const std::function<void(EngineOptions&)>& change) {
    EngineOptions options = options_of();
    change(options);
    return error_of<ModelError>([&] { Stepper stepper(options); });
  };
  CHECK_EQ(error([](EngineOptions&) {}), "");
  CHECK(contains(error([](EngineOptions& o) { o.vocab_size = 41; }),
                 "dimension 1 of the model's logits should be 41 as the configuration says"));
  CHECK(contains(error([](EngineOptions& o) { o.head_dim = 16; }), "hidden should be 32"));
  CHECK(contains(error([](EngineOptions& o) { o.n_layer = 3; }),
                 "dimension 2 of the model's kv_cache should be 3"));
  CHECK(contains(error([](EngineOptions& o) { o.n_positions = 65; }), "dimension 1 of the model's kv_cache"));
}

ORT_TEST(logits_without_a_row_for_each_token_are_refused) {
  EngineOptions options = options_of();
  options.model = testing::in_memory(testing::Model()
                                         .input("x", ElementType::kFloat32, {40})
                                         .node(testing::Node("Identity", {"x"}, "logits", ""))
                                         .output("logits", ElementType::kFloat32, {40}));
  CHECK(contains(error_of<ModelError>([&] { Stepper stepper(options); }),
                 "dimension 1 of the model's logits should be 40"));
}

ORT_TEST(a_graph_without_the_largest_logits_is_refused) {
  EngineOptions options = options_of();
  options.model = testing::in_memory(testing::Model()
                                         .input("x", ElementType::kFloat32, {1, 40})
                                         .node(testing::Node("Identity", {"x"}, "logits", ""))
                                         .output("logits", ElementType::kFloat32, {1, 40}));
  CHECK(contains(error_of<ModelError>([&] { Stepper stepper(options); }),
                 "the model has no input or output named logits_maxima"));
}

}  // namespace
}  // namespace gpt2fast
