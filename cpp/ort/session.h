// A loaded model, and the buffers bound to its inputs and outputs.
#pragma once

#include <string>
#include <vector>

#include "gpt2fast/model_files.h"
#include "ort/activation_memory.h"
#include "ort/custom_op.h"
#include "ort/library.h"
#include "ort/value.h"
#include "system/mapped_file.h"

namespace gpt2fast {

class Binding;

class Session {
 public:
  // Loads a model; its weights are mapped from their file. `operators` must outlive the session. Throws
  // ModelError when the file is missing or the graph is not one that we can run, and std::bad_alloc when
  // memory runs out.
  Session(const ModelFiles& files, const CustomOpDomain& operators);

  // Throws Interrupted when an operator did, std::bad_alloc when memory ran out, and ModelError when an
  // operator failed or the file of the weights is not what it was. Only one thread may call it at a time.
  void run(const Binding& binding);

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }
  FileVersion weights_version() const { return weights_.version(); }

 private:
  friend class Binding;

  std::string name_;
  MappedFile weights_;
  std::vector<Value> tensors_;  // the weights, in place
  ActivationMemory activations_;
  Handle<abi::Session, &abi::Api::ReleaseSession> session_;
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
};

// The buffers of a session's inputs and outputs. Binding a name again replaces its buffer.
class Binding {
 public:
  explicit Binding(Session& session);

  // The library keeps a reference to the value, but not to its memory.
  void bind_input(const char* name, const Value& value);
  void bind_output(const char* name, const Value& value);

 private:
  friend class Session;

  Handle<abi::IoBinding, &abi::Api::ReleaseIoBinding> binding_;
};

}  // namespace gpt2fast
