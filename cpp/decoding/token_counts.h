// The tokens before the one to be chosen, and how often each occurs, kept up to date in time proportional to
// change.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpt2fast/token_history.h"

namespace gpt2fast {

// Occurrences of each token in one growing sequence. A sequence that was rewound or exchanged for another
// (beams) is recognised: only what follows the common beginning is counted anew.
class TokenCounts {
 public:
  TokenCounts(int64_t vocab_size, int64_t max_length);

  // Brings the counts to `first` followed by `second`; ids outside the vocabulary are ignored.
  void update(std::span<const int32_t> first, std::span<const int32_t> second);

  std::span<const int32_t> distinct() const { return distinct_; }  // in order of first occurrence
  int32_t count(int32_t token) const { return counts_[static_cast<size_t>(token)]; }

 private:
  bool in_vocabulary(int32_t token) const {
    return token >= 0 && static_cast<size_t>(token) < counts_.size();
  }
  void push(int32_t token);
  void pop();

  std::vector<int32_t> counts_;    // [vocab_size]
  std::vector<int32_t> tokens_;    // what is counted, in order
  std::vector<int32_t> distinct_;  // each token of tokens_ once
};

}  // namespace gpt2fast
