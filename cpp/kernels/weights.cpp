// Packs weights for the converter.
#include "gpt2fast/weights.h"

#include "kernels/packing.h"
#include "system/thread_parallel.h"

namespace gpt2fast {

void pack_weight(WeightFormat format, const float* w, int64_t stride_in, int64_t stride_out,
                 int64_t in_features, int64_t out_features, int threads, uint8_t* packed) {
  pack_columns(format, w, stride_in, stride_out, in_features, out_features, packed, ThreadParallel(threads));
}

}  // namespace gpt2fast
