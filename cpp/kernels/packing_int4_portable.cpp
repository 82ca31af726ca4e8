// The int4 search for one instruction set; see packing_int4_kernel.h. Compilers make less of
// vectors in plain C++ than of one lane after the other.
#include "kernels/packing_int4_kernel.h"

namespace gpt2fast {

void try_int4_scales_portable(const float* w, Int4Trials& trials) {
  try_int4_scales<Vec<Scalar>, 1>(w, trials);
}

}  // namespace gpt2fast
