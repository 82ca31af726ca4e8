// Tensors over memory that somebody else owns, and descriptions of a session's inputs and outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ort/library.h"

namespace gpt2fast {

using abi::ElementType;

// The bytes of one element; throws std::invalid_argument for a type that we do not use.
size_t element_bytes(ElementType type);

// The elements of a tensor of this shape; throws ModelError for a negative dimension or more than 2^60
// elements.
int64_t element_count(std::span<const int64_t> shape);

class Value {
 public:
  // `data` must outlive the value; `bytes` must be exactly what `shape` and `type` need.
  static Value tensor(void* data, size_t bytes, std::span<const int64_t> shape, ElementType type);

  const abi::Value* get() const { return value_.get(); }

 private:
  explicit Value(abi::Value* value) : value_(value) {}

  Handle<abi::Value, &abi::Api::ReleaseValue> value_;
};

// An input or output of a model.
struct TensorInfo {
  std::string name;
  ElementType type = ElementType::kUndefined;  // kUndefined: not a tensor
  std::vector<int64_t> shape;                  // -1 stands for any size
};

// Describe a tensor, and an input or output. The name is left empty.
TensorInfo describe_tensor(const abi::TensorInfo* tensor);
TensorInfo describe_type(const abi::TypeInfo* type);

}  // namespace gpt2fast
