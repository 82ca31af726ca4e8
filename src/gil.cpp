// Python's lock around long calls.
#include "gil.h"

#include <condition_variable>
#include <mutex>

#include "gpt2fast/engine.h"
#include "gpt2fast/errors.h"

namespace gpt2fast::bindings {

namespace {

// Calls that have given up Python's lock. Never destroyed: threads may come back from them to the very end.
struct Calls {
  std::mutex mutex;
  std::condition_variable changed;
  int inside = 0;
  bool ending = false;
};

Calls& calls() {
  static Calls* const one = new Calls;
  return *one;
}

}  // namespace

Unlocked::Unlocked() {
  Calls& all = calls();
  {
    const std::lock_guard lock(all.mutex);
    if (all.ending) throw ClosedError("the program is ending: no model can be used any more");
    ++all.inside;
  }
  release_.emplace();
}

Unlocked::~Unlocked() {
  release_.reset();
  Calls& all = calls();
  {
    const std::lock_guard lock(all.mutex);
    --all.inside;
  }
  all.changed.notify_all();
}

void end_all_calls() {
  const pybind11::gil_scoped_release release;
  Calls& all = calls();
  {
    const std::lock_guard lock(all.mutex);
    all.ending = true;
  }
  close_all_engines();
  std::unique_lock lock(all.mutex);
  all.changed.wait(lock, [&all] { return all.inside == 0; });
}

}  // namespace gpt2fast::bindings
