// CachedAttention as a graph operator. The batch's arrays index the cache, so they are checked at every run.
#include "ops/attention_op.h"

#include <algorithm>
#include <array>
#include <string>

#include "gpt2fast/errors.h"
#include "ops/node_attributes.h"

namespace gpt2fast {

namespace {

// The bytes of a slot of kMaxWidth positions fit 64 bits.
constexpr int64_t kMaxLayers = 1 << 11;
constexpr int64_t kMaxHeads = 1 << 12;
constexpr int64_t kMaxHeadDim = 1 << 12;

[[noreturn]] void refuse(const char* name, int64_t sequence, const std::string& reason) {
  throw ModelError(std::string(name) + " of sequence " + std::to_string(sequence) + " " + reason);
}

}  // namespace

std::vector<InputSpec> AttentionOp::inputs() {
  return {{ElementType::kFloat32}, {ElementType::kInt32}, {ElementType::kInt32},
          {ElementType::kInt32},   {ElementType::kUInt8}, {ElementType::kInt32, true}};
}

AttentionOp::AttentionOp(const NodeInfo& node, StepContext& context)
    : context_(context),
      shape_{.layers = node.integer("layers", 1, kMaxLayers),
             .heads = node.integer("heads", 1, kMaxHeads),
             .head_dim = node.integer("head_dim", 1, kMaxHeadDim),
             .positions = node.integer("positions", 1, kMaxWidth)},
      layer_(node.integer("layer", 0, shape_.layers - 1)),
      scale_(node.number("scale")) {
  // The operator writes into the cache, so it must not be one of the model's constants.
  has_hidden_rows_ = node.has_input(kHiddenRows);
  if (node.is_constant(kKvCache)) throw ModelError("kv_cache must be an input, not a constant of the model");
}

void AttentionOp::compute(const NodeContext& node) {
  context_.check_interrupt();
  int64_t tokens = 0;
  AttentionArguments arguments = read_arguments(node, tokens);
  arguments.y =
      static_cast<float*>(node.output(0, std::array<int64_t, 2>{tokens, shape_.heads * shape_.head_dim}));
  if (tokens == 0) return;
  const WorkspaceParts workspace =
      context_.workspace.reserve(attention_workspace(arguments, context_.pool.threads(), context_.kernels));
  cached_attention(arguments, context_.pool, workspace, context_.kernels);
}

AttentionArguments AttentionOp::read_arguments(const NodeContext& node, int64_t& tokens) {
  const auto integers = [&](InputIndex index, const char* name) {
    return node.input(index, name, ElementType::kInt32);
  };
  const Input qkv = node.input(kQkv, "qkv");
  tokens = qkv.rows(3 * shape_.heads * shape_.head_dim);
  const Input slots = integers(kSlots, "slots");
  const Input starts = integers(kSequenceStarts, "sequence_starts");
  starts.require_elements(slots.elements + 1);
  const Input lengths = integers(kCachedLengths, "cached_lengths");
  lengths.require_elements(slots.elements);
  const Input cache = node.input(kKvCache, "kv_cache", ElementType::kUInt8);
  shape_.format = context_.cache_format;
  const int64_t cache_slots = cache.rows(shape_.slot_bytes());

  AttentionArguments arguments;
  arguments.shape = shape_;
  arguments.scale = scale_;
  arguments.sequences = slots.elements;
  arguments.qkv = qkv.as<float>();
  arguments.sequence_starts = starts.as<int32_t>();
  arguments.slots = slots.as<int32_t>();
  arguments.cached_lengths = lengths.as<int32_t>();
  arguments.cache = static_cast<char*>(cache.data) + layer_ * shape_.layer_stride();
  check_batch(arguments, tokens, cache_slots);
  if (has_hidden_rows_) find_wanted(arguments, integers(kHiddenRows, "hidden_rows"));
  return arguments;
}

void AttentionOp::find_wanted(AttentionArguments& arguments, const Input& hidden_rows) {
  const int32_t* starts = arguments.sequence_starts;
  const int32_t* end = starts + arguments.sequences + 1;
  wanted_begins_.assign(starts, end - 1);
  wanted_ends_.assign(starts, end - 1);
  for (int64_t i = 0; i < hidden_rows.elements; ++i) {
    const int32_t row = hidden_rows.as<int32_t>()[i];
    if (row < 0 || row >= end[-1]) {
      throw ModelError("hidden_rows must be in [0, " + std::to_string(end[-1]) + "), got " +
                       std::to_string(row));
    }
    const auto sequence = static_cast<size_t>(std::upper_bound(starts, end, row) - starts - 1);
    const bool first = wanted_ends_[sequence] == starts[sequence];
    wanted_begins_[sequence] = first ? row : std::min(wanted_begins_[sequence], row);
    wanted_ends_[sequence] = std::max(wanted_ends_[sequence], row + 1);
  }
  arguments.wanted_begins = wanted_begins_.data();
  arguments.wanted_ends = wanted_ends_.data();
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
