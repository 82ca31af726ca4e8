// The engine as its callers see it: a loaded model, requests in, tokens out.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gpt2fast/cache_format.h"
#include "gpt2fast/choice_hook.h"
#include "gpt2fast/generation_options.h"
#include "gpt2fast/token_history.h"

namespace gpt2fast {

struct EngineOptions {
  std::string model_path;
  int64_t n_layer = 0;
  int64_t n_head = 0;
  int64_t head_dim = 0;
  int64_t n_positions = 0;
  int64_t vocab_size = 0;
  CacheFormat cache_format = CacheFormat::kFloat16;
  int threads = 1;
  int64_t max_sequences = 32;      // slots of the KV cache
  int64_t max_step_tokens = 128;   // longer prompts are cut into several steps
  int64_t prefix_cache_bytes = 0;  // what finished sequences may keep for later prompts; 0: nothing
};

class Engine;

// Keys and values of some leading tokens, kept by a caller to start many sequences from. Immutable.
struct Prefix {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> layers;  // per layer [2, heads, tokens, head_dim]
};

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  SamplingOptions sampling;
  StopOptions stop;
  int32_t logprobs = -1;                 // -1: none; k: the chosen token's and the k best
  int32_t prompt_lookup_num_tokens = 0;  // draft tokens looked up in the sequence itself; 0: off
  bool slide = false;                    // at the end of the context window, go on with its newer half
  bool use_prefix_cache = true;
  std::shared_ptr<const Prefix> prefix;  // used as far as the prompt begins with its tokens; null: none
  std::shared_ptr<Engine>
      assistant;  // a smaller model with the same vocabulary that drafts tokens; null: none
  int32_t num_assistant_tokens = 0;  // drafted at once by the assistant
  std::shared_ptr<ChoiceHook> hook;  // null: none
};

// Log-probabilities of one sequence's output under the model's own distribution.
struct Logprobs {
  std::vector<float> chosen;      // [tokens]
  std::vector<int32_t> top_ids;   // [tokens, k], best first
  std::vector<float> top_values;  // [tokens, k]
};

// Asked a few times per step, on the calling thread; true stops the call with Interrupted.
using InterruptCheck = std::function<bool()>;

// What became of one request of a run since the call before.
struct Progress {
  int64_t index = 0;
  std::vector<int32_t> new_tokens;
  FinishReason finish_reason = FinishReason::kNone;
  std::optional<int64_t> safe_bytes;  // as Run has it
};

// Requests being generated. Slots are given back when their sequence finishes or the run is destroyed.
class Run {
 public:
  virtual ~Run() = default;
  // Steps until a request gains tokens or finishes: those that did, each token once. Empty only when all are
  // finished.
  virtual std::vector<Progress> advance(const InterruptCheck& interrupted) = 0;
  virtual void finish(const InterruptCheck& interrupted) = 0;
  // From any thread: unfinished requests end with kCancelled within a step.
  virtual void cancel() noexcept = 0;
  virtual void close() = 0;

  virtual int64_t size() const = 0;
  virtual std::vector<int32_t> output(int64_t index) const = 0;
  virtual FinishReason finish_reason(int64_t index) const = 0;
  // Leading bytes of the output that no stop string can take back; at the end, all that are kept. Without
  // stop strings nothing is counted: all of them.
  virtual std::optional<int64_t> safe_bytes(int64_t index) const = 0;
  virtual int64_t cached_tokens(int64_t index) const = 0;
  virtual Logprobs logprobs(int64_t index) const = 0;
};

// Keys and values of a batch of equally long sequences: per layer [2, batch, heads, tokens, head_dim].
struct Past {
  int64_t batch = 0;
  int64_t tokens = 0;
  std::vector<const float*> layers;
};

struct ForwardRequest {
  std::vector<std::span<const int32_t>> sequences;  // each at least one token
  std::optional<Past> past;
  std::function<float*(int64_t sequence)> hidden;  // where [tokens, n_embd] of a sequence goes
  std::vector<float*> new_past;  // per layer [2, batch, heads, past + tokens, head_dim], or empty
};

struct LogitsRequest {
  std::vector<std::span<const int32_t>> sequences;
  std::vector<std::span<const int64_t>> rows;  // per sequence, ascending; empty vector: every token
  // Called once per wanted row with its scores [vocab_size], valid during the call.
  std::function<void(int64_t sequence, int64_t row, std::span<const float> scores)> take;
};

// Ends a call from another thread.
class CancelFlag {
 public:
  void cancel() noexcept { cancelled_ = true; }
  bool cancelled() const noexcept { return cancelled_; }

 private:
  std::atomic<bool> cancelled_ = false;
};

struct BeamRequest {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;  // its processors apply; nothing is sampled
  StopOptions stop;          // max_new_tokens, eos_token_ids, max_seconds
  int32_t num_beams = 1;
  int32_t num_return_sequences = 1;
  double length_penalty = 1.0;
  int32_t early_stopping =
      0;  // 0: when improvement is unlikely; 1: at num_beams hypotheses; 2: when none is possible
  std::shared_ptr<const CancelFlag> cancel;  // null: none
};

struct BeamResult {
  std::vector<int32_t> tokens;
  float score = 0;  // log-probability / length^length_penalty
  FinishReason finish_reason = FinishReason::kNone;
};

// The distribution over [logits.size()] tokens that a request's next token is drawn from, its output so far
// given; without do_sample, the softmax of the processed scores.
std::vector<float> next_token_distribution(const Request& request, std::span<const int32_t> output,
                                           std::span<const float> logits);

class Engine {
 public:
  static std::shared_ptr<Engine> create(const EngineOptions& options);
  virtual ~Engine() = default;

  virtual const EngineOptions& options() const = 0;
  virtual int64_t n_embd() const = 0;
  virtual int64_t cache_bytes_per_sequence() const = 0;

  // Throws std::invalid_argument unless the arrays have this model's sizes.
  virtual void check_prefix(const Prefix& prefix) const = 0;
  virtual std::unique_ptr<Run> start(std::vector<Request> requests) = 0;
  // The num_return_sequences best hypotheses, best first.
  virtual std::vector<BeamResult> beam_search(const BeamRequest& request,
                                              const InterruptCheck& interrupted) = 0;
  virtual void forward(const ForwardRequest& request, const InterruptCheck& interrupted) = 0;
  virtual void logits(const LogitsRequest& request, const InterruptCheck& interrupted) = 0;
  // Log-probability of every token from `first` (>= 1) on, given those before it, and the `top` likeliest
  // there.
  virtual std::vector<Logprobs> score(const std::vector<std::span<const int32_t>>& sequences,
                                      const std::vector<int64_t>& first, int32_t top,
                                      const InterruptCheck& interrupted) = 0;
  // Log-probability of every token of each continuation, given the prompt and those before it. The prompt is
  // read once, what `prefix` (null: none) and the prefix cache have of it not at all.
  virtual std::vector<std::vector<float>> score_continuations(
      std::span<const int32_t> prompt, const std::vector<std::span<const int32_t>>& continuations,
      const Prefix* prefix, const InterruptCheck& interrupted) = 0;
  virtual void clear_prefix_cache() = 0;
};

}  // namespace gpt2fast
