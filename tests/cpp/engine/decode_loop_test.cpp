// Decoding allocates nothing, whoever runs the loop and whether or not its tokens are reported.
#include <memory>
#include <vector>

#include "engine/live_sequence.h"
#include "engine/scheduler.h"
#include "engine/stepper.h"
#include "support/counted_allocations.h"
#include "support/ort_testing.h"
#include "support/small_model.h"

namespace gpt2fast {
namespace {

using namespace testing::small_model;

using Tokens = std::vector<int32_t>;

// Notes how many allocations there have been when each step begins and ends.
class CountedStepper final : public StepRunner {
 public:
  explicit CountedStepper(const EngineOptions& options) : stepper_(options) { counts_.reserve(1000); }

  KvCache& cache() override { return stepper_.cache(); }
  int64_t max_tokens() const override { return stepper_.max_tokens(); }
  int64_t max_logits_rows() const override { return stepper_.max_logits_rows(); }
  void step(std::span<const StepPart> parts, const StopCheck& stop) override {
    counts_.push_back(allocations());
    stepper_.step(parts, stop);
    counts_.push_back(allocations());
  }
  const Parallel& parallel() const override { return stepper_.parallel(); }
  std::span<const float> logits(int64_t row) const override { return stepper_.logits(row); }
  float log_probability(int64_t row) const override { return stepper_.log_probability(row); }
  std::span<const float> maxima(int64_t row) const override { return stepper_.maxima(row); }
  std::span<const float> hidden(int64_t row) const override { return stepper_.hidden(row); }
  std::span<const float> layer_input(int64_t layer, int64_t first, int64_t tokens) const override {
    return stepper_.layer_input(layer, first, tokens);
  }

  int64_t steps() const { return static_cast<int64_t>(counts_.size()) / 2; }
  // Between the beginning of one step and the end of the last.
  int64_t allocations_from(int64_t step) const {
    return counts_.back() - counts_[2 * static_cast<size_t>(step)];
  }

 private:
  Stepper stepper_;
  std::vector<int64_t> counts_;
};

GenerationOptions plain() {
  GenerationOptions options;
  options.stop.max_new_tokens = 40;
  return options;
}

GenerationOptions everything() {
  GenerationOptions options = plain();
  options.sampling.do_sample = true;
  options.sampling.top_k = 10;
  options.sampling.top_p = 0.9;
  options.sampling.repetition_penalty = 1.2f;
  options.stop.stop_strings = {"never that"};
  options.stop.token_bytes = letters();
  options.logprobs = 3;
  return options;
}

// What texts of 40 tokens allocate from their fourth step on: the first ones read the prompts and bind
// buffers of their shapes.
int64_t allocations_of(bool attended, bool streamed) {
  EngineOptions options = options_of();
  options.read_ahead = 100;  // nobody reads along
  CountedStepper stepper(options);
  Scheduler scheduler(stepper, options);
  const auto submit = [&](const GenerationOptions& generation, bool own_thread) {
    const auto shared = std::make_shared<const GenerationOptions>(generation);
    std::vector<std::unique_ptr<Participant>> texts;
    for (const Tokens& prompt : {Tokens{1, 2, 3}, Tokens{4}}) {
      texts.push_back(std::make_unique<LiveSequence>(Request{.prompt = prompt, .seed = 1, .hook = nullptr},
                                                     shared, options, streamed, scheduler.waker()));
    }
    CallOptions call;
    call.streamed = streamed;
    auto made = std::make_shared<Call>(std::move(texts), call, own_thread);
    scheduler.submit(made, true);
    return made;
  };
  GenerationOptions sampled = everything();
  if (streamed) sampled.logprobs = -1;  // of which the mailbox keeps no count beforehand
  std::vector<std::shared_ptr<Call>> calls;
  calls.reserve(2);
  calls.push_back(submit(sampled, true));
  // With a second call, which nobody attends, the scheduler's thread makes the steps of both.
  if (!attended) calls.push_back(submit(plain(), false));
  for (const auto& call : calls) {
    scheduler.wait(*call, false, {});
    for (const auto& text : call->participants) {
      CHECK_EQ(static_cast<LiveSequence&>(*text).result().tokens.size(), size_t{40});
    }
  }
  CHECK_EQ(stepper.steps(), int64_t{40});
  CHECK(allocations() > 0);  // the count works
  return stepper.allocations_from(3);
}

ORT_TEST(the_decode_loop_allocates_nothing) {
  CHECK_EQ(allocations_of(true, false), int64_t{0});
  CHECK_EQ(allocations_of(false, false), int64_t{0});
  CHECK_EQ(allocations_of(true, true), int64_t{0});
  CHECK_EQ(allocations_of(false, true), int64_t{0});
}

}  // namespace
}  // namespace gpt2fast
