// The operators of domain "gpt2fast".
#include "ops/registry.h"

#include <algorithm>
#include <new>

#include "ops/attention_op.h"
#include "ops/embed_op.h"
#include "ops/layer_norm_op.h"
#include "ops/linear_op.h"

namespace gpt2fast {

namespace {

constexpr std::align_val_t kWorkspaceAlignment{64};

template <typename Op>
std::unique_ptr<CustomOp> make_op(const char* name, StepContext& context, size_t optional_outputs = 0) {
  return std::make_unique<CustomOp>(name, Op::inputs(), optional_outputs,
                                    [&context](const NodeInfo& node) -> std::unique_ptr<Kernel> {
                                      return std::make_unique<Op>(node, context);
                                    });
}

}  // namespace

WorkspaceParts Workspace::reserve(const WorkspaceSize& size) {
  if (size.parts > size_.parts || size.bytes > size_.bytes) {
    constexpr size_t kLine = 64;
    const WorkspaceSize grown = {std::max(size.parts, size_.parts),
                                 (std::max(size.bytes, size_.bytes) + kLine - 1) / kLine * kLine};
    memory_.reset();  // first, so that both never exist at once
    size_ = {};
    memory_.reset(::operator new(static_cast<size_t>(grown.parts) * grown.bytes, kWorkspaceAlignment));
    size_ = grown;
  }
  return {static_cast<uint8_t*>(memory_.get()), size_.bytes};
}

void Workspace::Free::operator()(void* memory) const { ::operator delete(memory, kWorkspaceAlignment); }

OpRegistry::OpRegistry(StepContext& context) : domain_("gpt2fast") {
  domain_.add(make_op<EmbedOp>("Embed", context));
  domain_.add(make_op<LinearOp>("Linear", context, LinearOp::kOptionalOutputs));
  domain_.add(make_op<AttentionOp>("CachedAttention", context));
  domain_.add(make_op<LayerNormOp>("LayerNorm", context));
}

}  // namespace gpt2fast
