// A loaded model, and the buffers bound to its inputs and outputs.
#pragma once

#include <string>
#include <vector>

#include "ort/activation_memory.h"
#include "ort/custom_op.h"
#include "ort/library.h"
#include "ort/value.h"
#include "ort/worker_threads.h"

namespace gpt2fast {

struct SessionOptions {
  int threads = 1;  // those that make a step, the calling thread included
};

class Binding;

class Session {
 public:
  // Loads a model, whose weights are mapped from the file. `operators` must outlive the session. Throws
  // ModelError when the file is missing or is not a model that we can run.
  Session(const std::string& model_path, const SessionOptions& options, const CustomOpDomain& operators);

  // Throws Interrupted when an operator did, ModelError when one failed. Only one thread may call it at a
  // time.
  void run(const Binding& binding);

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }

 private:
  friend class Binding;

  ActivationMemory activations_;
  WorkerThreads workers_;
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
