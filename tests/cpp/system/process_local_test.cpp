// What a process has of its own after fork().
#include "gpt2fast/process_local.h"

#include <atomic>
#include <thread>
#include <vector>

#include "support/testing.h"

#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace gpt2fast {
namespace {

struct Counted {
  Counted() { ++made; }
  ~Counted() { ++destroyed; }
  int value = 0;

  static std::atomic<int> made;
  static std::atomic<int> destroyed;
};
std::atomic<int> Counted::made = 0;
std::atomic<int> Counted::destroyed = 0;

TEST(a_process_has_one_value_which_goes_with_its_owner) {
  const int made = Counted::made;
  const int destroyed = Counted::destroyed;
  {
    ProcessLocal<Counted> local;
    CHECK_EQ(Counted::made - made, 0);
    local.get().value = 5;
    CHECK_EQ(local.get().value, 5);
    CHECK_EQ(Counted::made - made, 1);
  }
  CHECK_EQ(Counted::destroyed - destroyed, 1);
  {
    const ProcessLocal<Counted> unused;
  }
  CHECK_EQ(Counted::made - made, 1);
}

TEST(threads_that_ask_first_at_once_get_the_same) {
  ProcessLocal<Counted> local;
  std::vector<Counted*> found(4);
  std::vector<std::thread> threads;
  for (Counted*& one : found) threads.emplace_back([&] { one = &local.get(); });
  for (std::thread& thread : threads) thread.join();
  for (const Counted* one : found) CHECK(one == found[0]);
}

#ifndef _WIN32

// Whether `works` is true in a child process.
template <typename Works>
bool in_child(Works works) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(works() ? 0 : 1);
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(a_child_is_another_generation) {
  const uint64_t own = process_generation();
  CHECK_EQ(process_generation(), own);
  CHECK(in_child([own] { return process_generation() != own; }));
  CHECK(in_child([own] {
    const uint64_t child = process_generation();
    return in_child([&] { return process_generation() != child && process_generation() != own; });
  }));
  CHECK_EQ(process_generation(), own);
}

TEST(a_child_makes_a_value_of_its_own_and_leaves_its_parents) {
  ProcessLocal<Counted> local;
  Counted& own = local.get();
  own.value = 5;
  const int destroyed = Counted::destroyed;
  CHECK(in_child([&] {
    const bool fresh = &local.get() != &own && local.get().value == 0;
    local.get().value = 7;
    return fresh && local.get().value == 7 && own.value == 5 && Counted::destroyed == destroyed;
  }));
  CHECK(&local.get() == &own);
  CHECK_EQ(local.get().value, 5);
}

TEST(a_child_that_never_asks_destroys_nothing) {
  CHECK(in_child([] {
    auto local = std::make_unique<ProcessLocal<Counted>>();
    local->get();
    return in_child([&] {
      const int destroyed = Counted::destroyed;
      local.reset();
      return Counted::destroyed == destroyed;
    });
  }));
}

#endif

}  // namespace
}  // namespace gpt2fast
