// LayerNorm over rows, split over threads.
#include "kernels/layer_norm.h"

#include <algorithm>

#include "kernels/kernel_table.h"
#include "kernels/shards.h"

namespace gpt2fast {

void layer_norm(const float* x, int64_t rows, int64_t width, const float* gamma, const float* beta,
                float epsilon, float* y, const Parallel& parallel, const KernelTable& table) {
  // A task of fewer elements costs less to compute than to hand over.
  constexpr int64_t kTaskElements = 16384;
  const int64_t tasks = std::clamp<int64_t>(rows * width / kTaskElements, 1, 4 * int64_t{parallel.threads()});
  parallel.run(tasks, [&](int64_t task) noexcept {
    const Range own = part(rows, task, tasks);
    for (int64_t row = own.begin; row < own.end; ++row) {
      table.layer_norm_row(x + row * width, width, gamma, beta, epsilon, y + row * width);
    }
  });
}

}  // namespace gpt2fast
