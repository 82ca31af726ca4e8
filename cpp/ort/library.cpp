// Loads ONNX Runtime's shared library.
#include "ort/library.h"

#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

#include "gpt2fast/errors.h"
#include "ort/activation_memory.h"
#include "system/shared_library.h"

namespace gpt2fast {

namespace {

// Never destroyed: at exit, other threads may still be inside the library, and the system frees the memory
// anyway.
std::atomic<const Library*> loaded_library{nullptr};
std::mutex load_mutex;

// Versions from 1.29 on send telemetry unless this variable is set before the library initialises. The
// table's own switch needs an environment, and creating one already sends something.
void forbid_telemetry() {
#ifdef _WIN32
  _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
#endif
}

// The newest version of the table that the library has: version 1.N offers N. It prints a message when a
// version that it lacks is requested.
uint32_t offered_api_version(const std::string& version) {
  if (!version.starts_with("1.")) return 0;
  uint32_t minor = 0;
  std::from_chars(version.data() + 2, version.data() + version.size(), minor);
  return minor;
}

}  // namespace

const Library& Library::load(const std::string& path) {
  const std::lock_guard lock(load_mutex);
  const Library* library = loaded_library.load(std::memory_order_acquire);
  if (library == nullptr) {
    std::unique_ptr<Library> fresh(new Library(path));
    fresh->create_env();
    library = fresh.release();
    loaded_library.store(library, std::memory_order_release);
  } else if (library->path() != path) {
    throw LibraryError("ONNX Runtime is loaded from '" + library->path() + "' already; '" + path +
                       "' can only be loaded by another process");
  }
  return *library;
}

const Library& Library::instance() {
  const Library* library = loaded_library.load(std::memory_order_acquire);
  if (library == nullptr) throw LibraryError("ONNX Runtime has not been loaded");
  return *library;
}

Library::Library(const std::string& path) : path_(path) {
  forbid_telemetry();
  SharedLibrary file(path);
  using GetApiBase = const abi::ApiBase* (*)();
  const auto get_api_base = reinterpret_cast<GetApiBase>(file.symbol("OrtGetApiBase"));
  const abi::ApiBase* base = get_api_base == nullptr ? nullptr : get_api_base();
  if (base == nullptr) {
    throw LibraryError("'" + path + "' is not ONNX Runtime: it has no function OrtGetApiBase");
  }
  version_ = base->GetVersionString();
  api_ = base->GetApi(abi::kApiVersion);
  if (api_ == nullptr) {
    throw LibraryError("'" + path + "' is ONNX Runtime " + version_ + ", which does not offer version " +
                       std::to_string(abi::kApiVersion) + " of its interface");
  }
  const uint32_t offered = offered_api_version(version_);
  has_tensor_sizes_ = offered >= abi::kTensorSizeApiVersion;
  file.keep();
}

void Library::create_env() {
  // We raise failures as exceptions; at any lower level the library would print them as well.
  abi::Env* env = nullptr;
  abi::Status* status = api_->CreateEnv(abi::kLogFatal, "gpt2fast", &env);
  if (status == nullptr) status = api_->DisableTelemetryEvents(env);
  if (status != nullptr) {
    const std::string message = api_->GetErrorMessage(status);
    api_->ReleaseStatus(status);
    throw LibraryError("ONNX Runtime from '" + path_ + "' does not start: " + message);
  }
  env_ = env;
  has_activation_allocator_ = register_activation_allocator(*api_, env);
}

std::string take_message(abi::Status* status) {
  const abi::Api& api = ort_api();
  std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  return message;
}

void throw_error(const std::string& message) {
  const auto says = [&](const char* part) { return message.find(part) != std::string::npos; };
  if (says(kInterruptedMessage)) throw Interrupted{};
  // The library's own failures to allocate carry the words of the C++ runtimes.
  if (says(kOutOfMemoryMessage) || says("std::bad_alloc") || says("bad allocation")) throw std::bad_alloc();
  throw ModelError(message);
}

void check(abi::Status* status) {
  if (status != nullptr) throw_error(take_message(status));
}

}  // namespace gpt2fast
