// Attention for ARM64.
#include "kernels/attention_table.h"
#include "kernels/integer_ops_neon.h"

namespace gpt2fast {

AttentionKernel attention_kernel_neon(CacheFormat format) { return make_attention_kernel<NeonOps>(format); }

}  // namespace gpt2fast
