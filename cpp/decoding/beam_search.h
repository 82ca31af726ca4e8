// Beam search over abstract sequences: it decides which tokens extend which beams, and which hypotheses are
// finished.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "decoding/candidates.h"
#include "decoding/stop_matcher.h"
#include "gpt2fast/generation_options.h"

namespace gpt2fast {

struct BeamSearchOptions {
  int32_t num_beams = 1;
  int32_t num_return_sequences = 1;  // at most num_beams
  double length_penalty = 1.0;       // score of a hypothesis: log-probability / length^length_penalty
  EarlyStopping early_stopping = EarlyStopping::kFalse;
};

// Holds tokens and scores only. Each round the caller computes the log-probabilities that follow every live
// beam (log_softmax, then the processors, as transformers does), calls advance(), and makes beam i's cache a
// copy of the cache of beam extensions[i].parent, ready for the new token. Tokens and scores equal those of
// transformers' beam search. A token that completes a stop string ends its beam as an end-of-text token does,
// but no further continuations are kept for it: a round may end more beams than others replace. Where bans
// leave fewer than num_beams continuations, fewer beams live on, and there may be fewer results().
class BeamSearch {
 public:
  struct Extension {
    int32_t parent;  // index of the beam of the previous round that this one continues
    int32_t token;
  };
  struct Output {
    std::vector<int32_t> tokens;  // with the token that ended it
    // For each token, if log-probabilities to report were given: its own, and the row that it was in, counted
    // over all rounds.
    std::vector<float> reported;
    std::vector<int64_t> rows;
    std::optional<StopMatcher> stop_matcher;
  };
  struct Hypothesis : Output {
    float score = 0;                           // log-probability / length^length_penalty
    FinishReason ended = FinishReason::kNone;  // kEos, kStop, or neither
  };

  // Throws std::invalid_argument when an option is out of range.
  BeamSearch(const BeamSearchOptions& options, const StopOptions& stop, int64_t vocab_size);

  // 1 before the first round (the prompt), at most num_beams after.
  int32_t live_beams() const { return static_cast<int32_t>(beams_.size()); }
  // The output tokens of a live beam.
  std::span<const int32_t> tokens(int32_t beam) const { return beams_[static_cast<size_t>(beam)].tokens; }

  // Takes log_probabilities [live_beams(), vocab_size], and either none or as many to report with the tokens:
  // the model's own, as they were before processors. Returns one extension for each new live beam, best
  // first, or none when done; they are valid until the next call.
  std::span<const Extension> advance(std::span<const float> log_probabilities,
                                     std::span<const float> reported = {});

  bool done() const { return done_; }

  // Ends the search now: the live beams become hypotheses.
  void end();

  // The num_return_sequences best hypotheses, best first. Before done(), those that are finished so far.
  std::vector<Hypothesis> results() const;

 private:
  struct Beam : Output {
    float score = 0;  // log-probability
  };
  struct Continuation {
    float score;
    int32_t parent;
    int32_t token;
    FinishReason ended = FinishReason::kNone;
  };

  void find_continuations(std::span<const float> log_probabilities);
  FinishReason end_of(const Continuation& next) const;
  void append(const Continuation& next, std::span<const float> reported, Output& output) const;
  bool improves(float score) const { return !full() || finished_.back().score < score; }
  void finish(Hypothesis hypothesis);
  void extend(std::span<const float> reported);
  bool can_improve() const;
  bool full() const { return finished_.size() == static_cast<size_t>(options_.num_beams); }
  float normalized(float score, int64_t length) const;

  BeamSearchOptions options_;
  StopOptions stop_;
  int64_t vocab_size_;
  int64_t length_ = 0;     // output tokens of each live beam
  int64_t rows_seen_ = 0;  // rows of the rounds before this one
  bool done_ = false;
  std::vector<Beam> beams_;
  std::vector<Beam> next_beams_;
  std::vector<Extension> extensions_;
  std::vector<Continuation> continuations_;  // those of all live beams, best first
  std::vector<Hypothesis> finished_;         // at most num_beams, best first
  Candidates candidates_;
};

}  // namespace gpt2fast
