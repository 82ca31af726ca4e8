// The engine behind the public interface: owns the model, the slots and the loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/live_sequence.h"
#include "engine/slot_pool.h"
#include "engine/stepper.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// Asks a caller's InterruptCheck at most every few milliseconds: it may have to take a lock of the host
// language.
class RateLimitedCheck {
 public:
  // `last`, when it was asked last: kept by callers whose work goes on over several of these objects.
  RateLimitedCheck(const InterruptCheck& check, Clock::time_point& last) : check_(check), last_(last) {}
  explicit RateLimitedCheck(const InterruptCheck& check) : RateLimitedCheck(check, own_last_) {}
  RateLimitedCheck(const RateLimitedCheck&) = delete;
  RateLimitedCheck& operator=(const RateLimitedCheck&) = delete;

  bool operator()();
  // Whether it has said so: the caller's interrupt goes before every other reason to end.
  bool fired() const { return fired_; }

 private:
  const InterruptCheck& check_;
  Clock::time_point own_last_;
  Clock::time_point& last_;
  bool fired_ = false;
};

class EngineImpl final : public Engine, public std::enable_shared_from_this<EngineImpl> {
 public:
  explicit EngineImpl(const EngineOptions& options);

  const EngineOptions& options() const override { return options_; }
  int64_t n_embd() const override { return stepper_.width(); }
  int64_t cache_bytes_per_sequence() const override;
  void check_prefix(const Prefix& prefix) const override;
  std::unique_ptr<Run> start(std::vector<Request> requests) override;
  std::vector<BeamResult> beam_search(const BeamRequest& request, const InterruptCheck& interrupted) override;
  void forward(const ForwardRequest& request, const InterruptCheck& interrupted) override;
  void logits(const LogitsRequest& request, const InterruptCheck& interrupted) override;
  std::vector<Logprobs> score(const std::vector<std::span<const int32_t>>& sequences,
                              const std::vector<int64_t>& first, int32_t top,
                              const InterruptCheck& interrupted) override;
  std::vector<std::vector<float>> score_continuations(
      std::span<const int32_t> prompt, const std::vector<std::span<const int32_t>>& continuations,
      const Prefix* prefix, const InterruptCheck& interrupted) override;
  void clear_prefix_cache() override { pool_.clear_idle(); }

  // Lets a slot that holds `cached_length` tokens of the prompt hold what the prefix (null: none) has of it,
  // where that is more; returns how many tokens of the prompt the slot then holds, at most all but one.
  int64_t restore_prefix(const Prefix* prefix, std::span<const int32_t> prompt, int64_t slot,
                         int64_t cached_length);

  Stepper& stepper() { return stepper_; }
  SlotPool& pool() { return pool_; }

 private:
  EngineOptions options_;
  mutable Stepper stepper_;
  SlotPool pool_;
};

// A set of requests advancing together: see engine.cpp, where the loop is.
class GenerationRun final : public Run {
 public:
  GenerationRun(std::shared_ptr<EngineImpl> engine, std::vector<Request> requests);
  ~GenerationRun() override;

  std::vector<Progress> advance(const InterruptCheck& interrupted) override;
  void finish(const InterruptCheck& interrupted) override;
  void cancel() noexcept override { cancelled_ = true; }
  void close() override;

  int64_t size() const override { return static_cast<int64_t>(sequences_.size()); }
  std::vector<int32_t> output(int64_t index) const override;
  FinishReason finish_reason(int64_t index) const override;
  std::optional<int64_t> safe_bytes(int64_t index) const override;
  int64_t cached_tokens(int64_t index) const override;
  Logprobs logprobs(int64_t index) const override;

 private:
  // One sequence's place in the step being made.
  struct Place {
    size_t sequence;
    int64_t drafts;     // draft tokens at the end of its part
    int64_t first_row;  // of logits; -1: none wanted yet
  };

  void step(const InterruptCheck& interrupted);
  void admit(const InterruptCheck& interrupted);
  void run_step(const InterruptCheck& stop);
  bool admit_one(LiveSequence& sequence, const InterruptCheck& interrupted);
  void plan(const InterruptCheck& stop);
  void plan_sequence(size_t index, int64_t& room, int64_t& rows, const InterruptCheck& stop);
  void use_results();
  void end_expired();
  void end_unfinished(FinishReason reason);
  void release(LiveSequence& sequence);
  bool done() const;

  std::shared_ptr<EngineImpl> engine_;
  mutable std::mutex mutex_;
  std::atomic<bool> cancelled_ = false;
  std::vector<std::unique_ptr<LiveSequence>> sequences_;
  std::vector<int64_t> changed_;  // indices of sequences changed by this step
  std::vector<StepPart> parts_;
  std::vector<Place> places_;
  std::vector<int32_t>
      draft_tokens_;             // [sequences, 1 + drafts]: last token and drafts, where drafts are used
  std::vector<int32_t> wanted_;  // the parts' wanted rows, one after another
  Clock::time_point last_interrupt_check_;
  bool has_deadlines_ = false;
};

}  // namespace gpt2fast
