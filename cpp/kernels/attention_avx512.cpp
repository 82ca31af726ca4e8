// Attention for AVX-512 with VNNI.
#include "kernels/attention_table.h"
#include "kernels/integer_ops_avx512.h"

namespace gpt2fast {

AttentionKernel attention_kernel_avx512(CacheFormat format) {
  return make_attention_kernel<Avx512Ops>(format);
}

}  // namespace gpt2fast
