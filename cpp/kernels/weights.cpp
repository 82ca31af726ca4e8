// Packs weights for the converter.
#include "gpt2fast/weights.h"

#include "kernels/error_feedback.h"
#include "kernels/packing.h"
#include "system/thread_parallel.h"

namespace gpt2fast {

void weight_feedback(const float* moments, int64_t blocks, float* feedback) {
  constexpr int64_t kBlock = kFeedbackRows * kFeedbackRows;
  for (int64_t block = 0; block < blocks; ++block) {
    error_feedback(moments + block * kBlock, feedback + block * kBlock);
  }
}

void pack_weight(WeightFormat format, const float* w, int64_t stride_in, int64_t stride_out,
                 int64_t in_features, int64_t out_features, int threads, uint8_t* packed,
                 const float* feedback) {
  pack_columns(format, w, stride_in, stride_out, in_features, out_features, packed, ThreadParallel(threads),
               feedback);
}

}  // namespace gpt2fast
