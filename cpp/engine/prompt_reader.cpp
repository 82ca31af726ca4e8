// Reads one prompt into its slot, in as many steps as it needs.
#include "engine/prompt_reader.h"

#include <algorithm>
#include <mutex>

namespace gpt2fast {

void read_prompt(Stepper& stepper, int64_t slot, std::span<const int32_t> prompt, int64_t cached_length,
                 const InterruptCheck& stop, const std::function<void(std::span<const float> scores)>& use) {
  std::span<const int32_t> rest = prompt.subspan(static_cast<size_t>(cached_length));
  while (!rest.empty()) {
    const auto count = std::min(rest.size(), static_cast<size_t>(stepper.max_tokens()));
    const int32_t last = static_cast<int32_t>(count) - 1;
    const bool reaches_end = count == rest.size();
    const StepPart part{slot, cached_length, rest.first(count),
                        reaches_end ? std::span(&last, 1) : std::span<const int32_t>()};
    const std::lock_guard lock(stepper.mutex());
    stepper.step({&part, 1}, stop);
    cached_length += static_cast<int64_t>(count);
    rest = rest.subspan(count);
    if (reaches_end) use(stepper.logits(0));
  }
}

}  // namespace gpt2fast
