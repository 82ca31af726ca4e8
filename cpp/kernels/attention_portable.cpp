// Attention for plain C++.
#include "kernels/attention_table.h"
#include "kernels/integer_ops_portable.h"

namespace gpt2fast {

AttentionKernel attention_kernel_portable(CacheFormat format) {
  return make_attention_kernel<PortableOps>(format);
}

}  // namespace gpt2fast
