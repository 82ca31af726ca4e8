// Drafts tokens from the text itself: those that followed an earlier occurrence of its last few tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gpt2fast {

// Each sequence has its own. All buffers are allocated at construction. Appending a token costs a table
// entry. A proposal looks at a few earlier positions, found by a hash of the last two tokens, and takes the
// one where the most tokens before it agree with the present; among equals, the latest.
//
// It adapts to the text. The draft doubles in length when all of it was right, and else shrinks to one more
// than what was right. After a draft that was all wrong, the next one needs a longer agreement; after any
// other, the shortest will do. And drafts are paid for with time: each token that was right saves a step,
// each that was tried costs a part of one, and beyond what was saved only a small share of all steps may be
// spent.
class PromptLookup {
 public:
  // Proposes at most max_draft tokens at once; prompt and output have at most max_length tokens together.
  // Throws std::invalid_argument when one is negative.
  PromptLookup(int32_t max_draft, int64_t max_length);

  // Appends tokens: the prompt, then those that were chosen. Throws std::length_error beyond max_length.
  void append(std::span<const int32_t> tokens);

  // Proposes at most `limit` tokens to follow what was appended, often none; valid until the next call of any
  // method.
  std::span<const int32_t> propose(int64_t limit);

  // Reports how many tokens of the last proposal, from its first, were right.
  void accept(int64_t count);

 private:
  struct Match {
    int64_t next = 0;    // the position after the earlier occurrence
    int64_t length = 0;  // tokens that agree; 0 if none was found
  };
  Match find_match() const;
  size_t bucket(int32_t first, int32_t second) const;

  size_t max_length_;
  std::vector<int32_t> tokens_;
  // [power of two], the position after the latest pair of tokens with this hash, or -1.
  std::vector<int32_t> latest_;
  std::vector<int32_t> previous_;  // [tokens], the position before with the same hash, or -1
  std::vector<int32_t> draft_;     // [max_draft]
  int64_t proposed_ = 0;
  int64_t draft_length_;
  int64_t needed_agreement_;
  int64_t budget_;  // time that drafts may still take; never negative
};

}  // namespace gpt2fast
