// Memory that is taken before anything is changed, so that the change can't fail midway.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace gpt2fast {

// Lets a vector grow by `count` elements without allocating.
template <typename T>
void make_room_for(std::vector<T>& elements, size_t count) {
  const size_t needed = elements.size() + count;
  if (needed > elements.capacity()) elements.reserve(std::max(needed, 2 * elements.capacity()));
}

}  // namespace gpt2fast
