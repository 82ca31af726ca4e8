// The choice among the instruction sets' tables.
#include "kernels/kernel_table.h"

#include "kernels/isa/tables.h"

namespace gpt2fast {

const KernelTable& kernels(Isa isa) {
  switch (isa) {
#if defined(GPT2FAST_HAVE_AMX)
    case Isa::kAmxInt8:
      return kernels_amx();
#endif
#if defined(GPT2FAST_HAVE_AVX512_BF16)
    case Isa::kAvx512Bf16:
      return kernels_avx512_bf16();
#endif
#if defined(GPT2FAST_HAVE_AVX512)
    case Isa::kAvx512Vnni:
      return kernels_avx512();
#endif
#if defined(GPT2FAST_HAVE_AVX_VNNI)
    case Isa::kAvxVnni:
      return kernels_avx_vnni();
#endif
#if defined(GPT2FAST_HAVE_AVX2)
    case Isa::kAvx2:
      return kernels_avx2();
#endif
#if defined(GPT2FAST_HAVE_NEON_I8MM)
    case Isa::kNeonI8mm:
      return kernels_neon_i8mm();
#endif
#if defined(GPT2FAST_HAVE_NEON)
    case Isa::kNeonDot:
      return kernels_neon();
#endif
    default:
      return kernels_portable();
  }
}

const KernelTable& kernels() {
  static const KernelTable& active = kernels(active_isa());
  return active;
}

}  // namespace gpt2fast
