// Reads one prompt into its slot, in as many steps as it needs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/stepper.h"

namespace gpt2fast {

// Brings a slot from `cached_length` tokens of the prompt to all of them. `use` gets the scores [vocab_size]
// after the last one, while the stepper is locked.
void read_prompt(Stepper& stepper, int64_t slot, std::span<const int32_t> prompt, int64_t cached_length,
                 const InterruptCheck& stop, const std::function<void(std::span<const float> scores)>& use);

}  // namespace gpt2fast
