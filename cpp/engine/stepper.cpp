// A loaded model and its step.
#include "engine/stepper.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gpt2fast/errors.h"

namespace gpt2fast {

namespace {

// The rows of logits that one step may have. They bound the logits buffer (128 x 50,257 floats are 26 MB,
// committed only when used) and leave room for every live sequence.
constexpr int64_t kMinLogitsRows = 128;

CacheShape cache_shape(const EngineOptions& options) {
  return {options.n_layer, options.n_head, options.head_dim, options.n_positions, options.cache_format};
}

StepBuffers::Limits buffer_limits(const EngineOptions& options) {
  return {.tokens = options.max_step_tokens,
          .sequences = options.max_sequences,
          .rows = std::max(kMinLogitsRows, options.max_sequences),
          .width = options.n_head * options.head_dim,
          .layers = options.n_layer,
          .vocabulary = options.vocab_size};
}

const TensorInfo& find(const std::vector<TensorInfo>& tensors, const std::string& name) {
  const auto found = std::ranges::find(tensors, name, &TensorInfo::name);
  if (found == tensors.end()) throw ModelError("the model has no input or output named " + name);
  return *found;
}

// Returns the session; throws ModelError unless the graph's sizes are the configuration's.
Session& checked(Session& session, const EngineOptions& options) {
  const auto expect = [](const TensorInfo& tensor, size_t axis, int64_t size) {
    if (tensor.shape.size() > axis && tensor.shape[axis] == size) return;
    throw ModelError("dimension " + std::to_string(axis) + " of the model's " + tensor.name + " should be " +
                     std::to_string(size) + " as the configuration says");
  };
  expect(find(session.outputs(), "logits"), 1, options.vocab_size);
  expect(find(session.outputs(), "logits_maxima"), 1, maxima_floats(options.vocab_size));
  expect(find(session.outputs(), "hidden"), 1, options.n_head * options.head_dim);
  const CacheShape shape = cache_shape(options);
  const TensorInfo& cache = find(session.inputs(), "kv_cache");
  expect(cache, 1, shape.blocks());
  expect(cache, 2, shape.layers);
  expect(cache, 3, shape.heads);
  return session;
}

}  // namespace

Stepper::Stepper(const EngineOptions& options)
    : context_{.poll = nullptr, .pool = ThreadPool(options.threads), .cache_format = options.cache_format},
      operators_(context_),
      cache_(cache_shape(options), options.max_sequences),
      session_(options.model, operators_.domain()),
      buffers_(checked(session_, options), cache_, buffer_limits(options)) {}

void Stepper::step(std::span<const StepPart> parts, const StopCheck& stop) {
  buffers_.fill(parts);
  context_.poll = stop ? &stop : nullptr;
  context_.scored = buffers_.scored();
  const bool layer_inputs = std::ranges::any_of(parts, &StepPart::layer_inputs);
  context_.layer_inputs = layer_inputs ? buffers_.layer_inputs() : std::span<float>();
  const StepThreads awake(context_.pool);
  session_.run(buffers_.binding());
}

}  // namespace gpt2fast
