// A pool's threads: made, joined, and kept off the caller's core for a while.
#include "ort/worker_threads.h"

#include <atomic>
#include <thread>

#include "support/testing.h"

#ifdef __linux__
#include <sched.h>
#endif

using namespace gpt2fast;

TEST(a_thread_does_its_work_and_is_joined) {
  std::atomic<int> done = 0;
  WorkerThreads threads;
  threads.start(3);  // two of them never get any
  const abi::ThreadHandle handle =
      threads.give([](void* data) { ++*static_cast<std::atomic<int>*>(data); }, &done);
  CHECK(handle != nullptr);
  WorkerThreads::join(handle);
  CHECK_EQ(done.load(), 1);
}

TEST(no_more_work_is_taken_than_there_are_threads) {
  WorkerThreads threads;
  CHECK(threads.give([](void*) {}, nullptr) == nullptr);
}

TEST(without_threads_there_is_nothing_to_place) {
  WorkerThreads threads;
  const OffCallersCore placement(threads);
}

#ifdef __linux__
namespace {

// A thread that tells which cores it may use.
struct Probe {
  std::atomic<int> asked = 0, answered = 0;
  std::atomic<bool> stopped = false;
  cpu_set_t cores;

  static void run(void* data) {
    Probe& probe = *static_cast<Probe*>(data);
    while (!probe.stopped) {
      if (const int asked = probe.asked; asked != probe.answered) {
        sched_getaffinity(0, sizeof probe.cores, &probe.cores);
        probe.answered = asked;
      }
      std::this_thread::yield();
    }
  }

  cpu_set_t ask() {
    const int wanted = ++asked;
    while (answered != wanted) std::this_thread::yield();
    return cores;
  }
};

int first_core(const cpu_set_t& cores) {
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &cores)) return core;
  }
  return -1;
}

}  // namespace

TEST(threads_are_off_the_callers_core_for_as_long_as_asked) {
  cpu_set_t all;
  CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  Probe probe;
  WorkerThreads threads;
  threads.start(1);
  const abi::ThreadHandle handle = threads.give(Probe::run, &probe);
  cpu_set_t own;
  CPU_ZERO(&own);
  CPU_SET(first_core(all), &own);
  CHECK_EQ(sched_setaffinity(0, sizeof own, &own), 0);

  cpu_set_t others = all;
  if (CPU_COUNT(&all) > 1) CPU_CLR(first_core(all), &others);
  {
    const OffCallersCore placement(threads);
    const cpu_set_t seen = probe.ask();
    CHECK(CPU_EQUAL(&seen, &others));
  }
  const cpu_set_t seen = probe.ask();
  CHECK(CPU_EQUAL(&seen, &all));

  CHECK_EQ(sched_setaffinity(0, sizeof all, &all), 0);
  probe.stopped = true;
  WorkerThreads::join(handle);
}
#endif
