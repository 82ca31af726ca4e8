// The tables of kernels, each filled in the translation unit that is compiled for its instruction set.
#pragma once

#include "kernels/kernel_table.h"

namespace gpt2fast {

const KernelTable& kernels_portable();
const KernelTable& kernels_neon();
const KernelTable& kernels_neon_i8mm();
const KernelTable& kernels_avx2();
const KernelTable& kernels_avx_vnni();
const KernelTable& kernels_avx512();
const KernelTable& kernels_avx512_bf16();
const KernelTable& kernels_amx();

}  // namespace gpt2fast
