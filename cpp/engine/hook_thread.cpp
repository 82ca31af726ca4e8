// Runs the hooks of calls that no thread waits for.
#include "engine/hook_thread.h"

#include <utility>

#include "engine/engine_thread.h"
#include "engine/host_code.h"
#include "gpt2fast/process_local.h"

namespace gpt2fast {

bool run_hooks(Call& call, const WithHostLock& with_host_lock, const void* engine) {
  if (!call.mailbox.has_hooks()) return false;
  const HostCode scope(engine);
  const auto run_all = [&call, process = process_generation()] {
    for (HookWork* work : call.mailbox.take_hooks()) {
      try {
        work->run_hook();
      } catch (...) {
        if (process != process_generation()) throw;
        call.fail(std::current_exception());
      }
    }
  };
  if (with_host_lock) {
    with_host_lock(run_all);
  } else {
    run_all();
  }
  return true;
}

HookThread::HookThread(WithHostLock with_host_lock, const void* engine, std::function<void()> finished)
    : with_host_lock_(std::move(with_host_lock)), engine_(engine), finished_(std::move(finished)) {}

HookThread::~HookThread() { close(); }

void HookThread::add(std::shared_ptr<Call> call) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    calls_.push_back(std::move(call));
  }
  changed_.notify_one();
}

void HookThread::let_go(std::shared_ptr<Call> call) noexcept {
  try {
    add(std::move(call));
  } catch (const std::exception&) {
    call.reset();  // the system grants no thread, or no memory, and the call has gone with add()
  }
}

void HookThread::close() {
  std::vector<std::shared_ptr<Call>> left;  // destroyed without the lock
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    left.swap(calls_);
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void HookThread::run() {
  const EngineThread mark;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closed_ || !calls_.empty(); });
    if (closed_) return;
    std::vector<std::shared_ptr<Call>> calls = std::exchange(calls_, {});
    lock.unlock();
    for (const auto& call : calls) {
      if (run_hooks(*call, with_host_lock_, engine_)) finished_();
    }
    calls.clear();
    lock.lock();
  }
}

}  // namespace gpt2fast
