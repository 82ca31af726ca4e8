// What each decoding option adds to a step, over the 50257 logits of GPT-2's vocabulary: microseconds per
// token, the minimum of several runs, for logits as a model gives them (few tokens hold the mass) and for
// nearly equal ones.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "decoding/log_probabilities.h"
#include "decoding/prompt_lookup.h"
#include "decoding/stop_matcher.h"
#include "decoding/token_chooser.h"

using namespace gpt2fast;

namespace {

constexpr int64_t kVocabulary = 50257;
constexpr size_t kPromptLength = 512, kOutputLength = 128;

template <typename Work>
double microseconds(Work work) {
  constexpr int kRuns = 40, kCalls = 10;
  double least = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < kCalls; ++call) work();
    const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start;
    least = std::min(least, elapsed.count() / kCalls);
  }
  return least;
}

struct Variant {
  std::string_view name;
  SamplingOptions options;
  bool logprob = false;
};

template <typename Change>
Variant sampled(std::string_view name, Change change) {
  Variant variant{name, {}};
  variant.options.do_sample = true;
  variant.options.temperature = 0.8f;
  change(variant.options);
  return variant;
}

template <typename Change>
Variant greedy(std::string_view name, Change change) {
  Variant variant{name, {}};
  change(variant.options);
  return variant;
}

std::vector<Variant> variants() {
  const auto penalties = [](SamplingOptions& o) {
    o.repetition_penalty = 1.2f, o.presence_penalty = 0.1f, o.frequency_penalty = 0.1f;
  };
  return {
      greedy("greedy", [](auto&) {}),
      {"greedy, logprobs", {}, true},
      greedy("greedy, penalties", penalties),
      greedy("greedy, no_repeat_ngram_size 3", [](auto& o) { o.no_repeat_ngram_size = 3; }),
      greedy("greedy, suppress_tokens, logit_bias, bad_words",
             [](auto& o) {
               o.suppress_tokens = {1, 2}, o.logit_bias = {{3, 1.0f}}, o.bad_words = {{4}, {5, 6}};
             }),
      sampled("temperature", [](auto&) {}),
      sampled("top_k 50", [](auto& o) { o.top_k = 50; }),
      sampled("top_k 5000", [](auto& o) { o.top_k = 5000; }),
      sampled("top_p 0.9", [](auto& o) { o.top_p = 0.9; }),
      sampled("min_p 0.05", [](auto& o) { o.min_p = 0.05; }),
      sampled("typical_p 0.9", [](auto& o) { o.typical_p = 0.9; }),
      sampled("top_k 50, top_p 0.9, penalties", [&](auto& o) { o.top_k = 50, o.top_p = 0.9, penalties(o); }),
  };
}

std::vector<int32_t> random_tokens(size_t count, std::mt19937& engine) {
  std::uniform_int_distribution<int32_t> any(0, kVocabulary - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = any(engine);
  return tokens;
}

void time_choices(const std::vector<float>& logits) {
  std::mt19937 engine(2);
  const auto prompt = random_tokens(kPromptLength, engine), output = random_tokens(kOutputLength, engine);
  for (const Variant& variant : variants()) {
    TokenChooser chooser(std::make_shared<const SamplingOptions>(variant.options), 0, {}, kVocabulary, 1024);
    const double time =
        microseconds([&] { chooser.choose(logits, {prompt, output}, nullptr, variant.logprob); });
    std::printf("  %-48s %7.1f\n", variant.name.data(), time);
  }
  TopLogprobs top(kVocabulary, 5);
  std::printf("  %-48s %7.1f\n", "the 5 best log-probabilities", microseconds([&] { top.find(logits); }));
  std::vector<float> scores(kVocabulary);
  std::printf("  %-48s %7.1f\n", "log_softmax (a beam)", microseconds([&] { log_softmax(logits, scores); }));
}

// Per token, over texts of 1000 random tokens.
void time_text_structures() {
  constexpr size_t kTokens = 1000;
  std::mt19937 engine(3);
  const auto tokens = random_tokens(kTokens, engine);
  const double lookup = microseconds([&] {
    PromptLookup draft(8, kTokens);
    for (const int32_t& token : tokens) {
      draft.append({&token, 1});
      draft.propose(8);
    }
  });
  std::printf("prompt lookup that finds nothing                   %7.3f\n", lookup / kTokens);
  const std::vector<std::string> stops = {"\n\n", "User:", "<|endoftext|>"};
  const double stop = microseconds([&] {
    StopMatcher matcher(stops, false);
    for (size_t i = 0; i < kTokens; ++i) matcher.feed(" word");
  });
  std::printf("three stop strings                                 %7.3f\n", stop / kTokens);
}

}  // namespace

int main() {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> peaked(kVocabulary), flat(kVocabulary);
  for (float& logit : peaked) logit = 2 * normal(engine) - 30;
  for (const int32_t token : random_tokens(300, engine)) peaked[static_cast<size_t>(token)] += 12;
  for (float& logit : flat) logit = 0.3f * normal(engine);
  std::printf("microseconds a token, %s\n", isa_name(active_isa()).data());
  std::printf("logits as a model gives them\n");
  time_choices(peaked);
  std::printf("nearly equal logits\n");
  time_choices(flat);
  time_text_structures();
}
