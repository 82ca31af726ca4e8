// Aho and Corasick: Efficient string matching (1975).
#include "decoding/stop_matcher.h"

#include <stdexcept>

namespace gpt2fast {

StopMatcher::StopMatcher(std::span<const std::string> stop_strings, bool include_stop_string)
    : automaton_(std::make_shared<const Automaton>(stop_strings)),
      include_stop_string_(include_stop_string) {}

bool StopMatcher::feed(std::string_view bytes) {
  for (char byte : bytes) {
    if (stopped_) break;
    state_ = automaton_->step(state_, byte);
    ++fed_;
    if (const int32_t match = automaton_->node(state_).match; match > 0) {
      stopped_ = true;
      kept_ = include_stop_string_ ? fed_ : fed_ - match;
    }
  }
  if (!stopped_) kept_ = fed_;
  return stopped_;
}

int64_t StopMatcher::safe_bytes() const {
  if (stopped_ || include_stop_string_) return kept_;
  return fed_ - automaton_->node(state_).depth;
}

StopMatcher::Automaton::Automaton(std::span<const std::string> stop_strings)
    : nodes_{{.byte = 0, .depth = 0}} {
  for (const std::string& text : stop_strings) {
    if (text.empty()) throw std::invalid_argument("stop_strings must not hold an empty string");
    insert(text);
  }
  link_suffixes();
}

int32_t StopMatcher::Automaton::child(int32_t parent, char byte) const {
  int32_t index = node(parent).first_child;
  while (index != 0 && node(index).byte != byte) index = node(index).next_sibling;
  return index;
}

int32_t StopMatcher::Automaton::step(int32_t from, char byte) const {
  for (;; from = node(from).suffix) {
    if (const int32_t next = child(from, byte); next != 0 || from == 0) return next;
  }
}

void StopMatcher::Automaton::insert(const std::string& text) {
  int32_t at = 0;
  for (char byte : text) {
    int32_t next = child(at, byte);
    if (next == 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({.byte = byte, .depth = node(at).depth + 1, .next_sibling = node(at).first_child});
      node(at).first_child = next;
    }
    at = next;
  }
  node(at).match = node(at).depth;
}

// Goes breadth first: a node's suffix is shorter, so it is complete before it is needed.
void StopMatcher::Automaton::link_suffixes() {
  std::vector<int32_t> queue = {0};
  queue.reserve(nodes_.size());
  for (size_t i = 0; i < queue.size(); ++i) {
    const int32_t parent = queue[i];
    for (int32_t index = node(parent).first_child; index != 0; index = node(index).next_sibling) {
      Node& here = node(index);
      here.suffix = parent == 0 ? 0 : step(node(parent).suffix, here.byte);
      if (here.match == 0) here.match = node(here.suffix).match;
      queue.push_back(index);
    }
  }
}

}  // namespace gpt2fast
