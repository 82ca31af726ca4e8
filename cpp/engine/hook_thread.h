// Runs the hooks of calls that no thread waits for.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/call.h"

namespace gpt2fast {

// Runs the hooks in a call's mailbox: takes the host's lock once, and marks the thread as running host code
// for `engine`. An error ends the call. Returns whether there were any. In a child process that a hook has
// forked, throws what the hook throws: the call is the parent's, and its locks may be held for ever.
bool run_hooks(Call& call, const WithHostLock& with_host_lock, const void* engine);

// A thread that is started when it first gets something to do.
class HookThread {
 public:
  // `finished` is called after the hooks of a call have run.
  HookThread(WithHostLock with_host_lock, const void* engine, std::function<void()> finished);
  ~HookThread();
  HookThread(const HookThread&) = delete;
  HookThread& operator=(const HookThread&) = delete;

  void add(std::shared_ptr<Call> call);
  // Lets go of a finished call, for which the host's lock may be needed. If there is no thread, this one
  // does.
  void let_go(std::shared_ptr<Call> call) noexcept;
  // Waits for the hook that is running; those still waiting are not run.
  void close();

 private:
  void run();

  const WithHostLock with_host_lock_;
  const void* const engine_;
  const std::function<void()> finished_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Call>> calls_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace gpt2fast
