// CachedAttention(qkv, sequence_starts, slots, cached_lengths, kv_cache, hidden_rows?): cached_attention() as
// a graph operator that writes into one of its inputs. To the graph the cache is bytes; its format is the
// session's. With hidden_rows, only these tokens' rows of the output are computed, and perhaps some between
// them; the others are undefined.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "ops/registry.h"

namespace gpt2fast {

class AttentionOp final : public Kernel {
 public:
  static std::vector<InputSpec> inputs();

  AttentionOp(const NodeInfo& node, StepContext& context);
  void compute(const NodeContext& node) override;

 private:
  enum InputIndex : size_t { kQkv, kSequenceStarts, kSlots, kCachedLengths, kKvCache, kHiddenRows };

  AttentionArguments read_arguments(const NodeContext& node, int64_t& tokens);
  void check_batch(const AttentionArguments& arguments, int64_t tokens, int64_t cache_slots);
  void find_wanted(AttentionArguments& arguments, const Input& hidden_rows);
  void claim_slot(int32_t slot, int64_t cache_slots);

  StepContext& context_;
  CacheShape shape_;
  int64_t layer_;
  float scale_;
  bool has_hidden_rows_ = false;
  // The first token of each sequence that has a result, and the one behind the last.
  std::vector<int32_t> wanted_begins_;
  std::vector<int32_t> wanted_ends_;
  // The last run that used a slot. So two sequences in one slot are noticed without clearing anything.
  std::vector<uint64_t> slot_runs_;
  uint64_t run_ = 0;
};

}  // namespace gpt2fast
