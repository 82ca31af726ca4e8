// Attention for AVX2.
#include "kernels/attention_table.h"
#include "kernels/integer_ops_avx2.h"

namespace gpt2fast {

AttentionKernel attention_kernel_avx2(CacheFormat format) { return make_attention_kernel<Avx2Ops>(format); }

}  // namespace gpt2fast
