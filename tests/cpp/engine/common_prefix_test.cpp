// How far two token sequences agree.
#include "engine/common_prefix.h"

#include <vector>

#include "support/testing.h"

namespace gpt2fast {
namespace {

using Tokens = std::vector<int32_t>;

TEST(counts_the_leading_tokens_that_agree) {
  CHECK_EQ(common_prefix(Tokens{1, 2, 3}, Tokens{1, 2, 4}), 2);
  CHECK_EQ(common_prefix(Tokens{1, 2, 3}, Tokens{1, 2, 3}), 3);
  CHECK_EQ(common_prefix(Tokens{1, 2, 3}, Tokens{5, 2, 3}), 0);
}

TEST(the_shorter_one_is_the_limit) {
  CHECK_EQ(common_prefix(Tokens{1, 2}, Tokens{1, 2, 3}), 2);
  CHECK_EQ(common_prefix(Tokens{1, 2, 3}, Tokens{1, 2}), 2);
  CHECK_EQ(common_prefix(Tokens{}, Tokens{1}), 0);
  CHECK_EQ(common_prefix(Tokens{}, Tokens{}), 0);
}

}  // namespace
}  // namespace gpt2fast
