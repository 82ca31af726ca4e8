// The tokens of a sequence so far.
#pragma once

#include <cstdint>
#include <span>

namespace gpt2fast {

struct TokenHistory {
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;

  int64_t size() const { return static_cast<int64_t>(prompt.size() + output.size()); }
  int32_t operator[](int64_t index) const {
    const auto i = static_cast<size_t>(index);
    return i < prompt.size() ? prompt[i] : output[i - prompt.size()];
  }
};

}  // namespace gpt2fast
