// How far two token sequences agree.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace gpt2fast {

inline int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto limit = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  return std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin();
}

}  // namespace gpt2fast
