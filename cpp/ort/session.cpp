// Loads a model and runs it.
#include "ort/session.h"

#include <filesystem>

#include "gpt2fast/errors.h"

namespace gpt2fast {

namespace {

using OptionsHandle = Handle<abi::SessionOptions, &abi::Api::ReleaseSessionOptions>;
using TypeHandle = Handle<abi::TypeInfo, &abi::Api::ReleaseTypeInfo>;

OptionsHandle make_options(const abi::Api& api, const CustomOpDomain& operators) {
  abi::SessionOptions* created = nullptr;
  check(api.CreateSessionOptions(&created));
  OptionsHandle handle(created);
  check(api.AddCustomOpDomain(created, operators.get()));
  // The operators have threads of their own.
  check(api.SetIntraOpNumThreads(created, 1));
  check(api.SetInterOpNumThreads(created, 1));
  // The graph consists of our own operators: optimising it would only take time.
  check(api.SetSessionGraphOptimizationLevel(created, abi::kOptimizeNothing));
  // A memory pattern is kept for ever for each combination of input shapes, and ragged batches have very
  // many.
  check(api.DisableMemPattern(created));
  if (Library::instance().has_activation_allocator()) {
    check(api.AddSessionConfigEntry(created, "session.use_env_allocators", "1"));
  }
  return handle;
}

// Gives the library the tensors of the weights' file, so that it opens no file itself.
std::vector<Value> add_weights(const abi::Api& api, abi::SessionOptions* options, const ModelFiles& files,
                               const MappedFile& weights) {
  // Newer versions require that the file that a graph in memory names exists, even if they do not read it.
  const auto folder =
      std::filesystem::path(std::u8string(files.weights_path.begin(), files.weights_path.end()))
          .parent_path()
          .u8string();
  check(api.AddSessionConfigEntry(options, "session.model_external_initializers_file_folder_path",
                                  std::string(folder.begin(), folder.end()).c_str()));
  std::vector<Value> values;
  for (const StoredTensor& tensor : files.tensors) {
    const ElementType type = tensor.is_packed ? ElementType::kUInt8 : ElementType::kFloat32;
    const auto bytes = static_cast<size_t>(element_count(tensor.shape)) * element_bytes(type);
    const auto offset = static_cast<size_t>(tensor.offset);
    if (tensor.offset < 0 || offset > weights.bytes() || bytes > weights.bytes() - offset) {
      throw ModelError("the tensor '" + tensor.name + "' reaches past the end of '" + files.weights_path +
                       "'");
    }
    // The operators only read their weights.
    auto* data = const_cast<std::byte*>(weights.data()) + offset;
    values.push_back(Value::tensor(data, bytes, tensor.shape, type));
    check(api.AddInitializer(options, tensor.name.c_str(), values.back().get()));
  }
  return values;
}

std::string take_string(const abi::Api& api, abi::Allocator* allocator, char* text) {
  std::string copy = text;
  check(api.AllocatorFree(allocator, text));
  return copy;
}

// Describes the inputs or the outputs, whichever the three entries of the table are for.
template <typename Count, typename Name, typename Type>
std::vector<TensorInfo> describe(const abi::Session* session, Count count, Name name, Type type) {
  const abi::Api& api = ort_api();
  abi::Allocator* allocator = nullptr;  // the library's own, never released
  check(api.GetAllocatorWithDefaultOptions(&allocator));
  size_t size = 0;
  check((api.*count)(session, &size));
  std::vector<TensorInfo> result(size);
  for (size_t i = 0; i < size; ++i) {
    abi::TypeInfo* created = nullptr;
    check((api.*type)(session, i, &created));
    result[i] = describe_type(TypeHandle(created).get());
    char* text = nullptr;
    check((api.*name)(session, i, allocator, &text));
    result[i].name = take_string(api, allocator, text);
  }
  return result;
}

}  // namespace

Session::Session(const ModelFiles& files, const CustomOpDomain& operators)
    : name_(files.name),
      weights_(files.weights_path.empty() ? MappedFile() : MappedFile(files.weights_path)) {
  const abi::Api& api = ort_api();
  const OptionsHandle handle = make_options(api, operators);
  if (!files.weights_path.empty()) tensors_ = add_weights(api, handle.get(), files, weights_);
  abi::Session* created = nullptr;
  abi::Status* status = api.CreateSessionFromArray(Library::instance().env(), files.graph.data(),
                                                   files.graph.size(), handle.get(), &created);
  if (status != nullptr) throw_error("'" + name_ + "' cannot be loaded: " + take_message(status));
  session_.reset(created);

  // A weight that callers may replace is not constant, and our operators must not write to a weight.
  size_t replaceable = 0;
  check(api.SessionGetOverridableInitializerCount(created, &replaceable));
  if (replaceable != 0) throw ModelError("'" + name_ + "' declares weights as inputs");
  inputs_ = describe(created, &abi::Api::SessionGetInputCount, &abi::Api::SessionGetInputName,
                     &abi::Api::SessionGetInputTypeInfo);
  outputs_ = describe(created, &abi::Api::SessionGetOutputCount, &abi::Api::SessionGetOutputName,
                      &abi::Api::SessionGetOutputTypeInfo);
}

void Session::run(const Binding& binding) {
  const ActivationScope scope(activations_);
  abi::Status* status = ort_api().RunWithBinding(session_.get(), nullptr, binding.binding_.get());
  if (status != nullptr) throw_error(take_message(status));
  // Checked after the step: results that were computed from other weights are thrown away.
  if (weights_.changed()) {
    throw ModelError("'" + name_ + "': its weights were shortened or rewritten in place while in use; load " +
                     "the model again");
  }
}

Binding::Binding(Session& session) {
  abi::IoBinding* created = nullptr;
  check(ort_api().CreateIoBinding(session.session_.get(), &created));
  binding_.reset(created);
}

void Binding::bind_input(const char* name, const Value& value) {
  check(ort_api().BindInput(binding_.get(), name, value.get()));
}

void Binding::bind_output(const char* name, const Value& value) {
  check(ort_api().BindOutput(binding_.get(), name, value.get()));
}

}  // namespace gpt2fast
