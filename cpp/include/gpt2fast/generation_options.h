// What one sequence asks of decoding. Numbers only: text has been turned into token ids and bytes above.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpt2fast/token_bytes.h"

namespace gpt2fast {

// Names and meanings are Hugging Face's; a value that switches a processor off is its default here.
struct SamplingOptions {
  bool do_sample = false;
  uint64_t seed = 0;
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
  double max_seconds = 0;  // 0: no limit
};

enum class FinishReason : int32_t { kNone = 0, kLength, kStop, kEos, kTime, kCancelled, kConstraint };

}  // namespace gpt2fast
