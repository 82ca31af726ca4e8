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
  int threads = 1;  // of one step, the calling thread included
};

class Binding;

class Session {
 public:
  // Loads a model; its weights stay in the file, mapped. `operators` must outlive the session.
  // Throws ModelError when the file is missing or is no model that we can run.
  Session(const std::string& model_path, const SessionOptions& options, const CustomOpDomain& operators);

  // Throws Interrupted when an operator did, ModelError when one failed. Not for two threads at once.
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

// Which buffer each input and output of a session uses. A name that is bound again replaces the one before.
class Binding {
 public:
  explicit Binding(Session& session);

  // The library keeps its own reference to the value, not to the memory behind it.
  void bind_input(const char* name, const Value& value);
  void bind_output(const char* name, const Value& value);

 private:
  friend class Session;

  Handle<abi::IoBinding, &abi::Api::ReleaseIoBinding> binding_;
};

}  // namespace gpt2fast
