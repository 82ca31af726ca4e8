// The clock of deadlines.
#include "engine/clock.h"

#include "support/testing.h"

namespace gpt2fast {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(a_deadline_lies_its_time_ahead) {
  const auto before = Clock::now();
  const auto deadline = deadline_after(0.25);
  const auto after = Clock::now();
  CHECK(before + milliseconds(250) <= deadline && deadline <= after + milliseconds(250));
}

TEST(a_time_limit_of_any_length_is_understood) {
  CHECK(deadline_after(0) == kNever);
  CHECK(deadline_after(-1) == kNever);
  CHECK(deadline_after(1e300) > Clock::now() + seconds(100'000'000));
  CHECK(deadline_after(1e300) < kNever);
}

}  // namespace
}  // namespace gpt2fast
