// The bytes that each token of a vocabulary contributes to the text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gpt2fast {

// Immutable, so that requests on any threads share one. Tokens beyond the table contribute nothing.
class TokenBytes {
 public:
  // Token i has the bytes of `data` from offsets[i] up to offsets[i + 1]; those in `silent` have none. Throws
  // std::invalid_argument unless the offsets ascend from 0 to the length of `data`.
  TokenBytes(std::string data, std::vector<int32_t> offsets, std::span<const int32_t> silent);

  std::string_view operator[](int32_t token) const;

 private:
  std::string data_;
  std::vector<int32_t> offsets_;  // [tokens + 1]
  std::vector<bool> silent_;      // [tokens]
};

}  // namespace gpt2fast
