// The int4 search for one instruction set; see packing_int4_kernel.h.
#include "kernels/packing_int4_kernel.h"

namespace gpt2fast {

void try_int4_scales_neon(const float* w, Int4Trials& trials) {
  try_int4_scales<Vec<Neon>, kLanes>(w, trials);
}

}  // namespace gpt2fast
