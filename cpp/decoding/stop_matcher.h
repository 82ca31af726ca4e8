// Finds stop strings in the bytes of the output as they arrive, across the borders of tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gpt2fast/generation_options.h"

namespace gpt2fast {

// An Aho-Corasick automaton, built in time proportional to the stop strings' bytes; an output byte takes one
// step in a table. Copies share the automaton, so that an output can be continued in several ways.
//
// The stop string that is completed first wins, at whatever byte of a token that happens. Of several that end
// at the same byte, the longest wins, which starts earliest. Bytes may be anything, NUL and broken UTF-8
// included.
class StopMatcher {
 public:
  // Throws std::invalid_argument for an empty stop string.
  StopMatcher(std::span<const std::string> stop_strings, bool include_stop_string);

  // Takes bytes that are before the output: a stop string may begin in them. One that ends there doesn't
  // count.
  void pass(std::string_view bytes);

  // Takes the next token's bytes. Returns true once a stop string is complete; further bytes are then
  // ignored.
  bool feed(std::string_view bytes);

  bool stopped() const { return stopped_; }
  // How many of the output's bytes to keep: after a match, those up to the stop string's start, which is none
  // if it begins before the output, or its end if it is included; before, all that were fed.
  int64_t kept_bytes() const { return kept_; }
  // The number of leading output bytes that no later completion of a stop string can remove. It never
  // shrinks. Once generation has ended for another reason, all kept_bytes() are safe.
  int64_t safe_bytes() const;

 private:
  struct Node {
    char byte;                // leads here from the parent
    int32_t depth;            // bytes from the root
    int32_t suffix = 0;       // the longest proper suffix that is a node too
    int32_t match = 0;        // length of the longest stop string that ends here, or 0
    int32_t first_child = 0;  // 0 if there is none
    int32_t next_sibling = 0;
  };

  class Automaton {
   public:
    explicit Automaton(std::span<const std::string> stop_strings);
    const Node& node(int32_t index) const { return nodes_[static_cast<size_t>(index)]; }
    int32_t step(int32_t from, char byte) const;

   private:
    Node& node(int32_t index) { return nodes_[static_cast<size_t>(index)]; }
    int32_t child(int32_t parent, char byte) const;  // 0 if there is none
    void insert(const std::string& text);
    void link_suffixes();

    std::vector<Node> nodes_;  // a tree of the stop strings' beginnings; 0 is the root
  };

  std::shared_ptr<const Automaton> automaton_;
  bool include_stop_string_;
  bool stopped_ = false;
  int32_t state_ = 0;
  int64_t fed_ = 0;
  int64_t kept_ = 0;
};

// The matcher of an output that follows the prompt; nothing without stop strings. Throws
// std::invalid_argument when their bytes are unknown.
std::optional<StopMatcher> stop_matcher_for(const StopOptions& stop, std::span<const int32_t> prompt);

}  // namespace gpt2fast
