// Attention for one instruction set; see attention_kernel.h.
#include "kernels/attention_kernel.h"

namespace gpt2fast {

AttentionKernel attention_kernel_neon(bool half) { return make_attention_kernel<Neon>(half); }

}  // namespace gpt2fast
