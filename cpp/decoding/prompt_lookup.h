// Draft tokens from the text itself: what followed an earlier occurrence of its last few tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gpt2fast {

// One per sequence. All buffers are allocated at construction. Appending a token costs a table entry; a
// proposal looks at a few earlier places, found by a hash of the last two tokens, and takes the one that
// agrees with the present over the most tokens, the latest among equals.
//
// It adapts to the text. The draft grows to twice its length when all of it was right, and shrinks to one
// more than what was right. A draft that was all wrong makes the next one need a longer agreement, one that
// was not, the least.
class PromptLookup {
 public:
  // max_draft: the most tokens proposed at once; max_length: the most tokens that prompt and output have
  // together. Throws std::invalid_argument when one is negative.
  PromptLookup(int32_t max_draft, int64_t max_length);

  // Appends tokens that are known now: the prompt, then the chosen ones. Throws std::length_error beyond
  // max_length.
  void append(std::span<const int32_t> tokens);

  // At most `limit` draft tokens to follow what was appended, often none; valid until the next call of any
  // method.
  std::span<const int32_t> propose(int64_t limit);

  // How many tokens of the last proposal, from its first, turned out right.
  void accept(int64_t count);

 private:
  struct Match {
    int64_t next = 0;    // the position after the earlier occurrence
    int64_t length = 0;  // tokens that agree, 0: none found
  };
  Match find_match() const;
  size_t bucket(int32_t first, int32_t second) const;

  size_t max_length_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t>
      latest_;  // [power of two]: position after the latest pair of tokens with this hash, -1: none
  std::vector<int32_t> previous_;  // [tokens]: the position before it with the same hash, -1: none
  std::vector<int32_t> draft_;     // [max_draft]
  int64_t proposed_ = 0;
  int64_t draft_length_;
  int64_t needed_agreement_;
};

}  // namespace gpt2fast
