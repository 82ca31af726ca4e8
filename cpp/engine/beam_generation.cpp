// Beam search over slots: which beam's keys and values live where, round after round.
#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "decoding/beam_search.h"
#include "decoding/log_probabilities.h"
#include "decoding/logits_processors.h"
#include "engine/engine.h"
#include "engine/prompt_reader.h"
#include "gpt2fast/errors.h"

namespace gpt2fast {

namespace {

class BeamRun {
 public:
  BeamRun(EngineImpl& engine, const BeamRequest& request, const InterruptCheck& interrupted)
      : engine_(engine),
        request_(request),
        check_(interrupted),
        deadline_(request.stop.max_seconds > 0
                      ? Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(request.stop.max_seconds))
                      : Clock::time_point::max()),
        stop_([this] { return end_reason() != FinishReason::kLength || check_(); }),
        vocabulary_(static_cast<size_t>(engine.options().vocab_size)),
        processors_(request.sampling, request.stop.eos_token_ids, engine.options().vocab_size,
                    static_cast<int64_t>(request.prompt.size()) + request.stop.max_new_tokens),
        search_({.num_beams = request.num_beams,
                 .num_return_sequences = request.num_return_sequences,
                 .length_penalty = request.length_penalty,
                 .early_stopping = static_cast<EarlyStopping>(request.early_stopping),
                 .max_new_tokens = request.stop.max_new_tokens},
                request.stop.eos_token_ids, engine.options().vocab_size),
        working_(engine.pool()) {}

  ~BeamRun() {
    for (const int64_t slot : slots_) engine_.pool().release(slot, {});
  }
  BeamRun(const BeamRun&) = delete;
  BeamRun& operator=(const BeamRun&) = delete;

  std::vector<BeamResult> run() {
    FinishReason reason = FinishReason::kLength;
    try {
      search();
    } catch (const Interrupted&) {
      if (check_.fired()) throw;
      reason = end_reason();
      search_.end();
    }
    std::vector<BeamResult> results;
    for (BeamSearch::Hypothesis& best : search_.results()) {
      results.push_back({std::move(best.tokens), best.score, best.ended ? FinishReason::kEos : reason});
    }
    return results;
  }

 private:
  // Why the search ends before its time; kLength: it does not.
  FinishReason end_reason() const {
    if (request_.cancel && request_.cancel->cancelled()) return FinishReason::kCancelled;
    return Clock::now() >= deadline_ ? FinishReason::kTime : FinishReason::kLength;
  }

  void search() {
    slots_ = engine_.pool().acquire_many(request_.num_beams, stop_);
    read_prompt(engine_.stepper(), slots_[0], request_.prompt, 0, stop_,
                [this](std::span<const float>) { use_logits(1); });
    length_ = static_cast<int64_t>(request_.prompt.size());
    while (!search_.done()) {
      const auto extensions = search_.advance(log_probabilities_);
      if (search_.done()) break;
      move_beams(extensions);
      read_extensions(extensions);
    }
  }

  // Lets slots_[i] hold what beam i continues. A beam's first continuation stays in its slot; only further
  // ones are copied, to the slots of beams that nothing continues.
  void move_beams(std::span<const BeamSearch::Extension> extensions) {
    std::vector<int64_t> free = slots_;
    std::vector<int64_t> moved(extensions.size(), -1);
    std::vector<bool> taken(slots_.size(), false);
    for (size_t i = 0; i < extensions.size(); ++i) {
      const auto parent = static_cast<size_t>(extensions[i].parent);
      if (taken[parent]) continue;
      taken[parent] = true;
      moved[i] = slots_[parent];
      std::erase(free, moved[i]);
    }
    for (size_t i = 0; i < extensions.size(); ++i) {
      if (moved[i] >= 0) continue;
      moved[i] = free.back();
      free.pop_back();
      engine_.stepper().cache().copy(slots_[static_cast<size_t>(extensions[i].parent)], moved[i], length_);
    }
    moved.insert(moved.end(), free.begin(), free.end());
    slots_ = std::move(moved);
  }

  void read_extensions(std::span<const BeamSearch::Extension> extensions) {
    static constexpr int32_t kFirst = 0;
    std::vector<StepPart> parts;
    for (size_t i = 0; i < extensions.size(); ++i) {
      parts.push_back({slots_[i], length_, {&extensions[i].token, 1}, {&kFirst, 1}});
    }
    const std::lock_guard lock(engine_.stepper().mutex());
    engine_.stepper().step(parts, stop_);
    ++length_;
    use_logits(parts.size());
  }

  // The step's logits as processed log-probabilities, in the order that transformers has.
  void use_logits(size_t beams) {
    log_probabilities_.resize(beams * vocabulary_);
    for (size_t i = 0; i < beams; ++i) {
      const std::span scores = std::span(log_probabilities_).subspan(i * vocabulary_, vocabulary_);
      log_softmax(engine_.stepper().logits(static_cast<int64_t>(i)), scores);
      processors_.apply(scores, {request_.prompt, search_.tokens(static_cast<int32_t>(i))}, nullptr);
    }
  }

  EngineImpl& engine_;
  const BeamRequest& request_;
  RateLimitedCheck check_;
  const Clock::time_point deadline_;
  const InterruptCheck stop_;
  size_t vocabulary_;
  LogitsProcessors processors_;
  BeamSearch search_;
  SlotPool::Working working_;
  std::vector<int64_t> slots_;            // of beam i; those beyond the live beams are spare
  int64_t length_ = 0;                    // positions that every live beam's slot holds
  std::vector<float> log_probabilities_;  // [live beams, vocabulary]
};

}  // namespace

std::vector<BeamResult> EngineImpl::beam_search(const BeamRequest& request,
                                                const InterruptCheck& interrupted) {
  check_token_ids(request.prompt, options_.vocab_size);
  const int64_t total = static_cast<int64_t>(request.prompt.size()) + request.stop.max_new_tokens;
  if (total > options_.n_positions) {
    throw std::invalid_argument("prompt and max_new_tokens together (" + std::to_string(total) +
                                ") exceed the model's context window of " +
                                std::to_string(options_.n_positions));
  }
  if (request.stop.max_new_tokens < 1)
    throw std::invalid_argument("max_new_tokens must be at least 1 for beams");
  return BeamRun(*this, request, interrupted).run();
}

}  // namespace gpt2fast
