// Stop strings: every way to cut a text into tokens, against a search of the whole text.
#include "decoding/stop_matcher.h"

#include <algorithm>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoding/random.h"
#include "support/testing.h"

using namespace gpt2fast;

namespace {

using Strings = std::vector<std::string>;

// Bytes kept of `text`, by looking at each end and each stop string; -1 when none occurs.
int64_t kept_by_search(const Strings& stops, const std::string& text, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return static_cast<int64_t>(include ? end : end - longest);
  }
  return -1;
}

// The longest end of `text` that begins a stop string.
int64_t held_back_by_search(const Strings& stops, const std::string& text) {
  size_t held = 0;
  for (const std::string& stop : stops) {
    for (size_t length = 1; length < stop.size() && length <= text.size(); ++length) {
      if (text.compare(text.size() - length, length, stop, 0, length) == 0) held = std::max(held, length);
    }
  }
  return static_cast<int64_t>(held);
}

}  // namespace

TEST(finds_a_stop_string_across_tokens) {
  const Strings stops = {"\n\nUser:"};
  StopMatcher matcher(stops, false);
  CHECK(!matcher.feed("Yes.\n"));
  CHECK_EQ(matcher.safe_bytes(), 4);
  CHECK(!matcher.feed("\nUs"));
  CHECK_EQ(matcher.safe_bytes(), 4);
  CHECK_EQ(matcher.kept_bytes(), 8);
  CHECK(matcher.feed("er: more"));
  CHECK_EQ(matcher.kept_bytes(), 4);
  CHECK_EQ(matcher.safe_bytes(), 4);
}

TEST(a_stop_string_may_begin_before_the_output) {
  const Strings stops = {"User:", "x"};
  for (const bool include : {false, true}) {
    StopMatcher matcher(stops, include);
    matcher.pass("x User: U");
    matcher.pass("s");
    CHECK(!matcher.stopped());
    CHECK_EQ(matcher.safe_bytes(), 0);
    CHECK(!matcher.feed("er"));
    CHECK_EQ(matcher.kept_bytes(), 2);
    CHECK_EQ(matcher.safe_bytes(), include ? 2 : 0);
    CHECK(matcher.feed(": b"));
    CHECK_EQ(matcher.kept_bytes(), include ? 3 : 0);
    CHECK_EQ(matcher.safe_bytes(), include ? 3 : 0);
  }
  StopMatcher matcher(stops, false);
  matcher.pass("Use");
  CHECK(!matcher.feed("ful User"));
  CHECK_EQ(matcher.safe_bytes(), 4);
  CHECK(matcher.feed(":"));
  CHECK_EQ(matcher.kept_bytes(), 4);
}

TEST(releases_what_does_not_complete) {
  const Strings stops = {"abc"};
  StopMatcher matcher(stops, false);
  matcher.feed("xab");
  CHECK_EQ(matcher.safe_bytes(), 1);
  matcher.feed("ab");
  CHECK_EQ(matcher.safe_bytes(), 3);
  matcher.feed("d");
  CHECK_EQ(matcher.safe_bytes(), 6);
}

TEST(keeps_an_included_stop_string_to_its_end) {
  const Strings stops = {"</s>"};
  StopMatcher matcher(stops, true);
  matcher.feed("hi</");
  CHECK_EQ(matcher.safe_bytes(), 4);
  CHECK(matcher.feed("s>tail"));
  CHECK_EQ(matcher.kept_bytes(), 6);
}

TEST(the_first_to_end_wins_then_the_longest) {
  const Strings nested = {"b", "abc"};
  StopMatcher first(nested, false);
  CHECK(first.feed("xabc"));
  CHECK_EQ(first.kept_bytes(), 2);
  const Strings same_end = {"c", "abc", "bc"};
  StopMatcher longest(same_end, false);
  CHECK(longest.feed("xabc"));
  CHECK_EQ(longest.kept_bytes(), 1);
}

TEST(takes_nothing_after_a_match) {
  const Strings stops = {"."};
  StopMatcher matcher(stops, false);
  CHECK(matcher.feed("one. two."));
  CHECK(matcher.feed("three"));
  CHECK_EQ(matcher.kept_bytes(), 3);
}

TEST(bytes_may_be_anything) {
  const Strings stops = {std::string("\0\xff", 2), "\xe2\x80"};
  StopMatcher matcher(stops, false);
  CHECK(!matcher.feed(std::string_view("a\0", 2)));
  CHECK_EQ(matcher.safe_bytes(), 1);
  CHECK(matcher.feed("\xff"));
  CHECK_EQ(matcher.kept_bytes(), 1);
}

TEST(without_stop_strings_everything_is_safe) {
  StopMatcher matcher({}, false);
  CHECK(!matcher.feed("anything"));
  CHECK_EQ(matcher.safe_bytes(), 8);
}

TEST(options_say_whether_a_stop_string_may_begin_in_the_prompt) {
  const std::vector<int32_t> prompt = {1, 0};
  StopOptions options;
  CHECK(!stop_matcher_for(options, prompt));
  options.stop_strings = {"ba"};
  CHECK_THROWS(stop_matcher_for(options, prompt), std::invalid_argument);
  options.token_bytes = std::make_shared<TokenBytes>("bxa", std::vector<int32_t>{0, 1, 2, 3}, prompt);
  CHECK(!stop_matcher_for(options, prompt)->feed("a"));  // these tokens have no bytes
  options.token_bytes =
      std::make_shared<TokenBytes>("bxa", std::vector<int32_t>{0, 1, 2, 3}, std::span<const int32_t>{});
  CHECK(stop_matcher_for(options, prompt)->feed("a"));
  options.stop_begins_in_prompt = false;
  CHECK(!stop_matcher_for(options, prompt)->feed("a"));
}

TEST(an_empty_stop_string_is_refused) {
  const Strings stops = {"a", ""};
  CHECK_THROWS(StopMatcher(stops, false), std::invalid_argument);
}

TEST(agrees_with_a_search_of_the_text_however_it_is_cut) {
  uint64_t step = 0;
  const auto below = [&step](int bound) { return static_cast<int>(uniform_draw(11, step++) * bound); };
  const auto random_text = [&](int length) {
    std::string text;
    for (int i = 0; i < length; ++i) text += static_cast<char>('a' + below(2));
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    Strings stops;
    for (int i = 0; i <= below(4); ++i) stops.push_back(random_text(1 + below(6)));
    const std::string text = random_text(30);
    const bool include = below(2) == 0;
    const int64_t expected = kept_by_search(stops, text, include);
    StopMatcher matcher(stops, include);
    int64_t safe = 0;
    size_t fed = 0;
    while (fed < text.size() && !matcher.stopped()) {
      const std::string token = text.substr(fed, static_cast<size_t>(below(4)));
      fed += token.size();
      matcher.feed(token);
      CHECK(matcher.safe_bytes() >= safe);
      safe = matcher.safe_bytes();
      if (matcher.stopped()) continue;
      const int64_t held = include ? 0 : held_back_by_search(stops, text.substr(0, fed));
      CHECK_EQ(safe, static_cast<int64_t>(fed) - held);
    }
    CHECK_EQ(matcher.stopped(), expected >= 0);
    if (expected >= 0) {
      CHECK_EQ(matcher.kept_bytes(), expected);
      CHECK(safe <= expected);
    }
  }
}
