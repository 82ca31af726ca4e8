// Python's lock around long calls.
#include "gil.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "gpt2fast/engine.h"
#include "gpt2fast/errors.h"
#include "gpt2fast/process_local.h"

namespace gpt2fast::bindings {

namespace {

// Calls that have released Python's lock. Never destroyed, since threads may return from them until the very
// end.
struct Calls {
  std::mutex mutex;
  std::condition_variable changed;
  int inside = 0;
  bool ending = false;
  std::thread::id ender;
};

// Where daemon threads, for which the interpreter does not wait, stay until the process is gone.
[[noreturn]] void park_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Hooks that this thread is running, one within another.
thread_local int hooks_of_thread = 0;

Calls& calls() {
  static auto* const all = new ProcessLocal<Calls>;
  return all->get();
}

}  // namespace

Unlocked::Unlocked(AtTheEnd at_the_end) : process_(process_generation()) {
  Calls& all = calls();
  std::unique_lock lock(all.mutex);
  const bool too_late = all.ending;
  if (too_late && (hooks_of_thread > 0 || all.ender == std::this_thread::get_id())) {
    if (at_the_end == AtTheEnd::kKeepLock) return;
    throw ClosedError("the program is ending: no model can be used any more");
  }
  if (!too_late) ++all.inside;
  lock.unlock();
  release_.emplace();
  if (too_late) park_for_ever();
}

Unlocked::~Unlocked() {
  if (!release_) return;
  if (process_ != process_generation()) {  // a hook has forked: in the child nobody was inside
    release_.reset();
    return;
  }
  Calls& all = calls();
  std::unique_lock lock(all.mutex);
  const bool too_late = all.ending && hooks_of_thread == 0;
  if (!too_late) {
    lock.unlock();
    release_.reset();  // the thread still counts as inside, so the interpreter does not end meanwhile
    lock.lock();
  }
  --all.inside;
  all.changed.notify_all();
  lock.unlock();
  if (too_late) park_for_ever();
}

void stay_if_ending() {
  Calls& all = calls();
  {
    const std::lock_guard lock(all.mutex);
    if (!all.ending || hooks_of_thread > 0 || all.ender == std::this_thread::get_id()) return;
  }
  const pybind11::gil_scoped_release release;
  park_for_ever();
}

LockedForHook::LockedForHook() { ++hooks_of_thread; }

LockedForHook::~LockedForHook() { --hooks_of_thread; }

void end_all_calls() {
  const pybind11::gil_scoped_release release;
  Calls& all = calls();
  {
    const std::lock_guard lock(all.mutex);
    all.ending = true;
    all.ender = std::this_thread::get_id();
  }
  close_all_engines();
  std::unique_lock lock(all.mutex);
  all.changed.wait(lock, [&all] { return all.inside == 0; });
}

}  // namespace gpt2fast::bindings
