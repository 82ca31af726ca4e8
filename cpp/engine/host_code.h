// Marks a thread that runs the host program's own code on behalf of an engine: a hook, a signal handler.
#pragma once

#include <stdexcept>

namespace gpt2fast {

class HostCode {
 public:
  explicit HostCode(const void* engine) : engine_(engine), outer_(innermost()) { innermost() = this; }
  ~HostCode() { innermost() = outer_; }
  HostCode(const HostCode&) = delete;
  HostCode& operator=(const HostCode&) = delete;

  // Whether this thread is running such code for the engine.
  static bool is_run_by(const void* engine) {
    const HostCode* scope = innermost();
    while (scope != nullptr && scope->engine_ != engine) scope = scope->outer_;
    return scope != nullptr;
  }
  // Throws if such code uses the engine that waits for it, which would be a deadlock.
  static void refuse(const void* engine) {
    if (!is_run_by(engine)) return;
    throw std::runtime_error(
        "a logits processor, constraint or signal handler must not use the model that is running it; load "
        "the model a second time for that");
  }

 private:
  static const HostCode*& innermost() {
    static thread_local const HostCode* scope = nullptr;
    return scope;
  }

  const void* engine_;
  const HostCode* outer_;
};

}  // namespace gpt2fast
