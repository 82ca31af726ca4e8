// How keys and values are kept.
#pragma once

#include <cstdint>

namespace gpt2fast {

enum class CacheFormat : int32_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kInt8 = 2,  // a key or value of a head is rounded to int8 as a whole, with one scale
};

inline constexpr int64_t kKeyBlock = 64;  // positions that a softmax takes in at once, and that lie together

}  // namespace gpt2fast
