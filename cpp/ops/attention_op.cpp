// CachedAttention as a graph operator. The batch arrays index the cache, so each of them is checked at every
// run.
#include "ops/attention_op.h"

#include <string>

#include "gpt2fast/errors.h"
#include "ops/node_attributes.h"

namespace gpt2fast {

namespace {

enum Input : size_t { kQkv, kSequenceStarts, kSlots, kCachedLengths, kKvCache };

constexpr int64_t kMaxHeads = 1 << 12;
constexpr int64_t kMaxHeadDim = 1 << 12;

[[noreturn]] void refuse(const char* name, int64_t sequence, const std::string& reason) {
  throw ModelError(std::string(name) + " of sequence " + std::to_string(sequence) + " " + reason);
}

}  // namespace

std::vector<InputSpec> AttentionOp::inputs() {
  return {{ElementType::kFloat32},
          {ElementType::kInt32},
          {ElementType::kInt32},
          {ElementType::kInt32},
          {ElementType::kUndefined}};
}

AttentionOp::AttentionOp(const NodeInfo& node, StepContext& context)
    : context_(context),
      shape_{.heads = node.integer("heads", 1, kMaxHeads),
             .head_dim = node.integer("head_dim", 1, kMaxHeadDim),
             .positions = node.integer("positions", 1, kMaxWidth)},
      scale_(node.number("scale")) {
  // Weights are mapped read-only.
  if (node.is_constant(kKvCache)) throw ModelError("kv_cache must be an input, not a constant of the model");
}

void AttentionOp::compute(const NodeContext& node) {
  if (context_.poll != nullptr && (*context_.poll)()) throw Interrupted{};
  int64_t tokens = 0;
  AttentionArguments arguments = read_arguments(node, tokens);
  arguments.y =
      static_cast<float*>(node.output(0, std::array<int64_t, 2>{tokens, shape_.heads * shape_.head_dim}));
  if (tokens == 0) return;
  void* workspace = context_.workspace.reserve(attention_workspace_bytes(arguments, context_.threads));
  cached_attention(arguments, SessionParallel(node, context_.threads), workspace);
}

AttentionArguments AttentionOp::read_arguments(const NodeContext& node, int64_t& tokens) {
  const TensorView qkv = node.input(kQkv);
  require_shape(qkv, "qkv", {-1, 3 * shape_.heads * shape_.head_dim});
  tokens = qkv.dimensions[0];
  const TensorView slots = node.input(kSlots);
  require_shape(slots, "slots", {-1});
  const int64_t sequences = slots.dimensions[0];
  const TensorView starts = node.input(kSequenceStarts);
  require_shape(starts, "sequence_starts", {sequences + 1});
  const TensorView lengths = node.input(kCachedLengths);
  require_shape(lengths, "cached_lengths", {sequences});
  const TensorView cache = node.input(kKvCache);
  require_shape(cache, "kv_cache",
                {-1, 2, shape_.heads, shape_.padded_positions(), shape_.padded_head_dim()});
  if (cache.type != ElementType::kFloat16 && cache.type != ElementType::kFloat32) {
    throw ModelError("kv_cache must hold float16 or float32");
  }

  AttentionArguments arguments;
  arguments.shape = shape_;
  arguments.shape.half = cache.type == ElementType::kFloat16;
  arguments.scale = scale_;
  arguments.sequences = sequences;
  arguments.qkv = qkv.as<const float>();
  arguments.sequence_starts = starts.as<const int32_t>();
  arguments.slots = slots.as<const int32_t>();
  arguments.cached_lengths = lengths.as<const int32_t>();
  arguments.cache = cache.data;
  check_batch(arguments, tokens, cache.dimensions[0]);
  return arguments;
}

void AttentionOp::check_batch(const AttentionArguments& arguments, int64_t tokens, int64_t cache_slots) {
  ++run_;
  const int32_t* starts = arguments.sequence_starts;
  if (starts[0] != 0 || starts[arguments.sequences] != tokens) {
    throw ModelError("sequence_starts must begin with 0 and end with " + std::to_string(tokens));
  }
  for (int64_t i = 0; i < arguments.sequences; ++i) {
    if (starts[i + 1] < starts[i]) refuse("sequence_starts", i, "is after the next one's");
    const int64_t cached = arguments.cached_lengths[i];
    const int64_t added = int64_t{starts[i + 1]} - starts[i];
    if (cached < 0 || cached + added > shape_.positions) {
      refuse("cached_lengths", i,
             "is " + std::to_string(cached) + ", which with " + std::to_string(added) +
                 " more tokens is not in [0, " + std::to_string(shape_.positions) + "]");
    }
    claim_slot(arguments.slots[i], cache_slots);
  }
}

void AttentionOp::claim_slot(int32_t slot, int64_t cache_slots) {
  if (slot < 0 || slot >= cache_slots) {
    throw ModelError("slots must be in [0, " + std::to_string(cache_slots) + "), got " +
                     std::to_string(slot));
  }
  const auto index = static_cast<size_t>(slot);
  if (slot_runs_.size() <= index) slot_runs_.resize(static_cast<size_t>(cache_slots));
  if (slot_runs_[index] == run_)
    throw ModelError("slot " + std::to_string(slot) + " is given to two sequences");
  slot_runs_[index] = run_;
}

}  // namespace gpt2fast
