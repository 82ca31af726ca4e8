// Hooks that run outside the loop: under the host's lock, marked as the host's code, errors to their own
// call.
#include "engine/hook_thread.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine_thread.h"
#include "engine/host_code.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

struct Work final : HookWork {
  explicit Work(std::function<void()> body) : body(std::move(body)) {}
  void run_hook() override { body(); }
  std::function<void()> body;
};

std::shared_ptr<Call> call_with(const std::vector<HookWork*>& hooks) {
  auto call = std::make_shared<Call>(std::vector<std::unique_ptr<Participant>>{}, CallOptions{}, false);
  for (HookWork* hook : hooks) call->mailbox.put_hook(hook);
  return call;
}

// Counts, and waits for a count.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    ++rung_;
    changed_.notify_all();
  }
  void wait_for(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return rung_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int rung_ = 0;
};

TEST(all_hooks_of_a_call_run_under_one_lock) {
  const int engine = 0;
  int locks = 0;
  bool locked = false;
  const WithHostLock with_lock = [&](const std::function<void()>& body) {
    ++locks;
    locked = true;
    body();
    locked = false;
  };
  int ran = 0;
  Work work([&] {
    ran += locked ? 1 : 0;
    CHECK_THROWS(HostCode::refuse(&engine), std::runtime_error);
  });
  const auto call = call_with({&work, &work});
  CHECK(run_hooks(*call, with_lock, &engine));
  CHECK_EQ(ran, 2);
  CHECK_EQ(locks, 1);
  CHECK(!call->mailbox.has_hooks());
  CHECK(!run_hooks(*call, with_lock, &engine));
  CHECK_EQ(locks, 1);
  HostCode::refuse(&engine);
}

TEST(an_error_fails_the_call_and_the_other_hooks_still_run) {
  int ran = 0;
  Work bad([] { throw std::out_of_range("bad"); });
  Work good([&] { ++ran; });
  const auto call = call_with({&bad, &good});
  CHECK(run_hooks(*call, {}, nullptr));
  CHECK_EQ(ran, 1);
  CHECK_THROWS(std::rethrow_exception(call->error()), std::out_of_range);
}

TEST(the_thread_runs_what_is_added) {
  const int engine = 0;
  Bell finished;
  HookThread hooks({}, &engine, [&] { finished.ring(); });
  std::thread::id ran_on;
  bool marked = false;
  Work work([&] {
    ran_on = std::this_thread::get_id();
    marked = EngineThread::is_current();
    CHECK_THROWS(HostCode::refuse(&engine), std::runtime_error);
  });
  for (int i = 1; i <= 3; ++i) {
    hooks.add(call_with({&work}));
    finished.wait_for(i);
  }
  hooks.close();
  CHECK(ran_on != std::this_thread::get_id());
  CHECK(marked);
}

TEST(closing_waits_for_the_running_hook_and_runs_no_other) {
  Bell begun;
  Bell go_on;
  std::atomic<int> ran = 0;
  HookThread hooks({}, nullptr, [] {});
  Work slow([&] {
    begun.ring();
    go_on.wait_for(1);
    ++ran;
  });
  hooks.add(call_with({&slow}));
  begun.wait_for(1);
  std::thread closer([&] { hooks.close(); });
  go_on.ring();
  closer.join();
  CHECK_EQ(ran.load(), 1);
  const auto late = call_with({&slow});
  hooks.add(late);
  CHECK_EQ(late.use_count(), 1);
  CHECK(late->mailbox.has_hooks());
}

TEST(closing_what_never_began_is_harmless) {
  HookThread hooks({}, nullptr, [] {});
  hooks.close();
  hooks.close();
}

}  // namespace
}  // namespace gpt2fast
