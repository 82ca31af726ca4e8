// A caller's Python functions in the choice of a token.
#pragma once

#include <memory>

#include "bindings.h"
#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

// `allowed_tokens(output) -> uint32 array or None`; `process_scores(prompt, output, scores)`, which changes
// the float32 array `scores` [vocab_size] in place, and `is_complete(output) -> bool`; any may be None. All
// are called with Python's lock held.
std::shared_ptr<ChoiceHook> make_choice_hook(const py::object& allowed_tokens,
                                             const py::object& process_scores, const py::object& is_complete);

}  // namespace gpt2fast::bindings
