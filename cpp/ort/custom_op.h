// Custom operators without ONNX Runtime's names: a Kernel for each node, created from the node's attributes
// and constant inputs, and the domain in which a session finds the operators. No exception crosses into the
// library.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ort/value.h"
#include "system/parallel.h"

namespace gpt2fast {

// A weight of the model.
struct Constant {
  const void* data = nullptr;
  std::vector<int64_t> shape;

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// Throws ModelError unless the weight has this shape; -1 stands for any size.
void require_shape(const Constant& constant, const char* name, const std::vector<int64_t>& shape);

// An input during a run, row-major. It has no shape, since the library allocates memory to report one, and
// the number of elements says all that an operator needs.
struct Input {
  const char* name = "";
  void* data = nullptr;
  int64_t elements = 0;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // Throws ModelError unless there are this many elements.
  void require_elements(int64_t wanted) const;
  // The number of rows of `width` elements; throws ModelError when the elements do not divide into rows.
  int64_t rows(int64_t width) const;
};

// A node's attributes, weights and connections, for creating its kernel. Every error names the attribute or
// input.
class NodeInfo {
 public:
  explicit NodeInfo(const abi::KernelInfo* info) : info_(info) {}

  std::string name() const;

  // Throws ModelError when the attribute is missing or outside [low, high].
  int64_t integer(const char* name, int64_t low, int64_t high) const;
  // Throws ModelError when the attribute is missing or not finite.
  float number(const char* name) const;

  bool has_input(size_t index) const;
  bool has_output(size_t index) const;
  bool is_constant(size_t index) const;
  // A weight of the model, valid as long as the session. Throws ModelError unless it is a constant of this
  // type that begins at a multiple of `alignment` bytes.
  Constant constant(size_t index, const char* name, ElementType type, size_t alignment) const;
  // The type that the graph declares for an input.
  ElementType input_type(size_t index) const;

 private:
  const abi::KernelInfo* info_;
};

// A node's inputs and outputs during one run.
class NodeContext {
 public:
  explicit NodeContext(abi::KernelContext* context) : context_(context) {}

  // `type` is the type of the operator's InputSpec, or what NodeInfo::input_type() returned.
  Input input(size_t index, const char* name, ElementType type = ElementType::kFloat32) const;
  void* output(size_t index, std::span<const int64_t> shape) const;
  const abi::KernelContext* get() const { return context_; }

 private:
  abi::KernelContext* context_;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(const NodeContext& context) = 0;
};

struct InputSpec {
  ElementType type = ElementType::kFloat32;  // kUndefined stands for any
  bool optional = false;
};

// An operator type with float32 outputs: one, and some more that a node may leave out. Its address is known
// to the library, so it stays where it is.
class CustomOp : public abi::CustomOp {
 public:
  using Factory = std::function<std::unique_ptr<Kernel>(const NodeInfo& node)>;

  CustomOp(std::string name, std::vector<InputSpec> inputs, size_t optional_outputs, Factory factory);

  const std::string& name() const { return name_; }

  CustomOp(const CustomOp&) = delete;
  CustomOp& operator=(const CustomOp&) = delete;

 private:
  void set_description_callbacks();
  void set_kernel_callbacks();

  std::string name_;
  std::vector<InputSpec> inputs_;
  size_t optional_outputs_;
  Factory factory_;
};

class CustomOpDomain {
 public:
  explicit CustomOpDomain(const char* name);

  void add(std::unique_ptr<CustomOp> op);
  abi::CustomOpDomain* get() const { return domain_.get(); }

 private:
  std::vector<std::unique_ptr<CustomOp>> ops_;
  Handle<abi::CustomOpDomain, &abi::Api::ReleaseCustomOpDomain> domain_;
};

}  // namespace gpt2fast
