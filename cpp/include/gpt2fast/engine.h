// The engine as its callers see it: a loaded model, calls in, tokens out.
#pragma once

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
#include "gpt2fast/model_files.h"
#include "gpt2fast/token_history.h"

namespace gpt2fast {

// Runs a function while the lock of the host language is held, if there is such a lock.
using WithHostLock = std::function<void(const std::function<void()>&)>;

struct EngineOptions {
  ModelFiles model;
  int64_t n_layer = 0;
  int64_t n_head = 0;
  int64_t head_dim = 0;
  int64_t n_positions = 0;
  int64_t vocab_size = 0;
  CacheFormat cache_format = CacheFormat::kFloat16;
  int threads = 1;
  // Slots of the KV cache: texts that share steps.
  int64_t max_sequences = 32;
  // Longer prompts are cut into several steps.
  int64_t max_step_tokens = 128;
  // Memory for keys and values of finished sequences, which later prompts reuse; 0: none are kept.
  int64_t prefix_cache_bytes = 0;
  // Texts that may wait for a slot, each beam counted as one; a call that finds as many waiting is refused.
  // -1: any number.
  int64_t max_waiting = -1;
  // Tokens by which a streamed text may be ahead of its reader.
  int64_t read_ahead = 16;
  // While texts are being streamed, prompts lengthen a step at most by this factor.
  double decode_slowdown = 2.0;
  // Called around hooks; empty: they need no lock.
  WithHostLock with_host_lock;
};

// One text to generate, or one search over beams.
struct Request {
  std::vector<int32_t> prompt;  // at least one token
  uint64_t seed = 0;
  std::shared_ptr<ChoiceHook> hook;  // null: none
};

// Log-probabilities of one sequence's tokens under the model's own distribution.
struct Logprobs {
  std::vector<float> chosen;      // [tokens]
  std::vector<int32_t> top_ids;   // [tokens, k], best first
  std::vector<float> top_values;  // [tokens, k]
};

// Called a few times per step on the thread of a waiting caller; true ends that caller's call with
// Interrupted.
using InterruptCheck = std::function<bool()>;

// What a streamed text has gained since its reader last took it.
struct Progress {
  int64_t index = 0;
  std::vector<int32_t> new_tokens;
  FinishReason finish_reason = FinishReason::kNone;
  // Leading bytes of the output that no later stop string can remove; unset without stop strings.
  std::optional<int64_t> safe_bytes;
  Logprobs logprobs;  // of the new tokens; empty unless requested
};

// The result of one request.
struct TextResult {
  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kNone;
  // How many bytes of the output to keep; unset without stop strings: all of them.
  std::optional<int64_t> kept_bytes;
  int64_t cached_tokens = 0;  // prompt tokens whose keys and values were in the cache
  Logprobs logprobs;          // empty unless requested
  float score = 0;            // for beams: log-probability / length^length_penalty
  // Seconds from the call until the text got its slot, which 0 says it never did, and until its first and its
  // last token was chosen; 0 without tokens. For beams all are 0.
  double started_seconds = 0;
  double first_token_seconds = 0;
  double last_token_seconds = 0;
};

// Tells an event loop, or a thread, which of many calls have something for their callers.
class ReadyQueue {
 public:
  virtual ~ReadyQueue() = default;
  static std::shared_ptr<ReadyQueue> create();
  // Readable while there are ready calls that take() has not returned. Throws std::runtime_error where the
  // system has no such descriptors.
  virtual int file_descriptor() = 0;
  // The keys of the calls that became ready, each once.
  virtual std::vector<uint64_t> take() = 0;
  // Blocks until take() has something to return or close() was called. Throws Interrupted when `interrupted`
  // returns true.
  virtual void wait(const InterruptCheck& interrupted) = 0;
  virtual void close() = 0;
};

// How a call is served.
struct CallOptions {
  // Higher goes first; each level is worth one second of waiting.
  int32_t priority = 0;
  // Counted from the call, waiting included; 0: no limit.
  double max_seconds = 0;
  // Whether it is cancelled from the beginning: its texts end before a step reads them.
  bool cancelled = false;
  // Whether tokens are reported as they are chosen: take() and next(), else results() alone.
  bool streamed = false;
  // Gets `key` when there is something to take; null: a thread waits in wait() or next().
  std::shared_ptr<ReadyQueue> ready_queue;
  uint64_t key = 0;
  // Whether the engine, if it sleeps, sleeps on until begin(), so that calls that come together share steps
  // from the first one on. An engine at work takes the call at its next step.
  bool held = false;
};

// The work of one caller inside the engine. Its texts share steps with those of all other callers. It is
// given up when the object is destroyed.
class CallHandle {
 public:
  virtual ~CallHandle() = default;

  // Blocks until everything is done; rethrows what went wrong. After Interrupted the call is given up.
  virtual void wait(const InterruptCheck& interrupted) = 0;
  // Wakes the engine for a held call. wait() and close() do so, too.
  virtual void begin() noexcept = 0;
  // Whether everything is done: results may be read. Rethrows what went wrong. Never blocks.
  virtual bool done() = 0;
  // May be called from any thread. Unfinished texts end with kCancelled within a step.
  virtual void cancel() noexcept = 0;
  // Hands over what the request points to, for as long as the engine uses it.
  virtual void keep(std::shared_ptr<const void> memory) = 0;
  // Cancels, and returns when the engine no longer uses anything that the call refers to; in a hook or signal
  // handler that the engine may be waiting for, at once.
  virtual void close() noexcept = 0;
};

class GenerationCall : public CallHandle {
 public:
  // For streamed calls: takes what there is, and never blocks.
  virtual std::vector<Progress> take() = 0;
  // Blocks until there is something; empty only when all texts are finished.
  virtual std::vector<Progress> next(const InterruptCheck& interrupted) = 0;
  // Valid when done(). One result for each request, or for beams the best hypotheses of each request, the
  // best first.
  virtual std::vector<std::vector<TextResult>> results() = 0;
};

// Keys and values of a batch of equally long sequences: per layer [2, batch, heads, tokens, head_dim].
struct Past {
  int64_t batch = 0;
  int64_t tokens = 0;
  std::vector<const float*> layers;
};

// Memory that the request points to must live until the call is done or closed, or be given to keep().
struct ForwardRequest {
  std::vector<std::span<const int32_t>> sequences;  // each at least one token
  std::optional<Past> past;
  std::vector<int64_t> layers;       // whose inputs are wanted, too
  std::vector<float*> hidden;        // per sequence [tokens, n_embd]
  std::vector<float*> layer_inputs;  // per sequence [layers wanted, tokens, n_embd], or empty
  std::vector<float*> new_past;      // per layer [2, batch, heads, past + tokens, head_dim], or empty
};

struct LogitsRequest {
  std::vector<std::span<const int32_t>> sequences;
  std::vector<std::span<const int64_t>> rows;  // per sequence, ascending; empty vector: every token
  std::vector<float*> logits;                  // per sequence [rows, vocab_size]
};

struct ScoreRequest {
  std::vector<std::vector<int32_t>> sequences;
  // Per sequence (>= 1): the first token to score, given those before it.
  std::vector<int64_t> first;
  int32_t top = 0;  // the likeliest tokens to report at each place
};

struct ContinuationsRequest {
  std::vector<int32_t> prompt;
  std::vector<std::vector<int32_t>> continuations;  // none empty
  std::shared_ptr<const Prefix> prefix;             // null: none
  uint64_t prefix_scope = 0;                        // see GenerationOptions
};

class ScoreCall : public CallHandle {
 public:
  // Valid when done(): the log-probabilities of each sequence's scored tokens.
  virtual std::vector<Logprobs> results() = 0;
};

// The distribution over [logits.size()] tokens that a request's next token is drawn from, its output so far
// given; without do_sample, the softmax of the processed scores.
std::vector<float> next_token_distribution(const Request& request, const GenerationOptions& options,
                                           std::span<const int32_t> output, std::span<const float> logits);

// What an engine has done since it was loaded, and what it does now. Counted by the thread that runs steps.
struct EngineStats {
  int64_t running = 0;  // texts that hold slots
  int64_t waiting = 0;  // texts that wait for one
  int64_t slots = 0;
  int64_t slots_used = 0;
  int64_t calls = 0;             // accepted so far
  int64_t finished = 0;          // texts
  int64_t cancelled = 0;         // texts that ended with kCancelled
  int64_t timed_out = 0;         // texts that ended with kTime
  int64_t failed = 0;            // calls that ended with an error
  int64_t refused = 0;           // calls
  int64_t recomputed = 0;        // texts that lost their slot to others, to be computed again
  int64_t prompt_tokens = 0;     // computed
  int64_t generated_tokens = 0;  // chosen
  int64_t prefix_queries = 0;    // prompt tokens looked up in the prefix cache
  int64_t prefix_hits = 0;       // those found there
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;
  int64_t steps = 0;
  int64_t step_rows = 0;      // texts in all steps
  double step_seconds = 0.0;  // in all steps
};

class EngineState;

// A loaded model. Every call of every caller takes part in one stream of steps. Safe to use from any thread.
class Engine {
 public:
  static std::shared_ptr<Engine> create(const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const EngineOptions& options() const { return options_; }
  int64_t n_embd() const { return options_.n_head * options_.head_dim; }
  int64_t cache_bytes_per_sequence() const;

  // All throw std::invalid_argument for bad input and BusyError when too many texts wait, before any work.
  std::unique_ptr<GenerationCall> generate(std::vector<Request> requests,
                                           const std::shared_ptr<const GenerationOptions>& options,
                                           const CallOptions& call);
  std::unique_ptr<CallHandle> forward(const ForwardRequest& request, const CallOptions& call);
  std::unique_ptr<CallHandle> logits(const LogitsRequest& request, const CallOptions& call);
  std::unique_ptr<ScoreCall> score(ScoreRequest request, const CallOptions& call);
  // Log-probability of every token of each continuation, given the prompt and those before it. The prompt is
  // read once, except for what `prefix` and the prefix cache hold of it.
  std::unique_ptr<ScoreCall> score_continuations(ContinuationsRequest request, const CallOptions& call);

  void clear_prefix_cache();
  EngineStats stats() const;

  // Ends every call, and frees the model's memory. Later calls get ClosedError.
  void close();

  // The engine's working parts in this process; a child process gets its own at its first call.
  std::shared_ptr<EngineState> state() const;

 private:
  explicit Engine(const EngineOptions& options);

  EngineOptions options_;
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

// Closes every engine of this process, and refuses new ones. Called when the host program ends.
void close_all_engines();

}  // namespace gpt2fast
