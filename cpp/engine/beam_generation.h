// A search with beams over slots: which beam's keys and values live where, round after round.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "decoding/beam_search.h"
#include "decoding/log_probabilities.h"
#include "decoding/logits_processors.h"
#include "engine/kv_cache.h"
#include "engine/participant.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

class BeamGeneration final : public Participant {
 public:
  // Throws std::invalid_argument for bad options.
  BeamGeneration(Request request, std::shared_ptr<const GenerationOptions> generation,
                 const EngineOptions& options);

  int64_t slots_needed() const override { return generation_->num_beams; }
  Admitted admit(Admission& admission) override;
  bool has_slot() const override { return !slots_.empty(); }
  void release(SlotPool& slots) override;
  bool decodes() override { return !reads_prompt(); }
  int64_t pending() override;
  void plan(StepPlan& plan) override;
  void use(const StepResults& results) override;
  bool done() const override { return search_.done(); }
  void end(FinishReason reason) override;

  // When done, the best first.
  std::vector<TextResult> results() const;

 private:
  struct BeamSlot {
    int64_t slot;
    std::vector<int32_t> tokens;  // whose keys and values it holds
  };

  // Positions that every live beam's slot holds.
  int64_t length() const { return slots_.empty() ? 0 : static_cast<int64_t>(slots_[0].tokens.size()); }
  bool reads_prompt() const { return length() < static_cast<int64_t>(request_.prompt.size()); }
  bool wants_logprobs() const { return generation_->logprobs >= 0; }
  void record_likeliest(std::span<const float> logits);
  Logprobs logprobs_of(BeamSearch::Hypothesis& hypothesis) const;
  void note_tokens(std::span<const PlannedPart> parts);
  void move_beams();
  void copy_beam(const BeamSlot& from, BeamSlot& to);

  const Request request_;
  const std::shared_ptr<const GenerationOptions> generation_;
  const size_t vocabulary_;
  LogitsProcessors processors_;
  BeamSearch search_;
  KvCache* cache_ = nullptr;
  std::vector<BeamSlot> slots_;                    // of the beams; those beyond the live beams are spare
  std::vector<BeamSearch::Extension> extensions_;  // the tokens that the next step reads, one a beam
  std::vector<float> log_probabilities_;           // [live beams, vocabulary]
  std::vector<float> own_log_probabilities_;       // the same before processors; empty unless wanted
  std::optional<TopLogprobs> top_logprobs_;        // while it holds slots
  std::vector<int32_t> top_ids_;                   // [rows of all rounds, generation_->logprobs]
  std::vector<float> top_values_;
  FinishReason end_reason_ = FinishReason::kLength;
};

}  // namespace gpt2fast
