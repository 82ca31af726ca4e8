// Token plus position embedding, split over tokens.
#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/packing.h"
#include "kernels/shards.h"

namespace gpt2fast {

void embed(WeightFormat format, const uint8_t* table, const float* positions_table, const int32_t* tokens,
           const int32_t* positions, int64_t count, int64_t width, float* y, const Parallel& parallel) {
  // A task of fewer elements costs less to compute than to hand over.
  constexpr int64_t kTaskElements = 4096;
  const int64_t tasks =
      std::clamp<int64_t>(count * width / kTaskElements, 1, 4 * int64_t{parallel.threads()});
  parallel.run(tasks, [&](int64_t task) noexcept {
    const Range own = part(count, task, tasks);
    for (int64_t t = own.begin; t < own.end; ++t) {
      float* row = y + t * width;
      const float* position = positions_table + positions[t] * width;
      unpack_column(format, table, width, tokens[t], row);
      for (int64_t i = 0; i < width; ++i) row[i] += position[i];
    }
  });
}

}  // namespace gpt2fast
