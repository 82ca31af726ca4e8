// The bytes that each token of a vocabulary contributes to the text.
#include "gpt2fast/token_bytes.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace gpt2fast {

TokenBytes::TokenBytes(std::string data, std::vector<int32_t> offsets, std::span<const int32_t> silent)
    : data_(std::move(data)), offsets_(std::move(offsets)) {
  if (offsets_.empty() || offsets_.front() != 0 || !std::ranges::is_sorted(offsets_) ||
      static_cast<size_t>(offsets_.back()) != data_.size()) {
    throw std::invalid_argument("offsets must ascend from 0 to the number of bytes");
  }
  silent_.resize(offsets_.size() - 1);
  for (const int32_t token : silent) {
    if (token < 0 || static_cast<size_t>(token) >= silent_.size())
      throw std::invalid_argument("silent tokens must be in the table");
    silent_[static_cast<size_t>(token)] = true;
  }
}

std::string_view TokenBytes::operator[](int32_t token) const {
  const auto index = static_cast<size_t>(token);
  if (index >= silent_.size() || silent_[index]) return {};
  const auto start = static_cast<size_t>(offsets_[index]);
  return std::string_view(data_).substr(start, static_cast<size_t>(offsets_[index + 1]) - start);
}

}  // namespace gpt2fast
