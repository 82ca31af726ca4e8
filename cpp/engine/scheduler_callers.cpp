// Who runs the scheduler's loop: a caller that waits alone, or the scheduler's own thread.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "engine/engine_thread.h"
#include "engine/host_code.h"
#include "engine/room.h"
#include "engine/scheduler.h"
#include "gpt2fast/errors.h"
#include "gpt2fast/process_local.h"

namespace gpt2fast {

namespace {

// The loop's thread hands the loop over to a single caller after this many turns. If it did so earlier, calls
// in quick succession would make the loop change threads all the time.
constexpr int64_t kLoneTurns = 16;

int64_t shortest_prompt(const Call& call) {
  int64_t shortest = kNoPrompt;
  for (const auto& participant : call.participants) {
    shortest = std::min(shortest, participant->prompt_length());
  }
  return shortest;
}

}  // namespace

Scheduler::Scheduler(StepRunner& runner, const EngineOptions& options)
    : runner_(runner),
      options_(options),
      slots_(runner.cache(), options.prefix_cache_bytes),
      budget_(runner.max_tokens(), options.decode_slowdown),
      plan_(runner.max_tokens(), runner.max_logits_rows(), slots_.size()),
      waker_(std::make_shared<Waker>([this] { wake(); })),
      hooks_(options.with_host_lock, this, [this] { wake(); }) {
  const auto slots = static_cast<size_t>(slots_.size());
  live_.reserve(slots);
  holders_.reserve(slots);
  planned_.reserve(slots);
  prompts_.reserve(slots);
  displaced_.reserve(slots);
  counters_.slots.set(slots_.size());
  counters_.free_slots.set(slots_.free());
}

Scheduler::~Scheduler() {
  close();
  waker_->disconnect();
}

void Scheduler::submit(const std::shared_ptr<Call>& call, bool bounded) {
  HostCode::refuse(this);
  const int64_t shortest = shortest_prompt(*call);
  const std::lock_guard lock(mutex_);
  if (closed_) throw ClosedError("the model is closed");
  if (bounded) check_room_locked();
  make_room_for(incoming_, 1);
  make_room_for(active_, 1);
  incoming_.push_back(call);
  active_.push_back(call);
  if (loop_has_work_locked()) {
    try {
      start_loop_locked();
    } catch (...) {  // no thread, or no memory for one
      incoming_.pop_back();
      active_.pop_back();
      throw;
    }
    if (!call->held) {
      woken_ = true;
      loop_changed_.notify_one();
    }
  }
  shortest_incoming_ = std::min<int64_t>(shortest_incoming_, shortest);
  counters_.calls.add(1);
  for (const auto& participant : call->participants) count_waiting(*participant, 1);
}

// Counts a text that begins to wait for its first slot (1), or waits no more (-1).
void Scheduler::count_waiting(const Participant& participant, int64_t change) {
  counters_.waiting.add(change);
  counters_.waiting_slots.add(change * participant.slots_needed());
}

// Texts are counted by the slots that they need, so each beam of a search is one.
void Scheduler::check_room_locked() {
  if (options_.max_waiting < 0) return;
  const int64_t queued = counters_.waiting_slots.get() - counters_.free_slots.get();
  if (queued < 0 || queued < options_.max_waiting) return;
  counters_.refused.add(1);
  throw BusyError(std::to_string(std::max<int64_t>(0, queued)) +
                  " texts wait for a slot already, and max_waiting is " +
                  std::to_string(options_.max_waiting) +
                  ": try again later, or load the model with a larger max_waiting or max_sequences");
}

void Scheduler::wait(Call& call, bool or_progress, const InterruptCheck& interrupted) {
  struct Awaited {
    Scheduler& scheduler;
    Call& call;
    const uint64_t process = process_generation();
    ~Awaited() {
      if (process != process_generation()) return;  // a hook has forked, and the call is the parent's
      call.awaited = false;
      // No thread runs these hooks now, and others may wait for their texts' slots.
      if (call.mailbox.has_hooks()) scheduler.wake();
    }
  } const awaited{*this, call};
  call.awaited = true;
  if (call.has_hooks || call.held) wake();  // its texts may have been waiting for this thread
  InterruptGuard guard(interrupted, this);
  for (;;) {
    const uint64_t seen = call.mailbox.nudges();
    if (call.mailbox.finished() || (or_progress && call.mailbox.has_progress())) return;
    if (run_hooks(call, options_.with_host_lock, this)) {
      wake();
      continue;
    }
    if (guard()) throw Interrupted();
    Clock::time_point until = kNever;
    if (try_drive(call)) {
      bool advanced = false;
      try {
        advanced = turn(&guard);
        if (!advanced) until = next_deadline_;
      } catch (...) {
        stop_driving(&call);
        throw;
      }
      stop_driving(&call);
      if (advanced) continue;
    }
    if (interrupted) until = std::min(until, Clock::now() + kInterruptInterval);
    call.mailbox.wait_until(until, or_progress, seen);
  }
}

void Scheduler::settle(Call& call) {
  if (!HostCode::is_run_by(this)) {
    wait(call, false, {});
    return;
  }
  // The loop may be waiting for the signal handler or hook that gives the call up, or in which Python's
  // garbage collector does. It then has another call, so it has a thread of its own, which ends this one.
  call.attended = false;
  wake();
}

void Scheduler::wake() {
  look_at_waiting_ = true;
  const std::lock_guard lock(mutex_);
  woken_ = true;
  if (is_lone_locked()) active_.front()->mailbox.nudge();
  loop_changed_.notify_one();
}

void Scheduler::clear_prefix_cache() {
  HostCode::refuse(this);
  // A thread that drives clears the cache at its next turn, without stopping.
  std::unique_lock lock(mutex_);
  clear_wanted_ = true;
  driver_changed_.wait(lock, [this] { return !driving_ || !clear_wanted_; });
  if (!clear_wanted_) return;
  driving_ = true;
  lock.unlock();
  clear_if_wanted();
  stop_driving(nullptr);
}

// Whether there is one call, and its own thread runs the loop.
bool Scheduler::is_lone_locked() const { return active_.size() == 1 && active_.front()->attended; }

bool Scheduler::loop_has_work_locked() const {
  if (closed_) return !active_.empty();
  return !active_.empty() && (!is_lone_locked() || (loop_.joinable() && lone_turns_ < kLoneTurns));
}

bool Scheduler::try_drive(const Call& call) {
  const std::lock_guard lock(mutex_);
  if (driving_ || loop_has_work_locked() || active_.empty() || active_.front().get() != &call) return false;
  driving_ = true;
  return true;
}

void Scheduler::stop_driving(const Call* own) {
  const std::lock_guard lock(mutex_);
  driving_ = false;
  if (loop_has_work_locked()) {
    woken_ = true;
    loop_changed_.notify_one();
  } else if (is_lone_locked() && active_.front().get() != own) {
    active_.front()->mailbox.nudge();  // its thread found the loop taken, and no other thread runs it
  } else if (closed_) {
    loop_changed_.notify_one();  // the loop's thread waits for the last call to end
  }
  driver_changed_.notify_all();
}

void Scheduler::start_loop_locked() {
  if (loop_.joinable()) return;
  try {
    loop_ = std::thread([this] { run_loop(); });
  } catch (const std::system_error&) {
    throw std::runtime_error(
        "the system grants no thread for the engine's loop: end other programs, or raise the limit of "
        "processes and threads (ulimit -u, the container's pids)");
  }
}

void Scheduler::run_loop() {
  const EngineThread mark;
  std::unique_lock lock(mutex_);
  Clock::time_point deadline = kNever;
  for (;;) {
    const auto ready = [this] {
      return (closed_ && active_.empty()) || (!driving_ && woken_ && loop_has_work_locked());
    };
    if (deadline == kNever) {
      loop_changed_.wait(lock, ready);
    } else {
      loop_changed_.wait_until(lock, deadline, ready);
    }
    if (closed_ && active_.empty()) return;
    if (driving_ || !loop_has_work_locked()) {
      deadline = kNever;
      continue;
    }
    woken_ = false;
    driving_ = true;
    lock.unlock();
    bool advanced = true;
    try {
      advanced = turn(nullptr);
    } catch (...) {
      for (const auto& call : calls_) fail(*call);
    }
    deadline = advanced ? kNever : next_deadline_;
    lock.lock();
    driving_ = false;
    woken_ = woken_ || advanced;
    lone_turns_ = is_lone_locked() ? lone_turns_ + 1 : 0;
    if (is_lone_locked() && !loop_has_work_locked()) active_.front()->mailbox.nudge();
    driver_changed_.notify_all();
  }
}

void Scheduler::close(bool quietly) {
  const auto error = std::make_exception_ptr(ClosedError("the model was closed"));
  bool is_refused = false;
  {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
      closed_ = true;
      for (const auto& call : active_) quietly ? call->cancel() : call->fail(error);
      woken_ = true;
      try {
        if (!active_.empty()) start_loop_locked();
      } catch (const std::exception&) {
        is_refused = true;
      }
    }
    loop_changed_.notify_one();
  }
  if (is_refused) run_loop();  // on this thread, as there is no other
  const std::lock_guard closing(closing_mutex_);
  if (loop_.joinable()) loop_.join();
  hooks_.close();
}

}  // namespace gpt2fast
