// A kernel's scratch memory, in parts: one for each thread that has rows of its own, so that the memory which
// a thread writes again and again stays in its caches.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpt2fast {

struct WorkspaceSize {
  int64_t parts;
  size_t bytes;  // a part's
};

// Each part is 64-byte aligned; contents are undefined.
struct WorkspaceParts {
  uint8_t* data;
  size_t stride;

  uint8_t* part(int64_t index) const { return data + static_cast<size_t>(index) * stride; }
};

}  // namespace gpt2fast
