// What a fuzzer makes of libFuzzer's bytes.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace gpt2fast::testing {

// Ends the process, so that libFuzzer keeps the input.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : left_(data, size) {}

  bool empty() const { return left_.empty(); }

  // Zero beyond the input's end.
  template <typename T>
  T take() {
    T value{};
    const size_t size = std::min(sizeof value, left_.size());
    if (size > 0) std::memcpy(&value, left_.data(), size);
    left_ = left_.subspan(size);
    return value;
  }

  // In [0, count).
  int32_t below(int32_t count) { return take<uint8_t>() % count; }

  std::string text(size_t size) {
    size = std::min(size, left_.size());
    const std::string text(left_.begin(), left_.begin() + static_cast<std::ptrdiff_t>(size));
    left_ = left_.subspan(size);
    return text;
  }

  std::vector<int32_t> tokens(int32_t count, int32_t vocab_size) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens) token = below(vocab_size);
    return tokens;
  }

 private:
  std::span<const uint8_t> left_;
};

}  // namespace gpt2fast::testing
