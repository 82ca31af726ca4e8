// A waker, before and after its loop is gone.
#include "engine/waker.h"

#include "support/testing.h"

namespace gpt2fast {
namespace {

TEST(a_waker_wakes_until_it_is_disconnected) {
  int woken = 0;
  Waker waker([&] { ++woken; });
  waker.wake();
  waker.wake();
  CHECK_EQ(woken, 2);
  waker.disconnect();
  waker.wake();
  CHECK_EQ(woken, 2);
}

}  // namespace
}  // namespace gpt2fast
