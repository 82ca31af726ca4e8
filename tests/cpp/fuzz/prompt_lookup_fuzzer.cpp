// Drafts from any text: as long as allowed, and each a continuation of an earlier agreement.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "decoding/prompt_lookup.h"
#include "fuzz/fuzz_input.h"

using namespace gpt2fast;
using gpt2fast::testing::FuzzInput;
using gpt2fast::testing::require;

namespace {

// Whether `draft` followed an earlier place that agrees in the last two tokens.
bool follows(const std::vector<int32_t>& text, std::span<const int32_t> draft) {
  std::vector<int32_t> whole = text;
  whole.insert(whole.end(), draft.begin(), draft.end());
  for (size_t place = 2; place < text.size(); ++place) {
    const auto at = whole.begin() + static_cast<std::ptrdiff_t>(place);
    if (std::equal(at - 2, at, text.end() - 2) && std::ranges::equal(draft, std::span(at, draft.size())))
      return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  const int32_t most = input.below(12) - 1, room = input.below(64) - 1;
  std::vector<int32_t> text;
  try {
    PromptLookup lookup(most, room);
    require(most >= 0 && room >= 0, "negative numbers are refused");
    while (!input.empty()) {
      const std::vector<int32_t> tokens = input.tokens(input.below(6), 4);
      const bool fits = text.size() + tokens.size() <= static_cast<size_t>(room);
      try {
        lookup.append(tokens);
        require(fits, "more than the room is refused");
      } catch (const std::length_error&) {
        require(!fits, "what fits is accepted");
        return 0;
      }
      text.insert(text.end(), tokens.begin(), tokens.end());
      const int32_t limit = input.below(16) - 1;
      const auto draft = lookup.propose(limit);
      require(static_cast<int64_t>(draft.size()) <= std::max(0, std::min(limit, most)), "drafts fit");
      require(draft.empty() || follows(text, draft), "a draft continues an earlier place");
      lookup.accept(input.below(static_cast<int32_t>(draft.size()) + 1));
    }
  } catch (const std::invalid_argument&) {
    require(most < 0 || room < 0, "other numbers are accepted");
  }
  return 0;
}
