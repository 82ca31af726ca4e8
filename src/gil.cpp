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

// Calls that have given up Python's lock. Never destroyed: threads may come back from them to the very end.
struct Calls {
  std::mutex mutex;
  std::condition_variable changed;
  int inside = 0;
  bool ending = false;
  std::thread::id ender;
};

// Of threads that the interpreter does not wait for: daemons.
[[noreturn]] void rest_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

Calls& calls() {
  static auto* const all = new ProcessLocal<Calls>;
  return all->get();
}

}  // namespace

Unlocked::Unlocked() : process_(process_generation()) {
  Calls& all = calls();
  std::unique_lock lock(all.mutex);
  if (all.ending && all.ender == std::this_thread::get_id()) {
    throw ClosedError("the program is ending: no model can be used any more");
  }
  const bool too_late = all.ending;
  if (!too_late) ++all.inside;
  lock.unlock();
  release_.emplace();
  if (too_late) rest_for_ever();
}

Unlocked::~Unlocked() {
  // Where a hook has forked, nobody was inside in the child.
  if (process_ == process_generation()) {
    Calls& all = calls();
    std::unique_lock lock(all.mutex);
    --all.inside;
    all.changed.notify_all();
    const bool too_late = all.ending;
    lock.unlock();
    if (too_late) rest_for_ever();
  }
  release_.reset();
}

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
