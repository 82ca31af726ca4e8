// How keys and values are stored.
#pragma once

#include <cstdint>

namespace gpt2fast {

enum class CacheFormat : int32_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kInt8 = 2,  // a head's key or value at a position is rounded to int8, with one scale
};

// Positions that are stored together, and that a softmax handles at once.
inline constexpr int64_t kKeyBlock = 64;

}  // namespace gpt2fast
