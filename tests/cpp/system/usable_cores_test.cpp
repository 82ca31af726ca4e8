// The cores that a process may use follow its affinity.
#include <algorithm>
#include <thread>

#include "gpt2fast/library.h"
#include "support/testing.h"

#ifdef __linux__
#include <sched.h>
#endif

using namespace gpt2fast;

TEST(there_is_a_core_and_no_more_than_the_machine_has) {
  const int cores = usable_cores();
  CHECK(cores >= 1);
  CHECK(cores <= std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
}

#ifdef __linux__
TEST(one_allowed_core_is_one_usable_core) {
  cpu_set_t before;
  CHECK_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++core) {
    if (CPU_ISSET(core, &before)) CPU_SET(core, &one);
  }
  CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  CHECK_EQ(usable_cores(), 1);
  CHECK_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}
#endif
