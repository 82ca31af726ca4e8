// Stop strings and tables of token bytes of any content, against a search of the whole text.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoding/stop_matcher.h"
#include "fuzz/fuzz_input.h"
#include "gpt2fast/token_bytes.h"

using namespace gpt2fast;
using gpt2fast::testing::FuzzInput;
using gpt2fast::testing::require;

namespace {

// The length of the longest stop string that `text` ends with.
size_t match_at_end(const std::vector<std::string>& stops, const std::string& text) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    if (text.ends_with(stop)) longest = std::max(longest, stop.size());
  }
  return longest;
}

std::shared_ptr<const TokenBytes> token_bytes(FuzzInput& input) {
  std::string data = input.text(static_cast<size_t>(input.below(32)));
  std::vector<int32_t> offsets = {0};
  const int32_t entries = input.below(8);
  for (int32_t i = 0; i < entries; ++i) offsets.push_back(input.take<int8_t>());
  offsets.push_back(static_cast<int32_t>(data.size()));
  const std::vector<int32_t> silent = {input.take<int8_t>()};
  const auto count = static_cast<int32_t>(offsets.size()) - 1;
  const bool valid = std::ranges::is_sorted(offsets) && silent[0] >= 0 && silent[0] < count;
  try {
    auto table = std::make_shared<const TokenBytes>(data, offsets, silent);
    require(valid, "wrong offsets are refused");
    require((*table)[silent[0]].empty() && (*table)[count].empty() && (*table)[-1].empty(), "silence");
    return table;
  } catch (const std::invalid_argument&) {
    require(!valid, "right offsets are accepted");
    return nullptr;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  StopOptions options;
  options.token_bytes = token_bytes(input);
  options.include_stop_string = input.below(2) == 1;
  options.stop_begins_in_prompt = input.below(2) == 1;
  const int32_t stops = input.below(6);
  for (int32_t i = 0; i < stops; ++i) {
    options.stop_strings.push_back(input.text(1 + static_cast<size_t>(input.below(8))));
    if (options.stop_strings.back().empty()) return 0;
  }
  if (stops == 0 || options.token_bytes == nullptr) return 0;
  const std::vector<int32_t> prompt = input.tokens(input.below(8), 9);
  StopMatcher matcher = *stop_matcher_for(options, prompt);

  std::string text;
  if (options.stop_begins_in_prompt) {
    for (const int32_t token : prompt) text += (*options.token_bytes)[token];
  }
  const size_t before = text.size();
  bool stopped = false;
  int64_t kept = 0, safe = 0;
  while (!input.empty()) {
    const std::string token = input.text(static_cast<size_t>(input.below(6)));
    for (const char byte : token) {
      if (stopped) break;
      text += byte;
      const size_t match = match_at_end(options.stop_strings, text);
      stopped = match > 0;
      const size_t end = text.size() - (options.include_stop_string ? 0 : match);
      kept = static_cast<int64_t>(std::max(before, end) - before);
    }
    require(matcher.feed(token) == stopped, "it stops where a stop string ends");
    require(matcher.kept_bytes() == kept, "what is kept");
    require(matcher.safe_bytes() >= safe && matcher.safe_bytes() <= kept, "what is safe");
    safe = matcher.safe_bytes();
  }
  return 0;
}
