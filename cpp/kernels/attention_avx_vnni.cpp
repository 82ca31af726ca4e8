// Attention for AVX2 with VNNI.
#include "kernels/attention_table.h"
#include "kernels/integer_ops_avx_vnni.h"

namespace gpt2fast {

AttentionKernel attention_kernel_avx_vnni(CacheFormat format) {
  return make_attention_kernel<AvxVnniOps>(format);
}

}  // namespace gpt2fast
