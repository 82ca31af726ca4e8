// LayerNorm over rows, split over threads.
#include "kernels/layer_norm.h"

#include <algorithm>

#include "kernels/layer_norm_kernel.h"
#include "kernels/shards.h"

namespace gpt2fast {
namespace {

// Fewer elements than this in a task cost less to compute than to hand over.
constexpr int64_t kTaskElements = 16384;

LayerNormRow row_function(Isa isa) {
  switch (isa) {
#if defined(GPT2FAST_HAVE_AVX512)
    case Isa::kAmxInt8:
    case Isa::kAvx512Vnni:
      return layer_norm_row_avx512;
#endif
#if defined(GPT2FAST_HAVE_AVX2)
    case Isa::kAvxVnni:
    case Isa::kAvx2:
      return layer_norm_row_avx2;
#endif
#if defined(GPT2FAST_HAVE_NEON)
    case Isa::kNeonDot:
      return layer_norm_row_neon;
#endif
    default:
      return layer_norm_row_portable;
  }
}

}  // namespace

void layer_norm(const float* x, int64_t rows, int64_t width, const float* gamma, const float* beta,
                float epsilon, float* y, const Parallel& parallel, Isa isa) {
  const LayerNormRow row_function_for_isa = row_function(isa);
  const int64_t tasks = std::clamp<int64_t>(rows * width / kTaskElements, 1, 4 * int64_t{parallel.threads()});
  parallel.run(tasks, [&](int64_t task) noexcept {
    const Range own = part(rows, task, tasks);
    for (int64_t row = own.begin; row < own.end; ++row) {
      row_function_for_isa(x + row * width, width, gamma, beta, epsilon, y + row * width);
    }
  });
}

}  // namespace gpt2fast
