// The int4 search for one instruction set; see packing_int4_kernel.h.
#include "kernels/packing_int4_kernel.h"

namespace gpt2fast {

void try_int4_scales_avx2(const float* w, Int4Trials& trials) {
  try_int4_scales<Vec<Avx2>, kLanes>(w, trials);
}

}  // namespace gpt2fast
