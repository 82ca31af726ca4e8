// Which of many calls are ready: keys, a file descriptor for event loops, a wait for threads.
#include "engine/ready_queue.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gpt2fast/errors.h"
#include "support/testing.h"

#ifndef _WIN32
#include <poll.h>
#include <sys/resource.h>
#endif

namespace gpt2fast {
namespace {

using Keys = std::vector<uint64_t>;

TEST(keys_are_taken_once_each) {
  PipeQueue queue;
  CHECK(queue.take().empty());
  for (const uint64_t key : {3, 1, 3, 2}) queue.put(key);
  CHECK(queue.take() == (Keys{3, 1, 2}));
  CHECK(queue.take().empty());
  queue.put(3);
  CHECK(queue.take() == (Keys{3}));
}

#ifndef _WIN32

bool readable(PipeQueue& queue) {
  pollfd descriptor{.fd = queue.file_descriptor(), .events = POLLIN, .revents = 0};
  return ::poll(&descriptor, 1, 0) == 1;
}

TEST(too_many_open_files_are_an_error_and_the_queue_works) {
  PipeQueue queue;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit none{.rlim_cur = 0, .rlim_max = limit.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  CHECK_THROWS(queue.file_descriptor(), std::runtime_error);
  ::setrlimit(RLIMIT_NOFILE, &limit);
  queue.put(1);
  CHECK(readable(queue));
  CHECK(queue.take() == (Keys{1}));
}

TEST(the_descriptor_is_readable_while_there_are_keys) {
  PipeQueue queue;
  CHECK(!readable(queue));
  queue.put(1);
  CHECK(readable(queue));
  queue.put(2);
  queue.take();
  CHECK(!readable(queue));
  queue.put(2);
  CHECK(readable(queue));
  CHECK_EQ(queue.file_descriptor(), queue.file_descriptor());
}

TEST(a_descriptor_asked_for_late_tells_of_earlier_keys) {
  PipeQueue queue;
  queue.put(1);
  CHECK(readable(queue));
  queue.take();
  CHECK(!readable(queue));
}

#endif

TEST(a_key_wakes_who_waits) {
  PipeQueue queue;
  std::thread other([&] { queue.put(7); });
  queue.wait({});
  CHECK(queue.take() == (Keys{7}));
  other.join();
  std::thread another([&] { queue.put(8); });
  queue.wait([] { return false; });
  CHECK(queue.take() == (Keys{8}));
  another.join();
}

TEST(closing_wakes_who_waits) {
  PipeQueue queue;
  std::thread other([&] { queue.close(); });
  queue.wait({});
  queue.wait([] { return false; });
  other.join();
  CHECK(queue.take().empty());
}

TEST(a_wait_can_be_interrupted) {
  PipeQueue queue;
  int asked = 0;
  CHECK_THROWS(queue.wait([&] { return ++asked == 2; }), Interrupted);
  CHECK_EQ(asked, 2);
}

TEST(no_key_is_lost_between_threads) {
  constexpr uint64_t kWriters = 4, kEach = 200;
  PipeQueue queue;
  std::vector<std::thread> writers;
  for (uint64_t writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      for (uint64_t i = 0; i < kEach; ++i) queue.put(writer * kEach + i);
    });
  }
  std::vector<bool> seen(kWriters * kEach);
  uint64_t count = 0;
  while (count < kWriters * kEach) {
    queue.wait({});
    for (const uint64_t key : queue.take()) {
      CHECK(!seen[key]);
      seen[key] = true;
      ++count;
    }
  }
  for (std::thread& writer : writers) writer.join();
  CHECK(queue.take().empty());
}

}  // namespace
}  // namespace gpt2fast
