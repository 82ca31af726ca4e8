// Tensors over memory that somebody else owns.
#include "ort/value.h"

#include <stdexcept>

#include "gpt2fast/errors.h"

namespace gpt2fast {

size_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::kUInt8:
      return 1;
    case ElementType::kFloat16:
      return 2;
    case ElementType::kFloat32:
    case ElementType::kInt32:
      return 4;
    case ElementType::kInt64:
      return 8;
    default:
      throw std::invalid_argument("element type " + std::to_string(static_cast<int>(type)) +
                                  " is none of ours");
  }
}

int64_t element_count(std::span<const int64_t> shape) {
  constexpr int64_t kMaxElements = int64_t{1} << 60;  // times element_bytes() fits 64 bits
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0 || (size > 0 && count > kMaxElements / size)) {
      throw ModelError("a tensor's dimension of " + std::to_string(size) +
                       " is negative or makes it too large");
    }
    count *= size;
  }
  return count;
}

Value Value::tensor(void* data, size_t bytes, std::span<const int64_t> shape, ElementType type) {
  const size_t wanted = static_cast<size_t>(element_count(shape)) * element_bytes(type);
  if (bytes != wanted) {
    throw std::invalid_argument("a tensor of " + std::to_string(wanted) + " bytes over a buffer of " +
                                std::to_string(bytes));
  }
  const abi::Api& api = ort_api();
  abi::MemoryInfo* created = nullptr;
  check(api.CreateCpuMemoryInfo(abi::kDeviceAllocator, abi::kDefaultMemory, &created));
  const Handle<abi::MemoryInfo, &abi::Api::ReleaseMemoryInfo> memory(created);
  abi::Value* value = nullptr;
  check(api.CreateTensorWithDataAsOrtValue(memory.get(), data, bytes, shape.data(), shape.size(), type,
                                           &value));
  return Value(value);
}

TensorInfo describe_tensor(const abi::TensorInfo* tensor) {
  const abi::Api& api = ort_api();
  TensorInfo info;
  check(api.GetTensorElementType(tensor, &info.type));
  size_t rank = 0;
  check(api.GetDimensionsCount(tensor, &rank));
  info.shape.resize(rank);
  check(api.GetDimensions(tensor, info.shape.data(), rank));
  return info;
}

TensorInfo describe_type(const abi::TypeInfo* type) {
  const abi::TensorInfo* tensor = nullptr;  // owned by `type`; null if that is not a tensor
  check(ort_api().CastTypeInfoToTensorInfo(type, &tensor));
  return tensor == nullptr ? TensorInfo{} : describe_tensor(tensor);
}

}  // namespace gpt2fast
