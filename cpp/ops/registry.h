// The operators of domain "gpt2fast", and the state that those of one session share.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "gpt2fast/cache_format.h"
#include "gpt2fast/errors.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kernels/workspace.h"
#include "ort/custom_op.h"
#include "system/thread_pool.h"

namespace gpt2fast {

// Scratch memory that the operators of a session use one after another. It grows to the largest step seen and
// is kept.
class Workspace {
 public:
  // Returns at least that many parts of that many bytes, valid until the next call. A part lies in the same
  // place at every call unless the workspace grows.
  WorkspaceParts reserve(const WorkspaceSize& size);

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  std::unique_ptr<void, Free> memory_;
  WorkspaceSize size_ = {};
};

// The step's tokens of which log-probabilities are wanted and nothing else.
struct ScoredTokens {
  int64_t rows = 0;
  const float* hidden = nullptr;  // [rows, width], where the graph has written them when it comes to its head
  int64_t width = 0;
  int64_t vocabulary = 0;
  OutputSums sums{};  // to be filled in; columns within the vocabulary
};

// Set by the engine before a step and read by the operators during it; a session runs one step at a time.
struct StepContext {
  // Called once per layer, and more often while many rows are computed; if it returns true, Session::run
  // throws Interrupted.
  const std::function<bool()>* poll = nullptr;
  void check_interrupt() const {
    if (poll != nullptr && (*poll)()) throw Interrupted{};
  }
  // For the Linear that reports maxima, the model's head.
  ScoredTokens scored{};
  // Where a step that is to give them puts the hidden states before each layer, [layers, tokens, n_embd];
  // else empty.
  // NOLINTNEXTLINE(readability-redundant-member-init): initializers leave it out
  std::span<float> layer_inputs = {};
  ThreadPool pool{1};
  CacheFormat cache_format = CacheFormat::kFloat32;
  const KernelTable& kernels = gpt2fast::kernels();
  Workspace workspace{};
};

// `context` must outlive the registry, and the registry the sessions that use its domain.
class OpRegistry {
 public:
  explicit OpRegistry(StepContext& context);

  const CustomOpDomain& domain() const { return domain_; }

 private:
  CustomOpDomain domain_;
};

}  // namespace gpt2fast
