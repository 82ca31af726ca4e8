// The inputs and outputs of a step.
#include "engine/step_buffers.h"

#include <array>
#include <stdexcept>
#include <string>

#include "engine/stepper.h"

namespace gpt2fast {

StepBuffers::StepBuffers(Session& session, const KvCache& cache, const Limits& limits)
    : limits_(limits),
      input_ids_(static_cast<size_t>(limits.tokens)),
      positions_(static_cast<size_t>(limits.tokens)),
      sequence_starts_(static_cast<size_t>(limits.sequences) + 1),
      slots_(static_cast<size_t>(limits.sequences)),
      cached_lengths_(static_cast<size_t>(limits.sequences)),
      logits_rows_(static_cast<size_t>(limits.rows)),
      logits_(static_cast<size_t>(limits.rows * limits.vocabulary) * sizeof(float)),
      hidden_(static_cast<size_t>(limits.tokens * limits.width) * sizeof(float)),
      binding_(session) {
  const CacheShape& shape = cache.shape();
  const std::array<int64_t, 5> dimensions = {cache.slots(), 2, shape.heads, shape.padded_positions(),
                                             shape.padded_head_dim()};
  const ElementType type = shape.half ? ElementType::kFloat16 : ElementType::kFloat32;
  for (int64_t i = 0; i < cache.layers(); ++i) {
    kv_values_.push_back(Value::tensor(
        cache.layer(i), static_cast<size_t>(shape.slot_bytes() * cache.slots()), dimensions, type));
    binding_.bind_input(("kv_cache." + std::to_string(i)).c_str(), kv_values_.back());
  }
}

void StepBuffers::check_limits(std::span<const StepPart> parts) const {
  int64_t tokens = 0;
  int64_t rows = 0;
  for (const StepPart& part : parts) {
    tokens += static_cast<int64_t>(part.tokens.size());
    rows += static_cast<int64_t>(part.wanted.size());
  }
  if (tokens > limits_.tokens || rows > limits_.rows ||
      static_cast<int64_t>(parts.size()) > limits_.sequences) {
    throw std::logic_error("a step of " + std::to_string(tokens) + " tokens, " + std::to_string(rows) +
                           " rows and " + std::to_string(parts.size()) +
                           " sequences is larger than its buffers");
  }
}

void StepBuffers::fill(std::span<const StepPart> parts) {
  check_limits(parts);
  size_t token = 0;
  size_t row = 0;
  for (size_t sequence = 0; sequence < parts.size(); ++sequence) {
    const StepPart& part = parts[sequence];
    sequence_starts_[sequence] = static_cast<int32_t>(token);
    slots_[sequence] = static_cast<int32_t>(part.slot);
    cached_lengths_[sequence] = static_cast<int32_t>(part.cached_length);
    for (const int32_t index : part.wanted) logits_rows_[row++] = static_cast<int32_t>(token) + index;
    for (size_t i = 0; i < part.tokens.size(); ++i, ++token) {
      input_ids_[token] = part.tokens[i];
      positions_[token] = static_cast<int32_t>(part.cached_length) + static_cast<int32_t>(i);
    }
  }
  sequence_starts_[parts.size()] = static_cast<int32_t>(token);
  bind_shapes(static_cast<int64_t>(token), static_cast<int64_t>(parts.size()), static_cast<int64_t>(row));
}

void StepBuffers::bind_shapes(int64_t tokens, int64_t sequences, int64_t rows) {
  if (tokens == bound_tokens_ && sequences == bound_sequences_ && rows == bound_rows_) return;
  bound_tokens_ = -1;  // so that a failure half-way is not taken for a complete binding
  std::vector<Value> values;
  const auto bind_input = [&](const char* name, std::vector<int32_t>& buffer, int64_t count) {
    values.push_back(Value::tensor(buffer.data(), static_cast<size_t>(count) * sizeof(int32_t),
                                   std::array{count}, ElementType::kInt32));
    binding_.bind_input(name, values.back());
  };
  bind_input("input_ids", input_ids_, tokens);
  bind_input("positions", positions_, tokens);
  bind_input("sequence_starts", sequence_starts_, sequences + 1);
  bind_input("slots", slots_, sequences);
  bind_input("cached_lengths", cached_lengths_, sequences);
  bind_input("logits_rows", logits_rows_, rows);
  const auto bind_output = [&](const char* name, const ReservedMemory& buffer, int64_t count, int64_t width) {
    values.push_back(Value::tensor(buffer.data(), static_cast<size_t>(count * width) * sizeof(float),
                                   std::array{count, width}, ElementType::kFloat32));
    binding_.bind_output(name, values.back());
  };
  bind_output("logits", logits_, rows, limits_.vocabulary);
  bind_output("hidden", hidden_, tokens, limits_.width);
  step_values_ = std::move(values);
  bound_tokens_ = tokens;
  bound_sequences_ = sequences;
  bound_rows_ = rows;
}

}  // namespace gpt2fast
