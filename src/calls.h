// A call inside the engine as Python holds it: what it refers to, and how its results are read.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "bindings.h"
#include "gil.h"
#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

class PythonCall {
 public:
  // `keep`: Python objects whose memory the call uses. `results` is called when the call is done.
  PythonCall(std::unique_ptr<CallHandle> call, std::function<py::object()> results)
      : call_(std::move(call)), results_(std::move(results)) {}
  PythonCall(std::unique_ptr<CallHandle> call, std::function<py::object()> results, const py::object& keep)
      : PythonCall(std::move(call), std::move(results)) {
    call_->keep(std::shared_ptr<const void>(new py::object(keep), [](const void* object) {
      const py::gil_scoped_acquire acquire;  // the engine's thread may be the last to let go
      delete static_cast<const py::object*>(object);
    }));
  }
  virtual ~PythonCall() { reset_unlocked(call_); }
  PythonCall(const PythonCall&) = delete;
  PythonCall& operator=(const PythonCall&) = delete;

  void wait() {
    const InterruptCheck check = interrupt_check();
    unlocked([&] { call_->wait(check); });
  }
  void begin() { call_->begin(); }
  bool done() {
    stay_if_ending();
    return call_->done();
  }
  void cancel() { call_->cancel(); }
  void close() {
    const Unlocked scope(Unlocked::AtTheEnd::kKeepLock);
    call_->close();
  }
  py::object results() {
    if (!done()) throw std::logic_error("the call is not done: wait() for it first");
    return results_();
  }

 protected:
  std::unique_ptr<CallHandle> call_;

 private:
  std::function<py::object()> results_;
};

class PythonGeneration final : public PythonCall {
 public:
  explicit PythonGeneration(std::unique_ptr<GenerationCall> call);

  // Tuples of Progress's fields.
  py::list take();
  py::list next();

 private:
  GenerationCall& generation() { return static_cast<GenerationCall&>(*call_); }
};

// Log-probabilities of the chosen tokens [tokens], ids of the likeliest [tokens, k], and theirs [tokens, k].
py::tuple as_arrays(const Logprobs& values);

void register_calls(py::module_& module);

}  // namespace gpt2fast::bindings
