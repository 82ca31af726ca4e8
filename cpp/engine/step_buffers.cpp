// The inputs and outputs of a step.
#include "engine/step_buffers.h"

#include <array>
#include <stdexcept>
#include <string>

namespace gpt2fast {

StepBuffers::StepBuffers(Session& session, const KvCache& cache, const Limits& limits)
    : limits_(limits),
      input_ids_(static_cast<size_t>(limits.tokens)),
      positions_(static_cast<size_t>(limits.tokens)),
      sequence_starts_(static_cast<size_t>(limits.sequences) + 1),
      slots_(static_cast<size_t>(limits.sequences)),
      cached_lengths_(static_cast<size_t>(limits.sequences)),
      hidden_rows_(static_cast<size_t>(limits.tokens)),
      logits_rows_(static_cast<size_t>(limits.rows)),
      logits_(static_cast<size_t>(limits.rows * limits.vocabulary) * sizeof(float)),
      maxima_(static_cast<size_t>(limits.rows * maxima_floats(limits.vocabulary)) * sizeof(float)),
      hidden_(static_cast<size_t>(limits.tokens * limits.width) * sizeof(float)),
      scored_tokens_(static_cast<size_t>(limits.tokens)),
      scored_logits_(static_cast<size_t>(limits.tokens)),
      block_maxima_(static_cast<size_t>(limits.tokens * blocks()) * sizeof(float)),
      block_sums_(static_cast<size_t>(limits.tokens * blocks()) * sizeof(float)),
      kv_cache_(Value::tensor(cache.data(), static_cast<size_t>(cache.bytes_per_slot() * cache.slots()),
                              cache.shape().dimensions(cache.slots()), ElementType::kUInt8)),
      binding_(session) {
  binding_.bind_input("kv_cache", kv_cache_);
}

void StepBuffers::check_limits(std::span<const StepPart> parts) const {
  int64_t tokens = 0;
  int64_t rows = 0;
  for (const StepPart& part : parts) {
    tokens += static_cast<int64_t>(part.tokens.size());
    if (part.scored.empty()) rows += static_cast<int64_t>(part.wanted.size());
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
  size_t hidden_row = 0;
  size_t logits_row = 0;
  for (size_t sequence = 0; sequence < parts.size(); ++sequence) {
    const StepPart& part = parts[sequence];
    sequence_starts_[sequence] = static_cast<int32_t>(token);
    slots_[sequence] = static_cast<int32_t>(part.slot);
    cached_lengths_[sequence] = static_cast<int32_t>(part.cached_length);
    const auto wanted = part.scored.empty() ? part.wanted : std::span<const int32_t>();
    for (const int32_t index : wanted) {
      const size_t ahead = part.all_hidden ? static_cast<size_t>(index) : 0;
      logits_rows_[logits_row++] = static_cast<int32_t>(hidden_row + ahead);
      if (!part.all_hidden) hidden_rows_[hidden_row++] = static_cast<int32_t>(token) + index;
    }
    for (size_t i = 0; i < part.tokens.size(); ++i, ++token) {
      if (part.all_hidden) hidden_rows_[hidden_row++] = static_cast<int32_t>(token);
      input_ids_[token] = part.tokens[i];
      positions_[token] = static_cast<int32_t>(part.cached_length) + static_cast<int32_t>(i);
    }
  }
  sequence_starts_[parts.size()] = static_cast<int32_t>(token);
  first_scored_ = static_cast<int64_t>(hidden_row);
  scored_rows_ = add_scored(parts);
  hidden_row += static_cast<size_t>(scored_rows_);
  bind_shapes({static_cast<int64_t>(token), static_cast<int64_t>(parts.size()),
               static_cast<int64_t>(hidden_row), static_cast<int64_t>(logits_row)});
}

// Puts the scored parts' hidden states behind all others, so that they lie together; returns their number.
int64_t StepBuffers::add_scored(std::span<const StepPart> parts) {
  size_t token = 0;
  size_t row = 0;
  for (const StepPart& part : parts) {
    for (size_t i = 0; i < part.scored.size(); ++i, ++row) {
      hidden_rows_[static_cast<size_t>(first_scored_) + row] = static_cast<int32_t>(token) + part.wanted[i];
      scored_tokens_[row] = part.scored[i];
    }
    token += part.tokens.size();
  }
  return static_cast<int64_t>(row);
}

ScoredTokens StepBuffers::scored() {
  return {.rows = scored_rows_,
          .hidden = hidden_.as<float>() + first_scored_ * limits_.width,
          .width = limits_.width,
          .vocabulary = limits_.vocabulary,
          .sums = {.columns = scored_tokens_.data(),
                   .outputs = scored_logits_.data(),
                   .maxima = block_maxima_.as<float>(),
                   .sums = block_sums_.as<float>()}};
}

SummedLogits StepBuffers::summed(int64_t row) const {
  const auto of_row = [&](const ReservedMemory& memory) {
    return std::span<const float>(memory.as<float>() + row * blocks(), static_cast<size_t>(blocks()));
  };
  return {scored_logits_[static_cast<size_t>(row)], of_row(block_maxima_), of_row(block_sums_)};
}

std::span<float> StepBuffers::layer_inputs() {
  const int64_t row = limits_.layers * limits_.width;
  if (layer_inputs_.bytes() == 0) {
    layer_inputs_ = ReservedMemory(static_cast<size_t>(limits_.tokens * row) * sizeof(float));
  }
  return {layer_inputs_.as<float>(), static_cast<size_t>(bound_->tokens * row)};
}

void StepBuffers::bind_shapes(const Counts& counts) {
  if (bound_ == counts) return;
  bound_.reset();  // a failure half-way must not count as a complete binding
  std::vector<Value> values;
  const auto bind_input = [&](const char* name, std::vector<int32_t>& buffer, int64_t count) {
    values.push_back(Value::tensor(buffer.data(), static_cast<size_t>(count) * sizeof(int32_t),
                                   std::array{count}, ElementType::kInt32));
    binding_.bind_input(name, values.back());
  };
  bind_input("input_ids", input_ids_, counts.tokens);
  bind_input("positions", positions_, counts.tokens);
  bind_input("sequence_starts", sequence_starts_, counts.sequences + 1);
  bind_input("slots", slots_, counts.sequences);
  bind_input("cached_lengths", cached_lengths_, counts.sequences);
  bind_input("hidden_rows", hidden_rows_, counts.hidden_rows);
  bind_input("logits_rows", logits_rows_, counts.logits_rows);
  const auto bind_output = [&](const char* name, const ReservedMemory& buffer, int64_t count, int64_t width) {
    values.push_back(Value::tensor(buffer.data(), static_cast<size_t>(count * width) * sizeof(float),
                                   std::array{count, width}, ElementType::kFloat32));
    binding_.bind_output(name, values.back());
  };
  bind_output("logits", logits_, counts.logits_rows, limits_.vocabulary);
  bind_output("logits_maxima", maxima_, counts.logits_rows, maxima_floats(limits_.vocabulary));
  bind_output("hidden", hidden_, counts.hidden_rows, limits_.width);
  step_values_ = std::move(values);
  bound_ = counts;
}

}  // namespace gpt2fast
