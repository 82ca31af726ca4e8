// The engine over a small random model: no allocation in the decode loop, slots, cancelling, drafts,
// prefixes.
#include "gpt2fast/engine.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/stepper.h"
#include "gpt2fast/weights.h"
#include "support/counted_allocations.h"
#include "support/ort_testing.h"

namespace gpt2fast {
namespace {

using testing::Model;
using testing::Node;
using testing::ramp;

constexpr int64_t kLayers = 2;
constexpr int64_t kHeads = 2;
constexpr int64_t kHeadDim = 8;
constexpr int64_t kWidth = kHeads * kHeadDim;
constexpr int64_t kInner = 24;
constexpr int64_t kVocabulary = 40;
constexpr int64_t kPositions = 64;

// Adds a packed weight of reproducible values; returns its name.
std::string packed(Model& model, const std::string& name, int64_t in_features, int64_t out_features,
                   int seed) {
  const std::vector<float> plain = ramp(static_cast<size_t>(in_features * out_features), seed);
  std::vector<uint8_t> bytes(packed_weight_bytes(WeightFormat::kInt8, in_features, out_features));
  pack_weight(WeightFormat::kInt8, plain.data(), out_features, 1, in_features, out_features, 1, bytes.data());
  model.weight<uint8_t>(name, ElementType::kUInt8, {static_cast<int64_t>(bytes.size())}, bytes);
  return name;
}

std::string vector(Model& model, const std::string& name, int64_t size, int seed) {
  model.weight<float>(name, ElementType::kFloat32, {size}, ramp(static_cast<size_t>(size), seed));
  return name;
}

Node linear(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
            int64_t in_features, int64_t out_features) {
  return Node("Linear", inputs, outputs)
      .set("in_features", in_features)
      .set("out_features", out_features)
      .set("format", int64_t{2})
      .set("activation", int64_t{0})
      .set("epsilon", 1e-5f);
}

void add_layer(Model& model, int64_t layer, const std::string& x, const std::string& y) {
  const std::string p = "h" + std::to_string(layer) + ".";
  const int seed = 10 * static_cast<int>(layer);
  const std::string gamma = vector(model, p + "gamma", kWidth, seed + 1);
  const std::string beta = vector(model, p + "beta", kWidth, seed + 2);
  model.node(linear({x, packed(model, p + "qkv", kWidth, 3 * kWidth, seed + 3),
                     vector(model, p + "qkv_bias", 3 * kWidth, seed + 4), gamma, beta},
                    {p + "q"}, kWidth, 3 * kWidth));
  std::vector<std::string> attended = {p + "q", "sequence_starts", "slots", "cached_lengths", "kv_cache"};
  if (layer == kLayers - 1) attended.push_back("hidden_rows");
  model.node(Node("CachedAttention", attended, p + "a")
                 .set("layer", layer)
                 .set("layers", kLayers)
                 .set("heads", kHeads)
                 .set("head_dim", kHeadDim)
                 .set("positions", kPositions)
                 .set("scale", 0.35f));
  model.node(linear({p + "a", packed(model, p + "proj", kWidth, kWidth, seed + 5),
                     vector(model, p + "proj_bias", kWidth, seed + 6), "", "", x},
                    {p + "x"}, kWidth, kWidth));
  model.node(linear({p + "x", packed(model, p + "fc", kWidth, kInner, seed + 7),
                     vector(model, p + "fc_bias", kInner, seed + 8), gamma, beta},
                    {p + "f"}, kWidth, kInner));
  model.node(linear({p + "f", packed(model, p + "mlp", kInner, kWidth, seed + 9),
                     vector(model, p + "mlp_bias", kWidth, seed + 1), "", "", p + "x"},
                    {y}, kInner, kWidth));
}

Model small_model() {
  Model model;
  for (const char* name : {"input_ids", "positions", "sequence_starts", "slots", "cached_lengths",
                           "hidden_rows", "logits_rows"}) {
    model.input(name, ElementType::kInt32, {Model::kAny});
  }
  model.input("kv_cache", ElementType::kUInt8, {Model::kAny, 1, kLayers, kHeads, 2, Model::kAny});
  const std::string table = packed(model, "table", kWidth, kVocabulary, 77);
  model.weight<float>("wpe", ElementType::kFloat32, {kPositions, kWidth},
                      ramp(static_cast<size_t>(kPositions * kWidth), 5));
  model.node(Node("Embed", {"input_ids", "positions", table, "wpe"}, "x0")
                 .set("width", kWidth)
                 .set("vocabulary", kVocabulary)
                 .set("format", int64_t{2}));
  add_layer(model, 0, "x0", "x1");
  add_layer(model, 1, "x1", "x2");
  model.node(Node("Gather", {"x2", "hidden_rows"}, "kept", ""));
  model.node(Node("LayerNorm",
                  {"kept", vector(model, "ln_f.g", kWidth, 3), vector(model, "ln_f.b", kWidth, 4)}, "hidden")
                 .set("epsilon", 1e-5f));
  model.node(Node("Gather", {"hidden", "logits_rows"}, "rows", ""));
  model.node(linear({"rows", table}, {"logits", "logits_maxima"}, kWidth, kVocabulary));
  model.output("logits", ElementType::kFloat32, {Model::kAny, kVocabulary});
  model.output("logits_maxima", ElementType::kFloat32, {Model::kAny, kMaximaLanes});  // of fewer than 256
  model.output("hidden", ElementType::kFloat32, {Model::kAny, kWidth});
  return model;
}

EngineOptions options_of(const testing::TemporaryFolder& folder, int64_t max_sequences = 4,
                         int64_t max_step_tokens = 16) {
  return {.model_path = folder.write("model.onnx", small_model().encoded()),
          .n_layer = kLayers,
          .n_head = kHeads,
          .head_dim = kHeadDim,
          .n_positions = kPositions,
          .vocab_size = kVocabulary,
          .cache_format = CacheFormat::kFloat32,
          .threads = 1,
          .max_sequences = max_sequences,
          .max_step_tokens = max_step_tokens,
          .prefix_cache_bytes = 1 << 20};
}

class LoadedEngine {
 public:
  explicit LoadedEngine(int64_t max_sequences = 4, int64_t max_step_tokens = 16)
      : engine_(Engine::create(options_of(folder_, max_sequences, max_step_tokens))) {}
  Engine* operator->() const { return engine_.get(); }
  std::shared_ptr<Engine> get() const { return engine_; }

  std::vector<int32_t> generate(Request request, const InterruptCheck& interrupted = {}) const {
    std::vector<Request> requests{std::move(request)};
    const auto run = engine_->start(std::move(requests));
    run->finish(interrupted);
    return run->output(0);
  }

 private:
  testing::TemporaryFolder folder_;
  std::shared_ptr<Engine> engine_;
};

Request request(std::vector<int32_t> prompt, int64_t max_new_tokens) {
  Request made;
  made.prompt = std::move(prompt);
  made.stop.max_new_tokens = max_new_tokens;
  return made;
}

// Each token is one letter.
std::shared_ptr<const TokenBytes> letters() {
  std::string data;
  std::vector<int32_t> offsets{0};
  for (int32_t i = 0; i < kVocabulary; ++i) {
    data.push_back(static_cast<char>('A' + i));
    offsets.push_back(i + 1);
  }
  return std::make_shared<TokenBytes>(data, offsets, std::vector<int32_t>{});
}

std::vector<int32_t> long_prompt() {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 30; ++i) prompt.push_back((i * 7) % kVocabulary);
  return prompt;
}

ORT_TEST(the_decode_loop_allocates_nothing) {
  const LoadedEngine engine;
  Request sampled = request({1, 2, 3}, 40);
  sampled.sampling.do_sample = true;
  sampled.sampling.top_k = 10;
  sampled.sampling.top_p = 0.9;
  sampled.sampling.repetition_penalty = 1.2f;
  sampled.stop.stop_strings = {"never that"};
  sampled.stop.token_bytes = letters();
  std::vector<Request> requests{request({1, 2, 3}, 40), request({4}, 40), sampled};
  const auto run = engine->start(std::move(requests));
  // The first steps read the prompts and bind buffers of their shapes.
  for (int i = 0; i < 3; ++i) run->advance({});
  const int64_t before = allocations();
  CHECK(before > 0);  // the count works
  run->finish({});
  // Each sequence that ends changes the shapes of the steps that follow: two changes, at most, of 8 small
  // values.
  CHECK_EQ(run->output(0).size(), size_t{40});
  CHECK_EQ(allocations() - before - 1, int64_t{0});
}

ORT_TEST(advance_reports_each_token_once_and_how_it_ended) {
  const LoadedEngine engine(4, 7);  // the long prompt takes several steps
  Request drafted = request(long_prompt(), 25);
  drafted.prompt_lookup_num_tokens = 6;  // several tokens in a step
  Request at_eos = request({5, 6}, 10);
  at_eos.stop.eos_token_ids = {engine.generate(at_eos)[3]};
  const std::vector<Request> requests{drafted, at_eos, request({1, 2, 3}, 9)};
  const std::vector expected{FinishReason::kLength, FinishReason::kEos, FinishReason::kLength};
  const auto run = engine->start(requests);
  std::vector<std::vector<int32_t>> reported(requests.size());
  std::vector<FinishReason> reasons(requests.size(), FinishReason::kNone);
  for (auto progress = run->advance({}); !progress.empty(); progress = run->advance({})) {
    for (const Progress& one : progress) {
      const auto i = static_cast<size_t>(one.index);
      CHECK(!one.new_tokens.empty());
      CHECK(reasons[i] == FinishReason::kNone);
      reported[i].insert(reported[i].end(), one.new_tokens.begin(), one.new_tokens.end());
      reasons[i] = one.finish_reason;
    }
  }
  for (size_t i = 0; i < requests.size(); ++i) CHECK(reported[i] == run->output(static_cast<int64_t>(i)));
  CHECK(reasons == expected);
}

ORT_TEST(a_prompt_of_several_steps_is_read_in_one_call) {
  const LoadedEngine engine(4, 7);
  const auto run = engine->start({request(long_prompt(), 5)});
  const std::vector<Progress> progress = run->advance({});
  CHECK_EQ(progress.size(), size_t{1});
  CHECK(progress[0].new_tokens == run->output(0));
  CHECK_EQ(run->output(0).size(), size_t{1});
}

ORT_TEST(cutting_the_prompt_does_not_change_the_output) {
  const LoadedEngine whole(4, 64);
  const LoadedEngine cut(4, 7);
  const auto expected = whole.generate(request(long_prompt(), 20));
  CHECK_EQ(expected.size(), size_t{20});
  CHECK(cut.generate(request(long_prompt(), 20)) == expected);
}

ORT_TEST(drafts_and_prefixes_do_not_change_the_output) {
  const LoadedEngine engine;
  const LoadedEngine assistant(2, 5);
  const auto expected = engine.generate(request(long_prompt(), 25));
  Request looked_up = request(long_prompt(), 25);
  looked_up.prompt_lookup_num_tokens = 6;
  CHECK(engine.generate(looked_up) == expected);
  Request assisted = request(long_prompt(), 25);
  assisted.assistant = assistant.get();
  assisted.num_assistant_tokens = 5;
  CHECK(engine.generate(assisted) == expected);

  auto prefix = std::make_shared<Prefix>();
  const auto prompt = long_prompt();
  prefix->tokens.assign(prompt.begin(), prompt.begin() + 12);
  prefix->layers.assign(kLayers, std::vector<float>(2 * 12 * kWidth));
  std::vector<float> hidden(12 * kWidth);
  ForwardRequest forward{.sequences = {prefix->tokens}, .past = {}, .hidden = {}, .new_past = {}};
  forward.hidden = [&](int64_t) { return hidden.data(); };
  for (auto& layer : prefix->layers) forward.new_past.push_back(layer.data());
  engine->forward(forward, {});
  Request continued = request(prompt, 25);
  continued.prefix = prefix;
  continued.use_prefix_cache = false;
  CHECK(engine.generate(continued) == expected);
}

ORT_TEST(eos_stop_strings_and_length_end_a_sequence) {
  const LoadedEngine engine;
  const auto free = engine.generate(request({5, 6}, 10));
  const auto finish = [&](Request made) {
    std::vector<Request> requests{std::move(made)};
    auto run = engine->start(std::move(requests));
    run->finish({});
    return run;
  };
  CHECK(finish(request({5, 6}, 10))->finish_reason(0) == FinishReason::kLength);
  Request at_eos = request({5, 6}, 10);
  at_eos.stop.eos_token_ids = {free[3]};
  const auto ended = finish(at_eos);
  CHECK(ended->finish_reason(0) == FinishReason::kEos);
  CHECK(ended->output(0).back() == free[3]);
  Request at_string = request({5, 6}, 10);
  at_string.stop.stop_strings = {
      std::string{static_cast<char>('A' + free[2]), static_cast<char>('A' + free[3])}};
  at_string.stop.token_bytes = letters();
  const auto stopped = finish(at_string);
  CHECK(stopped->finish_reason(0) == FinishReason::kStop);
  CHECK(stopped->safe_bytes(0) <= 2);
}

ORT_TEST(safe_bytes_are_counted_where_a_stop_string_could_take_some_back) {
  const LoadedEngine engine;
  const auto free = engine.generate(request({5, 6}, 4));
  Request watched = request({5, 6}, 4);
  // Begins with the second token, and goes on with what is not in the vocabulary.
  watched.stop.stop_strings = {std::string{static_cast<char>('A' + free[1]), '!'}};
  watched.stop.token_bytes = letters();
  std::vector<Request> requests{request({5, 6}, 4), watched};
  const auto run = engine->start(std::move(requests));
  run->advance({});
  const std::vector<Progress> progress = run->advance({});
  CHECK(!progress[0].safe_bytes.has_value());
  CHECK_EQ(progress[1].safe_bytes.value(), int64_t{1});
  run->finish({});
  CHECK(!run->safe_bytes(0).has_value());
  CHECK_EQ(run->safe_bytes(1).value(), int64_t{4});
}

ORT_TEST(cancelling_ends_what_runs) {
  const LoadedEngine engine;
  std::vector<Request> requests{request({1}, 60), request({2}, 60)};
  const auto run = engine->start(std::move(requests));
  run->advance({});
  run->cancel();
  run->finish({});
  CHECK(run->finish_reason(0) == FinishReason::kCancelled);
  CHECK_EQ(run->output(0).size(), size_t{1});
}

ORT_TEST(advance_reports_what_was_cancelled) {
  const LoadedEngine engine;
  const auto run = engine->start({request({1}, 60), request({2}, 1)});
  CHECK_EQ(run->advance({}).size(), size_t{2});
  run->cancel();
  const std::vector<Progress> progress = run->advance({});
  CHECK_EQ(progress.size(), size_t{1});
  CHECK_EQ(progress[0].index, int64_t{0});
  CHECK(progress[0].new_tokens.empty());
  CHECK(progress[0].finish_reason == FinishReason::kCancelled);
  CHECK(run->advance({}).empty());
}

ORT_TEST(an_interrupt_goes_up_and_the_engine_lives_on) {
  const LoadedEngine engine;
  const auto expected = engine.generate(request({1, 2}, 30));
  Request endless = request({1, 2}, 1'000'000'000);
  endless.slide = true;
  // Asked every few milliseconds only, over steps that take microseconds.
  int asked = 0;
  const InterruptCheck at_the_third = [&asked] { return ++asked == 3; };
  CHECK_THROWS(engine.generate(endless, at_the_third), Interrupted);
  CHECK(engine.generate(request({1, 2}, 30)) == expected);
}

ORT_TEST(bad_requests_are_refused) {
  const LoadedEngine engine;
  const auto start = [&](Request made) {
    std::vector<Request> requests{std::move(made)};
    return engine->start(std::move(requests));
  };
  CHECK_THROWS(start(request({}, 1)), std::invalid_argument);
  CHECK_THROWS(start(request({kVocabulary}, 1)), std::invalid_argument);
  CHECK_THROWS(start(request({-1}, 1)), std::invalid_argument);
  CHECK_THROWS(start(request({1}, -1)), std::invalid_argument);
  CHECK_THROWS(start(request(std::vector<int32_t>(kPositions + 1, 1), 1)), std::invalid_argument);
  Request without_bytes = request({1, 2}, 3);
  without_bytes.stop.stop_strings = {"A"};
  CHECK_THROWS(start(without_bytes), std::invalid_argument);
  Request strange = request({1, 2}, 3);
  auto prefix = std::make_shared<Prefix>();
  prefix->tokens = {1};
  prefix->layers.assign(kLayers, std::vector<float>(3));
  strange.prefix = prefix;
  CHECK_THROWS(start(strange), std::invalid_argument);
}

ORT_TEST(beams_of_one_are_greedy) {
  const LoadedEngine engine;
  BeamRequest beams;
  beams.prompt = {3, 1, 4};
  beams.stop.max_new_tokens = 12;
  const auto results = engine->beam_search(beams, {});
  CHECK_EQ(results.size(), size_t{1});
  CHECK(results[0].tokens == engine.generate(request({3, 1, 4}, 12)));
}

// One of four kinds of work, as integers to compare.
std::vector<int32_t> work(const LoadedEngine& engine, int kind) {
  std::vector<int32_t> prompt = long_prompt();
  prompt.resize(static_cast<size_t>(9 + kind));
  switch (kind % 4) {
    case 0:
      return engine.generate(request(prompt, 20));
    case 1: {
      Request sampled = request(prompt, 20);
      sampled.sampling.do_sample = true;
      sampled.sampling.seed = static_cast<uint64_t>(kind);
      return engine.generate(sampled);
    }
    case 2: {
      BeamRequest beams;
      beams.prompt = prompt;
      beams.stop.max_new_tokens = 10;
      beams.num_beams = 2;
      return engine->beam_search(beams, {})[0].tokens;
    }
    default: {
      const std::vector<Logprobs> scores = engine->score({prompt}, {1}, 0, {});
      std::vector<int32_t> bits;
      for (const float score : scores[0].chosen) bits.push_back(std::bit_cast<int32_t>(score));
      return bits;
    }
  }
}

ORT_TEST(threads_that_share_an_engine_get_what_each_gets_alone) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 3;
  const LoadedEngine alone;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < kThreads; ++i) expected.push_back(work(alone, i));

  const LoadedEngine shared(3, 7);  // fewer slots than threads, which wait for one another
  std::vector<std::vector<int32_t>> found(kThreads * kRounds);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round)
        found[static_cast<size_t>(i * kRounds + round)] = work(shared, i);
    });
  }
  threads.emplace_back([&] {
    for (int round = 0; round < 20; ++round) shared->clear_prefix_cache();
  });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == expected[i / kRounds]);
}

ORT_TEST(another_thread_cancels) {
  const LoadedEngine engine;
  Request endless = request({1, 2}, 1'000'000'000);
  endless.slide = true;
  std::vector<Request> requests{endless, endless};
  const auto run = engine->start(std::move(requests));
  std::atomic<int> layers = 0;  // begun: the check is asked at most once in each
  std::thread other([&] {
    while (layers <= kLayers) std::this_thread::yield();
    run->cancel();
  });
  run->finish([&] { return ++layers, false; });
  other.join();
  CHECK(run->finish_reason(1) == FinishReason::kCancelled);
  CHECK(!run->output(0).empty());
}

ORT_TEST(a_step_gives_the_largest_of_its_logits) {
  const testing::TemporaryFolder folder;
  Stepper stepper(options_of(folder));
  const std::vector<int32_t> tokens = {1, 2, 3}, wanted = {0, 2};
  const StepPart part{.slot = 0, .cached_length = 0, .tokens = tokens, .wanted = wanted};
  stepper.step({&part, 1}, {});
  for (int64_t row : {0, 1})
    CHECK_EQ(std::ranges::max(stepper.maxima(row)), std::ranges::max(stepper.logits(row)));
}

}  // namespace
}  // namespace gpt2fast
