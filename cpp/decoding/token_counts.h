// How often each token occurs in a sequence, updated in time proportional to what changed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpt2fast/token_history.h"

namespace gpt2fast {

// Occurrences of each token in one growing sequence. When the sequence was rewound, or replaced by another as
// beams are, only what follows the common beginning is counted again.
class TokenCounts {
 public:
  TokenCounts(int64_t vocab_size, int64_t max_length);

  // Updates the counts to those of `first` followed by `second`; ids outside the vocabulary are ignored.
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
  std::vector<int32_t> tokens_;    // the tokens that are counted, in order
  std::vector<int32_t> distinct_;  // each token of tokens_ once
};

}  // namespace gpt2fast
