// What tests that need ONNX Runtime share: the library named by GPT2FAST_ORT_LIBRARY, and small models loaded
// into it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gpt2fast/errors.h"
#include "ops/registry.h"
#include "ort/library.h"
#include "ort/session.h"
#include "support/onnx_builder.h"
#include "support/testing.h"

namespace gpt2fast::testing {

// The library's path, or null when the tests that need it are to be skipped.
inline const char* library_path() { return std::getenv("GPT2FAST_ORT_LIBRARY"); }

inline bool library_is_loaded(const char* test) {
  if (library_path() == nullptr) {
    std::printf("skipped %s: GPT2FAST_ORT_LIBRARY does not name ONNX Runtime's library\n", test);
    return false;
  }
  Library::load(library_path());
  return true;
}

// A folder for one test's files, removed at its end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    // Tests run side by side: one that comes to another's name takes the next.
    std::random_device random;
    do {
      path_ = std::filesystem::temp_directory_path() / ("gpt2fast_test_" + std::to_string(random()));
    } while (!std::filesystem::create_directory(path_));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string write(const std::string& name, std::string_view bytes) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

// A model whose weights are in its graph.
inline ModelFiles in_memory(const Model& model) {
  return {.name = "model.onnx", .graph = model.encoded(), .weights_path = {}, .tensors = {}};
}

// A model with our operators, ready to run.
class LoadedModel {
 public:
  explicit LoadedModel(const Model& model, int threads = 1) : context_{.pool = ThreadPool(threads)} {
    session_ = std::make_unique<Session>(in_memory(model), registry_.domain());
    binding_ = std::make_unique<Binding>(*session_);
  }

  template <typename T>
  void input(const char* name, std::vector<T>& data, ElementType type, const std::vector<int64_t>& shape) {
    values_.push_back(Value::tensor(data.data(), data.size() * sizeof(T), shape, type));
    binding_->bind_input(name, values_.back());
  }
  void output(const char* name, std::vector<float>& data, const std::vector<int64_t>& shape) {
    values_.push_back(Value::tensor(data.data(), data.size() * sizeof(float), shape, ElementType::kFloat32));
    binding_->bind_output(name, values_.back());
  }
  void run() { session_->run(*binding_); }

  Session& session() { return *session_; }
  StepContext& context() { return context_; }

 private:
  StepContext context_;
  OpRegistry registry_{context_};
  std::unique_ptr<Session> session_;
  std::unique_ptr<Binding> binding_;
  std::vector<Value> values_;
};

// Values in [-1, 1] that repeat after 101, different for every seed.
inline std::vector<float> ramp(size_t size, int seed) {
  std::vector<float> values(size);
  for (size_t i = 0; i < size; ++i) {
    values[i] = static_cast<float>((i * 37 + static_cast<size_t>(seed) * 11) % 101) / 50.0f - 1.0f;
  }
  return values;
}

// The message of the error that `action` throws, empty when it throws none of this type.
template <typename Error, typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace gpt2fast::testing

// A case that needs the library, and says so when it is skipped.
#define ORT_TEST(name)                                                    \
  static void ort_test_##name();                                          \
  TEST(name) {                                                            \
    if (::gpt2fast::testing::library_is_loaded(#name)) ort_test_##name(); \
  }                                                                       \
  static void ort_test_##name()
