// The callbacks between ONNX Runtime and our kernels.
#include "ort/custom_op.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <new>
#include <utility>

#include "gpt2fast/errors.h"
#include "ort/activation_memory.h"

namespace gpt2fast {

namespace {

using TensorHandle = Handle<abi::TensorInfo, &abi::Api::ReleaseTensorTypeAndShapeInfo>;

std::string show_shape(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + (shape[i] < 0 ? std::string("any") : std::to_string(shape[i]));
  }
  return text + "]";
}

// The number of elements of a tensor. Newer libraries report its size, older ones its shape, which costs an
// allocation.
int64_t count_elements(const abi::Api& api, const abi::Value* value, ElementType type) {
  size_t count = 0;
  if (Library::instance().has_tensor_sizes()) {
    check(api.GetTensorSizeInBytes(value, &count));
    count /= element_bytes(type);
  } else {
    abi::TensorInfo* created = nullptr;
    check(api.GetTensorTypeAndShape(value, &created));
    const TensorHandle info(created);
    check(api.GetTensorShapeElementCount(created, &count));
  }
  return static_cast<int64_t>(count);
}

// The table has no read-only entry. The operators know which inputs they write to.
void* tensor_data(const abi::Api& api, const abi::Value* value) {
  void* data = nullptr;
  check(api.GetTensorMutableData(const_cast<abi::Value*>(value), &data));
  return data;
}

// Reads text through a callback that fills a buffer or, without one, reports the size needed.
template <typename Read>
std::string read_text(const Read& read) {
  size_t size = 0;
  check(read(nullptr, &size));
  std::string text(size, '\0');
  check(read(text.data(), &size));
  if (!text.empty()) text.pop_back();  // the size counts the terminating zero
  return text;
}

// Turns the exception being handled into a status.
abi::Status* to_status() noexcept {
  const abi::Api& api = ort_api();
  try {
    throw;
  } catch (const Interrupted&) {
    return api.CreateStatus(abi::kFail, kInterruptedMessage);
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(abi::kFail, kOutOfMemoryMessage);
  } catch (const std::exception& error) {
    return api.CreateStatus(abi::kInvalidArgument, error.what());
  } catch (...) {
    return api.CreateStatus(abi::kFail, "unknown exception");
  }
}

// Adds the node's name to errors; the library does this for errors of a run.
std::unique_ptr<Kernel> create_kernel(const CustomOp& op, const CustomOp::Factory& factory,
                                      const abi::KernelInfo* info) {
  try {
    return factory(NodeInfo(info));
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw ModelError(op.name() + " '" + NodeInfo(info).name() + "': " + error.what());
  }
}

}  // namespace

void require_shape(const Constant& constant, const char* name, const std::vector<int64_t>& shape) {
  const bool fits = std::ranges::equal(
      constant.shape, shape, [](int64_t size, int64_t wanted) { return wanted < 0 || size == wanted; });
  if (!fits) {
    throw ModelError(std::string(name) + " must have shape " + show_shape(shape) + ", got " +
                     show_shape(constant.shape));
  }
}

void Input::require_elements(int64_t wanted) const {
  if (elements != wanted) {
    throw ModelError(std::string(name) + " must have " + std::to_string(wanted) + " elements, got " +
                     std::to_string(elements));
  }
}

int64_t Input::rows(int64_t width) const {
  if (elements % width != 0) {
    throw ModelError(std::string(name) + " must be rows of " + std::to_string(width) + " elements, got " +
                     std::to_string(elements) + " elements");
  }
  return elements / width;
}

std::string NodeInfo::name() const {
  return read_text(
      [&](char* out, size_t* size) { return ort_api().KernelInfo_GetNodeName(info_, out, size); });
}

int64_t NodeInfo::integer(const char* name, int64_t low, int64_t high) const {
  int64_t value = 0;
  check(ort_api().KernelInfoGetAttribute_int64(info_, name, &value));
  if (value < low || value > high) {
    throw ModelError(std::string(name) + " must be in [" + std::to_string(low) + ", " + std::to_string(high) +
                     "], got " + std::to_string(value));
  }
  return value;
}

float NodeInfo::number(const char* name) const {
  float value = 0;
  check(ort_api().KernelInfoGetAttribute_float(info_, name, &value));
  if (!std::isfinite(value))
    throw ModelError(std::string(name) + " must be finite, got " + std::to_string(value));
  return value;
}

bool NodeInfo::has_input(size_t index) const {
  const abi::Api& api = ort_api();
  size_t count = 0;
  check(api.KernelInfo_GetInputCount(info_, &count));
  if (index >= count) return false;
  // An input that is left out before others has an empty name.
  return !read_text([&](char* out, size_t* size) {
            return api.KernelInfo_GetInputName(info_, index, out, size);
          }).empty();
}

bool NodeInfo::has_output(size_t index) const {
  const abi::Api& api = ort_api();
  size_t count = 0;
  check(api.KernelInfo_GetOutputCount(info_, &count));
  if (index >= count) return false;
  return !read_text([&](char* out, size_t* size) {
            return api.KernelInfo_GetOutputName(info_, index, out, size);
          }).empty();
}

bool NodeInfo::is_constant(size_t index) const {
  int constant = 0;
  const abi::Value* value = nullptr;
  check(ort_api().KernelInfoGetConstantInput_tensor(info_, index, &constant, &value));
  return constant != 0 && value != nullptr;
}

Constant NodeInfo::constant(size_t index, const char* name, ElementType type, size_t alignment) const {
  if (!has_input(index) || !is_constant(index)) {
    throw ModelError(std::string(name) + " must be a constant of the model");
  }
  const abi::Api& api = ort_api();
  int is_constant = 0;
  const abi::Value* value = nullptr;
  check(api.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  abi::TensorInfo* created = nullptr;
  check(api.GetTensorTypeAndShape(value, &created));
  const TensorHandle info(created);
  TensorInfo description = describe_tensor(created);
  if (description.type != type) {
    throw ModelError(std::string(name) + " must have element type " + std::to_string(type) + ", got " +
                     std::to_string(description.type));
  }
  const void* data = tensor_data(api, value);
  if (reinterpret_cast<uintptr_t>(data) % alignment != 0) {
    throw ModelError(std::string(name) + " must start at a multiple of " + std::to_string(alignment) +
                     " bytes in its file");
  }
  return {data, std::move(description.shape)};
}

ElementType NodeInfo::input_type(size_t index) const {
  abi::TypeInfo* created = nullptr;
  check(ort_api().KernelInfo_GetInputTypeInfo(info_, index, &created));
  const Handle<abi::TypeInfo, &abi::Api::ReleaseTypeInfo> type(created);
  return describe_type(created).type;
}

Input NodeContext::input(size_t index, const char* name, ElementType type) const {
  const abi::Api& api = ort_api();
  const abi::Value* value = nullptr;
  check(api.KernelContext_GetInput(context_, index, &value));
  if (value == nullptr) throw ModelError(std::string(name) + " is missing");
  return {name, tensor_data(api, value), count_elements(api, value, type)};
}

void* NodeContext::output(size_t index, std::span<const int64_t> shape) const {
  const abi::Api& api = ort_api();
  abi::Value* value = nullptr;
  ActivationScope::set_width(shape.back());
  abi::Status* status = api.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value);
  ActivationScope::set_width(0);
  check(status);
  void* data = nullptr;
  check(api.GetTensorMutableData(value, &data));
  if (data == nullptr && element_count(shape) > 0) throw std::bad_alloc();
  return data;
}

CustomOp::CustomOp(std::string name, std::vector<InputSpec> inputs, size_t optional_outputs, Factory factory)
    : name_(std::move(name)),
      inputs_(std::move(inputs)),
      optional_outputs_(optional_outputs),
      factory_(std::move(factory)) {
  set_description_callbacks();
  set_kernel_callbacks();
}

void CustomOp::set_description_callbacks() {
  GetName = [](const abi::CustomOp* op) { return static_cast<const CustomOp*>(op)->name_.c_str(); };
  GetExecutionProviderType = [](const abi::CustomOp*) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const abi::CustomOp* op) {
    return static_cast<const CustomOp*>(op)->inputs_.size();
  };
  GetInputType = [](const abi::CustomOp* op, size_t index) {
    return static_cast<const CustomOp*>(op)->inputs_[index].type;
  };
  GetInputCharacteristic = [](const abi::CustomOp* op, size_t index) {
    return static_cast<const CustomOp*>(op)->inputs_[index].optional ? abi::kOptional : abi::kRequired;
  };
  GetInputMemoryType = [](const abi::CustomOp*, size_t) { return abi::kDefaultMemory; };
  GetOutputTypeCount = [](const abi::CustomOp* op) {
    return 1 + static_cast<const CustomOp*>(op)->optional_outputs_;
  };
  GetOutputType = [](const abi::CustomOp*, size_t) { return abi::kFloat32; };
  GetOutputCharacteristic = [](const abi::CustomOp*, size_t index) {
    return index == 0 ? abi::kRequired : abi::kOptional;
  };
  // The library calls these whether or not anything is variadic.
  GetVariadicInputMinArity = [](const abi::CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = [](const abi::CustomOp*) { return 1; };
  GetVariadicOutputMinArity = [](const abi::CustomOp*) { return 1; };
  GetVariadicOutputHomogeneity = [](const abi::CustomOp*) { return 1; };
  GetStartVersion = [](const abi::CustomOp*) { return 1; };
  GetEndVersion = [](const abi::CustomOp*) { return 1; };
}

void CustomOp::set_kernel_callbacks() {
  CreateKernelV2 = [](const abi::CustomOp* base, const abi::Api*, const abi::KernelInfo* info,
                      void** kernel) -> abi::Status* {
    const auto* op = static_cast<const CustomOp*>(base);
    try {
      *kernel = create_kernel(*op, op->factory_, info).release();
      return nullptr;
    } catch (...) {
      return to_status();
    }
  };
  KernelComputeV2 = [](void* kernel, abi::KernelContext* context) -> abi::Status* {
    try {
      static_cast<Kernel*>(kernel)->compute(NodeContext(context));
      return nullptr;
    } catch (...) {
      return to_status();
    }
  };
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

CustomOpDomain::CustomOpDomain(const char* name) {
  abi::CustomOpDomain* created = nullptr;
  check(ort_api().CreateCustomOpDomain(name, &created));
  domain_.reset(created);
}

void CustomOpDomain::add(std::unique_ptr<CustomOp> op) {
  check(ort_api().CustomOpDomain_Add(domain_.get(), op.get()));
  ops_.push_back(std::move(op));
}

}  // namespace gpt2fast
