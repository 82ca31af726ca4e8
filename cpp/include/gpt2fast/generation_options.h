// How the texts of one call are decoded. Numbers only: text has been turned into token ids and bytes above.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpt2fast/token_bytes.h"

namespace gpt2fast {

class Engine;

// Names and meanings are Hugging Face's; a value that switches a processor off is its default here.
struct SamplingOptions {
  bool do_sample = false;
  float temperature = 1.0f;          // > 0
  int32_t top_k = 0;                 // 0: off
  double top_p = 1.0;                // (0, 1]; 1: off
  double min_p = 0.0;                // [0, 1]; 0: off
  double typical_p = 1.0;            // (0, 1]; 1: off
  float repetition_penalty = 1.0f;   // > 0; over prompt and output, as in transformers
  float presence_penalty = 0.0f;     // over output only, as in the OpenAI interface
  float frequency_penalty = 0.0f;    // over output only
  int32_t no_repeat_ngram_size = 0;  // 0: off
  int64_t min_new_tokens = 0;
  std::vector<int32_t> suppress_tokens;
  std::vector<std::vector<int32_t>> bad_words;        // token sequences that must not be completed
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to the scores
  std::vector<int32_t> forced_prefix;                 // the first tokens of the output, whatever their scores
};

struct StopOptions {
  int64_t max_new_tokens = 128;
  std::vector<int32_t> eos_token_ids;
  std::vector<std::string> stop_strings;          // bytes; none empty
  std::shared_ptr<const TokenBytes> token_bytes;  // of the vocabulary; stop strings need it
  bool include_stop_string = false;
};

// When a beam search stops although live beams are left that could still replace finished hypotheses.
enum class EarlyStopping : int32_t {
  // When the best live beam, scored at its present length, is worse than every finished hypothesis.
  kFalse = 0,
  // As soon as num_beams hypotheses are finished.
  kTrue = 1,
  // When no live beam can become better, scored at the greatest possible length.
  kNever = 2,
};

// Keys and values of some leading tokens, kept by a caller to start many sequences from. Immutable.
struct Prefix {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> layers;  // per layer [2, heads, tokens, head_dim]
};

// What the texts of a call share; one object for all of them, which nobody changes.
struct GenerationOptions {
  SamplingOptions sampling;
  StopOptions stop;
  // -1: no log-probabilities; k: the chosen token's and those of the k likeliest.
  int32_t logprobs = -1;
  // Draft tokens looked up in the sequence itself; 0: off.
  int32_t prompt_lookup_num_tokens = 0;
  // At the end of the context window, go on with its newer half.
  bool slide = false;
  bool use_prefix_cache = true;
  // Keys and values are shared among the texts of one scope.
  uint64_t prefix_scope = 0;
  // Used for the beginning that a prompt shares with it; null: none.
  std::shared_ptr<const Prefix> prefix;
  // A smaller model with the same vocabulary that drafts tokens; null: none.
  std::shared_ptr<Engine> assistant;
  int32_t num_assistant_tokens = 0;

  // More than 1: a beam search, which ignores the options after `logprobs` above.
  int32_t num_beams = 1;
  int32_t num_return_sequences = 1;
  double length_penalty = 1.0;
  EarlyStopping early_stopping = EarlyStopping::kFalse;
};

enum class FinishReason : int32_t { kNone = 0, kLength, kStop, kEos, kTime, kCancelled, kConstraint };

}  // namespace gpt2fast
