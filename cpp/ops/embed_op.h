// Embed(input_ids, positions, table, positions_table): embed() as a graph operator.
#pragma once

#include "kernels/linear.h"
#include "ops/registry.h"

namespace gpt2fast {

class EmbedOp final : public Kernel {
 public:
  static std::vector<InputSpec> inputs();

  EmbedOp(const NodeInfo& node, StepContext& context);
  void compute(const NodeContext& node) override;

 private:
  enum InputIndex : size_t { kInputIds, kPositions, kTable, kPositionsTable };

  StepContext& context_;
  WeightFormat format_;
  int64_t width_;
  int64_t vocabulary_;
  int64_t positions_;
  const uint8_t* table_;          // packed, [width -> vocabulary]
  const float* positions_table_;  // [positions, width]
};

}  // namespace gpt2fast
