// The bytes of tokens: slices of one string, silent tokens, ids beyond the table, offsets that don't fit.
#include "gpt2fast/token_bytes.h"

#include <stdexcept>
#include <string_view>

#include "support/testing.h"

namespace gpt2fast {
namespace {

using Ids = std::vector<int32_t>;

TEST(tokens_are_slices_of_the_data) {
  const TokenBytes table("abc<end>", {0, 1, 1, 3, 8}, Ids{});
  CHECK(table[0] == "a");
  CHECK(table[1].empty());
  CHECK(table[2] == "bc");
  CHECK(table[3] == "<end>");
}

TEST(silent_tokens_and_those_beyond_the_table_have_no_bytes) {
  const TokenBytes table("abc<end>", {0, 1, 1, 3, 8}, Ids{3});
  CHECK(table[2] == "bc");
  CHECK(table[3].empty());
  CHECK(table[4].empty());
  CHECK(table[1'000'000].empty());
}

TEST(bytes_may_be_anything) {
  const TokenBytes table(std::string("\0\xff", 2), {0, 1, 2}, Ids{});
  CHECK(table[0] == std::string_view("\0", 1));
  CHECK(table[1] == "\xff");
}

TEST(offsets_that_do_not_fit_are_refused) {
  CHECK_THROWS(TokenBytes("ab", {}, Ids{}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {1, 2}, Ids{}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {0, 1}, Ids{}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {0, 3}, Ids{}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {0, 2, 1, 2}, Ids{}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {0, -1, 2}, Ids{}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {0, 1, 2}, Ids{2}), std::invalid_argument);
  CHECK_THROWS(TokenBytes("ab", {0, 1, 2}, Ids{-1}), std::invalid_argument);
}

}  // namespace
}  // namespace gpt2fast
