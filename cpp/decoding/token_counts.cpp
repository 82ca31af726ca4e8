// Counts that follow a sequence as it grows, is rewound, or is replaced by another.
#include "decoding/token_counts.h"

#include <algorithm>

namespace gpt2fast {

TokenCounts::TokenCounts(int64_t vocab_size, int64_t max_length) : counts_(static_cast<size_t>(vocab_size)) {
  tokens_.reserve(static_cast<size_t>(max_length));
  distinct_.reserve(static_cast<size_t>(std::min(vocab_size, max_length)));
}

void TokenCounts::update(std::span<const int32_t> first, std::span<const int32_t> second) {
  const size_t from_first = std::min(first.size(), tokens_.size());
  size_t common = static_cast<size_t>(
      std::mismatch(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(from_first), tokens_.begin())
          .first -
      first.begin());
  if (common == first.size()) {
    const auto rest = std::span(tokens_).subspan(common);
    const auto until = second.begin() + static_cast<std::ptrdiff_t>(std::min(second.size(), rest.size()));
    common += static_cast<size_t>(std::mismatch(second.begin(), until, rest.begin()).first - second.begin());
  }
  while (tokens_.size() > common) pop();
  const size_t size = first.size() + second.size();
  for (size_t i = common; i < size; ++i) push(i < first.size() ? first[i] : second[i - first.size()]);
}

void TokenCounts::push(int32_t token) {
  tokens_.push_back(token);
  if (!in_vocabulary(token)) return;
  if (counts_[static_cast<size_t>(token)]++ == 0) distinct_.push_back(token);
}

void TokenCounts::pop() {
  const int32_t token = tokens_.back();
  tokens_.pop_back();
  // Tokens leave in reverse order, so the last distinct one is the first whose count becomes zero.
  if (in_vocabulary(token) && --counts_[static_cast<size_t>(token)] == 0) distinct_.pop_back();
}

}  // namespace gpt2fast
