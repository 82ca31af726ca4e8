// What a model is loaded from: a graph in memory, and the place of each weight in a file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gpt2fast {

struct StoredTensor {
  std::string name;        // of the graph's initializer
  bool is_packed = false;  // bytes; otherwise float32
  std::vector<int64_t> shape;
  int64_t offset = 0;  // in the file, in bytes
};

// The graph is the caller's own copy, so that what was checked is what runs, even if the file changes.
struct ModelFiles {
  std::string name;          // for errors
  std::string graph;         // a serialised ModelProto
  std::string weights_path;  // UTF-8; empty: all weights are in the graph
  std::vector<StoredTensor> tensors;
};

}  // namespace gpt2fast
