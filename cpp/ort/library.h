// ONNX Runtime's shared library, loaded from a path once per process and never unloaded.
#pragma once

#include <memory>
#include <string>

#include "ort/abi.h"

namespace gpt2fast {

class Library {
 public:
  // Loads the library, or returns the one loaded before. Throws LibraryError when the file is missing, is not
  // ONNX Runtime, or is too old, and when another file has been loaded already.
  static const Library& load(const std::string& path);
  // Throws LibraryError when load() has not succeeded.
  static const Library& instance();

  const abi::Api& api() const { return *api_; }
  const abi::Env* env() const { return env_; }
  // Whether the table has GetTensorSizeInBytes.
  bool has_tensor_sizes() const { return has_tensor_sizes_; }
  // Whether sessions can use ActivationMemory.
  bool has_activation_allocator() const { return has_activation_allocator_; }
  const std::string& version() const { return version_; }
  const std::string& path() const { return path_; }

  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

 private:
  explicit Library(const std::string& path);
  void create_env();

  const abi::Api* api_ = nullptr;
  const abi::Env* env_ = nullptr;
  bool has_tensor_sizes_ = false;
  bool has_activation_allocator_ = false;
  std::string version_;
  std::string path_;
};

inline const abi::Api& ort_api() { return Library::instance().api(); }

// Exceptions travel through the library as messages; these stand for Interrupted and std::bad_alloc.
inline constexpr const char* kInterruptedMessage = "gpt2fast: interrupted by the caller";
inline constexpr const char* kOutOfMemoryMessage = "gpt2fast: out of memory";

// Throws what a message of the library stands for: Interrupted, std::bad_alloc, or ModelError with the
// message.
[[noreturn]] void throw_error(const std::string& message);

// Throws that error when `status` is one, which it releases.
void check(abi::Status* status);

// Returns the message of an error status and releases it.
std::string take_message(abi::Status* status);

// Owns an object of the library: Handle<abi::Session, &abi::Api::ReleaseSession>.
template <typename T, void (*abi::Api::*release)(T*)>
struct Releaser {
  void operator()(T* object) const { (ort_api().*release)(object); }
};
template <typename T, void (*abi::Api::*release)(T*)>
using Handle = std::unique_ptr<T, Releaser<T, release>>;

}  // namespace gpt2fast
